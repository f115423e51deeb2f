"""nats-server on a disk that is full for a while: nothing acknowledged is lost, and it works again when there is room."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nats
import nats.errors
import pytest
from tests.support.engines import scratch_home

from headwater.app import own_engines
from headwater.app.engines.account import engine_account, engine_directory
from headwater.app.engines.nats import USER, NATSServer, server_binary
from headwater.app.engines.ports import free_port
from headwater.app.settings import NATSSettings
from headwater.app.supervisor import Supervisor

DISK_BYTES = 48 << 20


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with scratch_home() as home:
        disk = home / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=711", "tmpfs", str(disk)],
            capture_output=True,
            check=False,
        )
        if mounted.returncode != 0:
            pytest.skip("we may not mount a small disk here")
        yield disk
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_it_is_started_again_when_there_is_room(small_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(own_engines, "ROOM_BYTES_MIN", DISK_BYTES // 2)
    account = engine_account()
    directory = engine_directory(small_disk, "nats", account)
    server = NATSServer(server_binary("", account), directory, free_port(), "x", account)
    settings = NATSSettings(url=server.url, user=USER, password="x")
    said: list[str] = []
    supervisor = Supervisor(tmp_path, said.append)
    await supervisor.start([own_engines._nats_program(server, settings)])
    try:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(DISK_BYTES - (12 << 20)))
        client = await nats.connect(server.url_with_password, error_cb=silent, reconnect_time_wait=0.1)
        acknowledged = await publish_until_refused(client)
        assert acknowledged > 10
        ballast.unlink()
        assert await publish_until_stored(client) == acknowledged + 1
        assert any("cannot work any more" in line for line in said)
        await client.close()
    finally:
        await supervisor.stop()


async def publish_until_refused(client: nats.aio.client.Client) -> int:
    """How many were acknowledged."""
    acknowledged = 0
    while True:
        try:
            await client.jetstream().publish("hw.up.0", bytes(100_000), timeout=1)
        except (nats.errors.Error, TimeoutError):
            return acknowledged
        acknowledged += 1


async def publish_until_stored(client: nats.aio.client.Client) -> int:
    """The sequence that the stream gave."""
    async with asyncio.timeout(30):
        while True:
            try:
                return (await client.jetstream().publish("hw.up.0", b"x", timeout=1)).seq
            except (nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.1)


async def silent(_error: Exception) -> None:
    return

"""What the doctor finds, each fault made for real."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import namedtuple
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest

from headwater.app import doctor, gateway, settings
from headwater.app.doctor import examine
from headwater.app.engines.ports import free_port
from headwater.app.probe import answers_http
from headwater.stream.topology import Topology, ensure

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def external(database_urls, nats_url, monkeypatch, tmp_path):
    """Settings that name engines, ports that are free, and a home in which nothing ever ran."""
    for name in list(os.environ):
        if name.startswith("HEADWATER_"):
            monkeypatch.delenv(name)
    address = urlsplit(nats_url)
    settings = {
        "DATABASE_URL": database_urls.app,
        "NATS_URL": f"nats://{address.hostname}:{address.port}",
        "NATS_USER": address.username,
        "NATS_PASSWORD": address.password,
        "GATEWAY_MQTT_PORT": free_port(),
        "GATEWAY_MQTTS_PORT": free_port(),
        "GATEWAY_WS_PORT": free_port(),
        "GATEWAY_WSS_PORT": free_port(),
        "GATEWAY_HTTP_PORT": free_port(),
        "API_HTTP_PORT": free_port(),
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"HEADWATER_{name}", str(value))
    monkeypatch.setattr(doctor, "DISK_FREE_BYTES_MIN", 0)
    monkeypatch.setattr(doctor, "DISK_FREE_SHARE_MIN", 0)
    return tmp_path / "home"


@pytest.fixture
async def with_streams(nats_url):
    client = await nats.connect(nats_url)
    await ensure(client.jetstream(), Topology())
    yield client.jetstream()
    await client.close()


async def codes(home) -> list[str]:
    findings = await examine(home)
    assert all(finding.problem and finding.advice for finding in findings)
    return [finding.code for finding in findings]


async def test_nothing_is_wrong(external, with_streams):
    assert await codes(external) == []


async def test_streams_are_missing(external, with_streams):
    await with_streams.delete_stream("LIVE")
    (finding,) = await examine(external)
    assert finding.code == "stream.missing"
    assert "LIVE" in finding.problem
    assert "headwater migrate" in finding.advice


async def test_the_schema_is_missing(external, with_streams, database_urls, monkeypatch):
    owner = await asyncpg.connect(database_urls.owner)
    await owner.execute("DELETE FROM headwater.migration WHERE name = (SELECT max(name) FROM headwater.migration)")
    await owner.close()
    assert await codes(external) == ["database.not_migrated"]


async def test_engines_do_not_answer(external, monkeypatch):
    monkeypatch.setenv("HEADWATER_DATABASE_URL", f"postgresql://headwater_app:hunter2@127.0.0.1:{free_port()}/headwater")
    monkeypatch.setenv("HEADWATER_NATS_URL", f"nats://127.0.0.1:{free_port()}")
    findings = await examine(external)
    assert [finding.code for finding in findings] == ["engine.unreachable", "engine.unreachable"]
    assert "hunter2" not in repr(findings)


async def test_engines_refuse_us(external, with_streams, monkeypatch):
    monkeypatch.setenv("HEADWATER_DATABASE_URL", os.environ["HEADWATER_DATABASE_URL"].replace("_app:", "_app:x"))
    monkeypatch.setenv("HEADWATER_NATS_PASSWORD", "wrong")
    assert await codes(external) == ["engine.refused", "engine.refused"]


async def test_a_port_is_taken(external, with_streams):
    with socket.create_server(("127.0.0.1", int(os.environ["HEADWATER_GATEWAY_MQTT_PORT"]))):
        (finding,) = await examine(external)
    assert finding.code == "port.taken"
    assert "--mqtt-port" in finding.problem


async def test_a_gateway_that_runs_by_itself_has_its_ports_rightly(external, with_streams):
    stop = asyncio.Event()
    running = asyncio.create_task(gateway.run(settings.read(), stop))
    try:
        async with asyncio.timeout(20):
            while not await answers_http("127.0.0.1", int(os.environ["HEADWATER_GATEWAY_HTTP_PORT"]), "/v1/health"):
                assert not running.done(), running.result()
                await asyncio.sleep(0.02)
        assert await codes(external) == []
        with socket.create_server(("127.0.0.1", int(os.environ["HEADWATER_API_HTTP_PORT"]))):
            (finding,) = await examine(external)
        assert (finding.code, "--http-port" in finding.problem, "--mqtt-port" in finding.problem) == (
            "port.taken",
            True,
            False,
        )
    finally:
        stop.set()
        await running


async def test_a_setting_is_misspelt(external, with_streams, monkeypatch):
    monkeypatch.setenv("HEADWATER_GATEWAY_KEEPALIVE_S_MAX", "60")
    (finding,) = await examine(external)
    assert finding.code == "settings.unknown"
    assert finding.problem == "HEADWATER_GATEWAY_KEEPALIVE_S_MAX is not a setting; HEADWATER_GATEWAY_KEEP_ALIVE_S_MAX is"


async def test_the_disk_is_nearly_full(external, with_streams, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: Usage(100 << 30, 99 << 30, 1 << 30))
    assert "disk.nearly_full" in await codes(external)


@pytest.mark.parametrize("off_s", [-30.0, 30.0])
async def test_a_clock_is_off(external, with_streams, monkeypatch, off_s):
    clock = doctor.time.time
    monkeypatch.setattr(doctor, "time", type("Clock", (), {"time": staticmethod(lambda: clock() - off_s)}))
    findings = await examine(external)
    assert [finding.code for finding in findings] == ["clock.off", "clock.off"]
    assert {f"{off_s:+.0f}"[:3] in finding.problem or "29.9" in finding.problem for finding in findings} == {True}


async def test_too_few_files(external, with_streams, monkeypatch):
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _what: (256, 256))
    assert await codes(external) == ["limit.files_low"]

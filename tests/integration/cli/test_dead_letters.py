"""`headwater dead-letters` against a served API and a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import pytest
import uvicorn
from tests.integration.store.stored import Telemetry
from tests.support.api import api_services, mint_token
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory
from typer.testing import CliRunner, Result

from headwater.api.app import APIServices, create_app
from headwater.cli.dead_letters import app
from headwater.stream import subjects
from headwater.stream.envelope import DeadLetter, encode_dead_letter
from headwater.stream.topology import UPLINK_STREAM, Topology, ensure


@dataclass
class Served:
    url: str
    token: str
    tenant: UUID
    device: UUID
    services: APIServices

    async def run(self, *arguments: str, expect: int = 0) -> Result:
        environ = {"HEADWATER_URL": self.url, "HEADWATER_TOKEN": self.token}
        result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=environ)
        assert result.exit_code == expect, result.output
        return result

    async def keep(self, payload: bytes, topic: str = "v1/devices/me/telemetry") -> str:
        letter = DeadLetter(self.device.bytes, "mqtt", topic, "payload.malformed", "no JSON", 1_777_593_600_000_000, payload)
        assert self.services.jetstream is not None
        return str((await self.services.jetstream.publish(subjects.dead(self.tenant), encode_dead_letter(letter))).seq)


@pytest.fixture
async def served(database_urls: DatabaseURLs, nats_url: str, tenant_factory: TenantFactory) -> AsyncIterator[Served]:
    tenant = await tenant_factory()
    [device] = await Telemetry(database_urls, tenant).devices(1)
    async with api_services(database_urls, nats_url=nats_url) as services:
        assert services.jetstream is not None
        await ensure(services.jetstream, Topology(uplink_bytes_max=1 << 26, dead_bytes_max=1 << 26))
        server = uvicorn.Server(uvicorn.Config(create_app(services), port=0, log_config=None, lifespan="on"))
        running = asyncio.create_task(server.serve())
        while not server.started:
            assert not running.done(), "the API did not start"
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        token = await mint_token(services.database, tenant)
        yield Served(f"http://127.0.0.1:{port}", token, tenant, device, services)
        server.should_exit = True
        await running


async def test_list_and_show(served: Served) -> None:
    text = await served.keep(b'{"t": \x1b[31m}')
    binary = await served.keep(b"\xff\x00AB")
    lines = (await served.run("list")).output.splitlines()
    assert [line.split()[0] for line in lines] == ["NUMBER", binary, text]
    assert "(4 bytes)" in lines[1]
    assert "\x1b" not in lines[2]
    assert [line.split()[0] for line in (await served.run("list", "--oldest-first", "--limit", "1")).output.splitlines()][
        1:
    ] == [text]
    assert (await served.run("list", "--code", "metric.unknown")).output == ""
    shown = (await served.run("show", binary)).output
    assert "payload.malformed" in shown
    assert "ff 00 41 42" in shown
    assert (await served.run("show", "--raw", text)).stdout_bytes == b'{"t": \x1b[31m}'
    assert "dead_letter.not_found" in (await served.run("show", "99", expect=1)).output


async def test_replay_and_delete(served: Served) -> None:
    good = [await served.keep(b'{"t": %d}' % number) for number in range(3)]
    bad = [await served.keep(b"{") for _ in range(2)]
    await served.run("replay", expect=1)
    assert "1 letters replayed, 1 records stored, 0 letters refused" in (await served.run("replay", good[0])).output
    told = (await served.run("replay", "--all", "--device", str(served.device), expect=1)).output
    assert "2 letters replayed, 2 records stored, 2 letters refused and kept" in told
    assert f"{bad[0]}: " in told
    assert served.services.jetstream is not None
    assert (await served.services.jetstream.stream_info(UPLINK_STREAM)).state.messages == 3
    assert "1 letters deleted" in (await served.run("delete", bad[1])).output
    assert "1 letters deleted" in (await served.run("delete", "--all", "--code", "payload.malformed")).output
    assert (await served.run("list")).output == ""

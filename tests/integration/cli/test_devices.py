"""`headwater devices` against a served API."""

from __future__ import annotations

import asyncio
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
import uvicorn
from tests.support.api import api_services, mint_token
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory
from typer.testing import CliRunner, Result

from headwater.api.app import create_app
from headwater.cli.devices import app
from headwater.clock import SystemClock
from headwater.database.session import Database
from headwater.device.authentication import Presented, TokenAuthenticator
from headwater.device.presence import Ended
from headwater.ids import uuid7
from headwater.store.timeline import record
from headwater.stream.timeline import Event, TimelineEntry


class Served:
    def __init__(self, url: str, token: str, database: Database) -> None:
        self.url, self.token, self.database = url, token, database

    async def run(self, *arguments: str | Path, expect: int = 0) -> Result:
        environ = {"HEADWATER_URL": self.url, "HEADWATER_TOKEN": self.token}
        result = await asyncio.to_thread(CliRunner().invoke, app, [str(a) for a in arguments], env=environ)
        assert result.exit_code == expect, result.output
        return result


@pytest.fixture
async def served(database_urls: DatabaseURLs, tenant_factory: TenantFactory) -> AsyncIterator[Served]:
    tenant = await tenant_factory()
    async with api_services(database_urls) as services:
        server = uvicorn.Server(uvicorn.Config(create_app(services), port=0, log_config=None, lifespan="on"))
        running = asyncio.create_task(server.serve())
        while not server.started:
            assert not running.done(), "the API did not start"
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(f"http://127.0.0.1:{port}", await mint_token(services.database, tenant), services.database)
        server.should_exit = True
        await running


async def test_import_writes_credentials_that_work(served: Served, tmp_path: Path) -> None:
    fleet, out = tmp_path / "fleet.csv", tmp_path / "out"
    out.touch(0o644)
    rows = [f"d{n},north" for n in range(4500)]
    rows[7], rows[4321], rows[9] = "bad/id,x", '"two\nlines",x', '"d9","a\nb"'
    fleet.write_text("external_id,labels.site\n" + "\n".join(rows) + "\n")
    result = await served.run("import", fleet, "--credentials", out, expect=1)
    assert (
        "4500 lines: 4498 created, 0 updated, 0 unchanged, 0 already there, 2 bad; 4498 credentials issued" in result.output
    )
    # One record before the second bad one has two lines.
    assert re.findall(r"^line (\d+): external_id", result.output, re.MULTILINE) == ["9", "4324"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    lines = out.read_text().splitlines()
    assert len(lines) == 4498
    for line in (lines[0], lines[-1]):
        client_id, username, password = line.split(" ")
        assert client_id == username == str(UUID(client_id))
        authenticator = TokenAuthenticator(served.database, SystemClock())
        principal = await authenticator.authenticate(Presented(username, password.encode()))
        assert principal is not None
        assert str(principal.device_id) == client_id


async def test_one_device_and_its_token(served: Served) -> None:
    printed = (await served.run("create", "pump-1")).output
    said = re.fullmatch(r"export DEVICE=(\S+)\nexport TOKEN=(\S+)\n", printed)
    assert said is not None, printed
    principal = await TokenAuthenticator(served.database, SystemClock()).authenticate(Presented(said[1], said[2].encode()))
    assert principal is not None
    assert (principal.external_id, str(principal.device_id)) == ("pump-1", said[1])
    again = (await served.run("create", "pump-1", expect=1)).output
    assert "[resource.conflict]; `headwater devices token pump-1` gives it another token" in again
    further = re.fullmatch(r"export DEVICE=(\S+)\nexport TOKEN=(\S+)\n", (await served.run("token", "pump-1")).output)
    assert further is not None
    assert (further[1], further[2] == said[2]) == (said[1], False)
    for token in (said[2], further[2]):
        device = await TokenAuthenticator(served.database, SystemClock()).authenticate(Presented(said[1], token.encode()))
        assert device is not None
        assert str(device.device_id) == said[1]
    assert "there is no device pump-9" in (await served.run("token", "pump-9", expect=1)).output
    assert "reference.unknown" in (await served.run("create", "pump-2", "--profile", "none", expect=1)).output
    assert (await served.run("list")).output.split("\t")[1] == "pump-1"


async def test_import_again(served: Served, tmp_path: Path) -> None:
    fleet, out = tmp_path / "fleet.ndjson", tmp_path / "out"
    fleet.write_bytes(b"".join(msgspec.json.encode({"external_id": f"d{n}"}) + b"\n" for n in range(3)))
    await served.run("import", fleet, "--credentials", out)
    again = await served.run("import", fleet, "--credentials", out)
    assert "line 2: d1: already there; skipped" in again.output
    assert len(out.read_text().splitlines()) == 3
    rotated = await served.run("import", fleet, "--credentials", out, "--rotate")
    assert "line 2: d1: already there; it gets a further credential" in rotated.output
    assert len(out.read_text().splitlines()) == 6
    await served.run("import", fleet, "--rotate", expect=1)


@pytest.mark.parametrize(
    ("content", "word"),
    [("", "empty"), ("name\nx\n", "external_id"), ("external_id,color\nx,y\n", "color")],
)
async def test_import_of_a_useless_file(served: Served, tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "fleet.csv").write_text(content)
    result = await served.run("import", tmp_path / "fleet.csv", expect=1)
    assert word in result.output
    assert "import.invalid" in result.output


async def test_export_reads_back_and_devices_live(served: Served, tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text("external_id,name,attributes.n\na,=1+1,5\nb,B,\n")
    await served.run("import", tmp_path / "fleet.csv")
    await served.run("export", "--out", tmp_path / "out.csv")
    assert "'=1+1" in (tmp_path / "out.csv").read_text()
    result = await served.run("import", tmp_path / "out.csv", "--mode", "upsert")
    assert "2 unchanged" in result.output
    assert len((await served.run("export", "--format", "ndjson", "-q", "name = B")).output.splitlines()) == 1
    assert [line.split("\t")[1] for line in (await served.run("list", "--sort", "-name")).output.splitlines()] == ["b", "a"]
    shown: dict[str, Any] = msgspec.json.decode((await served.run("show", "a")).output)
    assert (shown["name"], shown["attributes"]) == ("=1+1", {"n": 5})
    assert (await served.run("suspend", shown["id"])).output == "a is suspended\n"
    assert (await served.run("resume", "a")).output == "a is registered\n"
    assert (await served.run("decommission", "a", "--yes")).output == "a is decommissioned\n"
    assert "device.decommissioned" in (await served.run("resume", "a", expect=1)).output
    assert "there is no device" in (await served.run("show", 'no"pe', expect=1)).output
    assert "filter.invalid" in (await served.run("list", "-q", "nope", expect=1)).output


async def test_timeline_says_in_words_what_happened(served: Served, tmp_path: Path, database_urls: DatabaseURLs) -> None:
    (tmp_path / "fleet.csv").write_text("external_id\na\n")
    await served.run("import", tmp_path / "fleet.csv")
    assert "nothing has happened to a" in (await served.run("timeline", "a")).output
    device: dict[str, Any] = msgspec.json.decode((await served.run("show", "a")).output)
    writer: Any = await asyncpg.connect(database_urls.writer)
    tenant = await writer.fetchval("SELECT tenant_id FROM device")
    at = 1_780_315_200_000_000
    happenings = [
        (Event.AUTHENTICATION_FAILED, "device.refused", "unknown or wrong token", 3),
        (Event.CONNECTED, "", "", 1),
        (Event.DISCONNECTED, Ended.TAKEN_OVER, "taken over by a new connection", 1),
    ]
    entries = [
        TimelineEntry(
            uuid7().bytes, at + n * 1_000_000, event.value, tenant.bytes, UUID(device["id"]).bytes, code, detail,
            address="203.0.113.7", protocol="mqtt/5", count=count,
        )
        for n, (event, code, detail, count) in enumerate(happenings)
    ]  # fmt: skip
    await record(writer, entries)
    await writer.close()
    told = (await served.run("timeline", "a")).output.splitlines()
    assert told == [
        "2026-06-01 12:00:00  authentication.failed  Refused: unknown or wrong token, from 203.0.113.7 (3 times)",
        "2026-06-01 12:00:01  connected              Connected over MQTT 5, from 203.0.113.7",
        "2026-06-01 12:00:02  disconnected           Disconnected: another connection came with the same client id,"
        " from 203.0.113.7",
    ]
    assert (await served.run("timeline", "a", "--limit", "1")).output.splitlines() == told[-1:]
    assert (await served.run("timeline", "a", "--event", "auth")).output.splitlines() == told[:1]


async def test_without_an_installation(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["list", "--home", str(tmp_path)], env={"HEADWATER_URL": "", "HEADWATER_TOKEN": ""})
    assert result.exit_code == 1
    assert "nothing runs in" in result.output
    result = CliRunner().invoke(app, ["list", "--url", "http://127.0.0.1:1", "--token", "x"])
    assert result.exit_code == 1
    assert "no answer from http://127.0.0.1:1" in result.output

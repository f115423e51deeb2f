"""An installation of a scenario's own: `headwater up` as a program in a temporary home, used through its doors.

Devices are made as anybody makes them, by `headwater devices import`; only positions and rows are read from the engines
directly, because that is what is being checked.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import msgspec

from headwater.app import home_settings
from headwater.app.connections import connect_nats
from headwater.app.engines.ports import free_port
from headwater.app.process import die_with_parent
from headwater.app.settings import PREFIX, Settings
from headwater.database.session import open_pool
from headwater.testing import fleet_provision
from headwater.testing.bench.certificate import Certificate
from headwater.testing.bench.context import Bench, BenchFailed, until

READY_S = 120.0
"""A first start makes a database."""
STOP_S = 60.0
TOLD_CHARACTERS = 3_000
REQUEST_S = 60.0
PORTS = ("http", "mqtt", "mqtts", "ws", "wss", "ingest")
PROFILE = "bench"
METRICS = [
    {"name": "temp", "type": "float", "unit": "Cel", "min": -50, "max": 80},
    {"name": "hum", "type": "float", "unit": "%RH", "min": 0, "max": 100},
    {"name": "press", "type": "float", "unit": "hPa", "min": 300, "max": 1_200},
    {"name": "batt", "type": "float", "unit": "V", "min": 0, "max": 5},
    {"name": "sent_us", "type": "integer", "unit": "us", "min": 0},
]
"""What the load generator sends, declared, so that each value is checked against its type and bounds."""

EVERY_TOPIC = {"publish": ["#"], "subscribe": ["#"]}


class Ready(fleet_provision.Ready):
    tenant_id: str
    mqtts_url: str


class Installation:
    """ready  URLs and tokens, as its ready file has them"""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.home = directory / "home"
        self._directory = directory
        self._bench = bench
        self._output = directory / "output"
        self._ready_file = directory / "ready.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: Ready | None = None

    @property
    def ready(self) -> Ready:
        assert self._ready is not None
        return self._ready

    async def start(self, gateways: int, workers: int, settings: Mapping[str, str], certificate: Certificate | None) -> None:
        argv = [
            sys.executable, "-m", "headwater", "up", "--home", str(self.home), "--ready-json", str(self._ready_file),
            *(w for name in PORTS for w in (f"--{name}-port", str(free_port()))),
            "--gateways", str(gateways), "--workers", str(workers),
        ]  # fmt: skip
        if certificate is not None:
            settings = {
                "GATEWAY_MQTTS_CERT_FILE": str(certificate.file), "GATEWAY_MQTTS_KEY_FILE": str(certificate.key_file),
                **settings,
            }  # fmt: skip
        self._process = self._spawn(argv, {PREFIX + name: value for name, value in settings.items()})
        with suppress(TimeoutError):
            await until(self._has_begun, READY_S)
        if not self._is_ready():
            raise BenchFailed(f"`headwater up` did not become ready:\n{self._said()[-TOLD_CHARACTERS:]}")
        self._ready = msgspec.json.decode(self._ready_file.read_bytes(), type=Ready)
        await self._note_versions()

    def _spawn(self, argv: list[str], settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self._output.open("ab") as output:
            return subprocess.Popen(  # noqa: S603  # ourselves
                argv, cwd="/", env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  # it calls prctl and nothing else
            )  # fmt: skip

    async def _has_begun(self) -> bool:
        """Or ended."""
        assert self._process is not None
        return self._is_ready() or self._process.poll() is not None

    def _is_ready(self) -> bool:
        return self._ready_file.exists() and "Headwater is ready" in self._said()

    def _said(self) -> str:
        return self._output.read_text(errors="replace")

    async def stop(self) -> None:
        """Also what the home keeps elsewhere is removed: its engines' data, where their account cannot reach it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for name in ("postgres", "nats"):
            if (self.home / name).is_symlink():
                shutil.rmtree((self.home / name).resolve().parent, ignore_errors=True)

    async def _note_versions(self) -> None:
        status = msgspec.json.decode(await self.command("status", "--home", str(self.home), "--json"))
        self._bench.versions.update(PostgreSQL=status["postgres_version"], NATS=status["nats_version"])

    # -- its processes ------------------------------------------------------------------------------------------------------

    def programs(self) -> dict[str, int]:
        """name -> pid, `up` itself first"""
        assert self._process is not None
        children = msgspec.json.decode((self.home / "run" / "up.json").read_bytes())["children"]
        return {"up": self._process.pid} | {child["name"]: child["pid"] for child in children if child["pid"]}

    @contextmanager
    def workers_held(self) -> Iterator[None]:
        """Workers stand still: what is measured is the way up to the acknowledgement, and nothing behind the stream."""
        pids = [pid for name, pid in self.programs().items() if name.startswith("worker")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @property
    def mqtt_port(self) -> int:
        return _port_of(self.ready.mqtt_url)

    @property
    def tls_port(self) -> int:
        """Of MQTT over TLS."""
        return _port_of(self.ready.mqtts_url)

    @property
    def tenant_id(self) -> UUID:
        return UUID(self.ready.tenant_id)

    # -- its doors ----------------------------------------------------------------------------------------------------------

    async def command(self, *arguments: str) -> bytes:
        """What `headwater ...` prints. Raises BenchFailed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "headwater", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate()
        if process.returncode:
            raise BenchFailed(f"`headwater {arguments[0]}` failed: {err.decode(errors='replace')[-TOLD_CHARACTERS:]}")
        return out

    @asynccontextmanager
    async def api(self) -> AsyncIterator[aiohttp.ClientSession]:
        headers = {"Authorization": f"Bearer {self.ready.admin_token}"}
        timeout = aiohttp.ClientTimeout(total=REQUEST_S)
        async with aiohttp.ClientSession(f"{self.ready.http_url}/api/v1/", headers=headers, timeout=timeout) as session:
            yield session

    async def devices(self, count: int, *, ordinary: bool = False) -> Path:
        """A file of their credentials, one a line. To be called once. ordinary: they may use every ordinary topic."""
        self._bench.say(f"registering {count:,} devices")
        definition: dict[str, Any] = {"metrics": METRICS} | (EVERY_TOPIC if ordinary else {})
        async with self.api() as api:
            await answer(api, "POST", "profiles", {"name": PROFILE, "definition": definition})
        table, credentials = self._directory / "devices.csv", self._directory / "credentials"
        table.write_text("external_id\n" + "".join(f"bench-{number}\n" for number in range(count)))
        await self.command(
            "devices", "import", str(table), "--credentials", str(credentials), "--profile", PROFILE,
            "--url", self.ready.http_url, "--token", self.ready.admin_token,
        )  # fmt: skip
        return credentials

    # -- its engines --------------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return home_settings.read(self.home)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Any]:
        """A connection of the owner, who sees the rows of every tenant."""
        async with (
            await open_pool(self.settings.database.owner_url, size_max=1, application_name="headwater bench") as pool,
            pool.acquire() as connection,
        ):
            yield connection

    @asynccontextmanager
    async def nats(self) -> AsyncIterator[Any]:
        client = await connect_nats(self.settings.nats, name="headwater bench")
        try:
            yield client
        finally:
            await client.close()


@asynccontextmanager
async def installation(
    bench: Bench, *, gateways: int = 1, settings: Mapping[str, str] | None = None, certificate: Certificate | None = None
) -> AsyncIterator[Installation]:
    """settings     without their prefix
    certificate  of MQTT over TLS; None = one that it makes itself
    """
    workers = bench.options.workers
    bench.say(f"starting an installation, gateways: {gateways}, workers: {workers}")
    directory = walkable_directory(bench.directory)
    made = Installation(bench, directory)
    try:
        await made.start(gateways, workers, settings or {}, certificate)
        yield made
    finally:
        await made.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _port_of(url: str) -> int:
    port = urllib.parse.urlsplit(url).port
    assert port is not None
    return port


@contextmanager
def temporary() -> Iterator[Path]:
    """For what an engine's own account must be able to read."""
    directory = walkable_directory()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def split(credentials: Path, count: int) -> tuple[Path, Path]:
    """The first `count` of them, and the others."""
    lines = credentials.read_text().splitlines(keepends=True)
    parts = credentials.with_name("credentials-first"), credentials.with_name("credentials-others")
    parts[0].write_text("".join(lines[:count]))
    parts[1].write_text("".join(lines[count:]))
    return parts


def walkable_directory(where: Path | None = None) -> Path:
    """A new one that an engine's own account can walk through."""
    directory = Path(tempfile.mkdtemp(prefix="headwater-bench-", dir=where))
    directory.chmod(0o711)
    return directory


async def answer(
    api: aiohttp.ClientSession, method: str, path: str, body: Any = None, query: dict[str, Any] | None = None
) -> Any:
    """The answer, decoded. Raises BenchFailed."""
    async with api.request(method, path, json=body, params=query) as response:
        data = await response.read()
        if response.status >= 400:
            raise BenchFailed(f"{method} {path}: {response.status} {data[:500].decode(errors='replace')}")
        return msgspec.json.decode(data)

"""`headwater up`: engines, schema, first tenant, workers, gateways, API, as one supervised tree in one home.

Reads top to bottom in `AllInOne.run`. Children get the same `HEADWATER_*` variables that an operator sets by hand.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import msgspec

import headwater
from headwater.app import own_engines, probe, role_programs
from headwater.app.bootstrap import Access, bootstrap, open_door
from headwater.app.child import Child, State
from headwater.app.engine_checks import check_nats, connect_database
from headwater.app.engines.ports import PortTaken, is_free
from headwater.app.home import ChildState, Home, Up
from headwater.app.process import give_memory_back
from headwater.app.program import Program
from headwater.app.ready_file import ReadyFile
from headwater.app.settings import Settings, require_loopback
from headwater.app.supervisor import Supervisor
from headwater.database import roles
from headwater.database.migrate import migrate

SERVES_S = 60.0
"""From the moment that every role says it is ready to the moment that its ports answer."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    home: Path
    host: str = "127.0.0.1"
    http_port: int = 8080
    mqtt_port: int = 1883
    ingest_port: int = 8081
    gateways: int = 1
    workers: int = 1
    ready_json: Path | None = None
    demo: int = 0
    """simulated devices"""
    dev_anonymous: bool = False


class Ready(msgspec.Struct, frozen=True):
    """What the ready file says: everything that a program needs to use this installation."""

    http_url: str
    mqtt_url: str
    ingest_url: str
    tenant: str
    tenant_id: str
    admin_email: str
    admin_password: str | None
    admin_token: str
    operator_token: str

    def __repr__(self) -> str:
        return f"Ready({self.http_url})"


class Terminal(Protocol):
    """Where a person looks."""

    def progress(self, text: str) -> None: ...
    def problem(self, text: str) -> None: ...
    def ready(self, ready: Ready, first_time: bool) -> None: ...


class AllInOne:
    def __init__(self, options: UpOptions, settings: Settings, terminal: Terminal) -> None:
        self._options = options
        self._settings = settings
        self._terminal = terminal
        self._home = Home(options.home)
        self._started_at = time.time()
        self._since: dict[Child, tuple[State, float]] = {}
        self._supervisor = Supervisor(self._home.logs, terminal.problem, self._changed)
        self._up = Up(headwater.__version__, os.getpid(), self._started_at, {})
        self._stopping = False

    async def run(self) -> None:
        """Until SIGTERM, SIGINT or SIGHUP. Raises DomainErrors that say what to do."""
        if self._options.dev_anonymous:
            require_loopback(self._options.host, "--host")
        stop = self._stop_on_signals()
        self._home.open()
        with self._home.locked():
            for name in self._home.end_leftovers():
                self._terminal.progress(f"ended {name}, which an earlier `up` had left behind")
            self._check_ports()
            starting = asyncio.create_task(self._start())
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    starting.result()
                    await stop.wait()
                    self._terminal.progress("stopping: nothing new is accepted, what was accepted is stored")
            finally:
                starting.cancel()
                stopping.cancel()
                await asyncio.gather(starting, stopping, return_exceptions=True)
                self._stopping = True
                await self._supervisor.stop()
                (self._home.run / "up.json").unlink(missing_ok=True)
                self._terminal.progress("stopped")

    # -- start, in this order ---------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        settings, engines = await asyncio.to_thread(
            own_engines.plan, self._settings, self._home, self._ports().values(), self._terminal.progress
        )
        if engines:
            self._terminal.progress("starting " + " and ".join(program.name for program in engines))
            await self._supervisor.start(engines)
        await self._migrate(settings)
        with ReadyFile(self._options.ready_json or self._home.run / "ready.json") as ready_file:
            access = await bootstrap(settings.database.operator_url, ready_file.known_password)
            environment = role_programs.environment(settings)
            if self._options.dev_anonymous:
                await open_door(settings.database.url, access.tenant_id)
                environment |= role_programs.prefixed({"GATEWAY_ANONYMOUS_TENANT": access.tenant})
            for label, programs in self._roles(environment):
                self._terminal.progress(f"starting {label}")
                await self._supervisor.start(programs)
            await self._await_service()
            ready = self._ready(access)
            ready_file.write(ready)
        self._up = Up(headwater.__version__, os.getpid(), self._started_at, self._urls())
        self._write_up()
        self._terminal.ready(ready, access.first_time)
        if self._options.dev_anonymous:
            self._terminal.problem(
                f"anonymous access: every program on this machine may use every MQTT topic of the tenant {access.tenant},"
                " without a credential. For tests and first tries only"
            )
        give_memory_back()  # of hashing a password
        if self._options.demo:
            self._terminal.progress(f"starting {self._options.demo} simulated devices")
            await self._supervisor.start([role_programs.fleet(ready_file.path, self._options.demo, environment)])

    async def _migrate(self, settings: Settings) -> None:
        if not self._settings.database.owner_url:
            await _create_database(settings.database.owner_url)
        connection = await connect_database(settings.database.owner_url, "DATABASE_OWNER_URL")
        try:
            applied = await migrate(connection)
            if not self._settings.database.owner_url:
                await roles.set_passwords(connection, self._home.secrets().roles)
        finally:
            await connection.close()
        if applied:
            self._terminal.progress(f"migrated the database: {len(applied)} steps")
        await check_nats(settings.nats)

    def _roles(self, environment: dict[str, str]) -> list[tuple[str, list[Program]]]:
        """In the order of their start; stopped the other way round, so that what was accepted still finds its way."""
        options = self._options
        shared = role_programs.prefixed(
            {
                "GATEWAY_HOST": options.host,
                "GATEWAY_MQTT_PORT": str(options.mqtt_port),
                "GATEWAY_HTTP_PORT": str(options.ingest_port),
                "API_HOST": options.host,
                "API_HTTP_PORT": str(options.http_port),
            }
        )
        names = {
            "workers": [("worker", i) for i in range(options.workers)],
            "gateways": [("gateway", i) for i in range(options.gateways)],
            "the API": [("api", 0)],
        }
        return [
            (label, [role_programs.role(role, number, environment | shared) for role, number in group])
            for label, group in names.items()
        ]

    async def _await_service(self) -> None:
        """Every port answers as the world will ask it."""
        host = _reach(self._options.host)
        async with asyncio.timeout(SERVES_S):
            while True:
                missing = [
                    name
                    for name, serves in (
                        ("API", await probe.answers_http(host, self._options.http_port, "/api/v1/health")),
                        ("MQTT", await probe.accepts(host, self._options.mqtt_port)),
                        ("HTTP ingest", await probe.accepts(host, self._options.ingest_port)),
                    )
                    if not serves
                ]
                if not missing:
                    return
                await asyncio.sleep(0.1)

    # -- what others see --------------------------------------------------------------------------------------------------

    def _ports(self) -> dict[str, int]:
        options = self._options
        return {"--http-port": options.http_port, "--mqtt-port": options.mqtt_port, "--ingest-port": options.ingest_port}

    def _check_ports(self) -> None:
        ports = self._ports()
        for option, port in ports.items():
            if not is_free(port, self._options.host):
                raise PortTaken(
                    f"something listens on {self._options.host}:{port} already: stop it, or choose another {option}"
                )
        if len(set(ports.values())) < len(ports):
            raise PortTaken("--http-port, --mqtt-port and --ingest-port must differ")

    def _urls(self) -> dict[str, str]:
        host, options = _bracketed(_reach(self._options.host)), self._options
        return {
            "http_url": f"http://{host}:{options.http_port}",
            "mqtt_url": f"mqtt://{host}:{options.mqtt_port}",
            "ingest_url": f"http://{host}:{options.ingest_port}",
        }

    def _ready(self, access: Access) -> Ready:
        return Ready(
            **self._urls(),
            tenant=access.tenant,
            tenant_id=str(access.tenant_id),
            admin_email=access.admin_email,
            admin_password=access.admin_password,
            admin_token=access.admin_token,
            operator_token=access.operator_token,
        )

    def _changed(self, child: Child) -> None:
        known = self._since.get(child)
        if known is None or known[0] is not child.state:
            self._since[child] = (child.state, time.time())
        self._home.write_pid(child.program.name, child.pid)
        self._write_up()

    def _write_up(self) -> None:
        if self._stopping:
            return
        self._up.children = [
            ChildState(c.program.name, c.state, c.pid, c.restarts, c.last_exit, self._since.get(c, (c.state, 0.0))[1])
            for c in self._supervisor.children
        ]
        self._home.write_up(self._up)

    def _stop_on_signals(self) -> asyncio.Event:
        """Once: drain and stop. Twice: kill."""
        stop = asyncio.Event()

        def received() -> None:
            if stop.is_set():
                self._terminal.problem("killing everything")
                self._supervisor.kill()
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, received)
        return stop


async def _create_database(owner_url: str) -> None:
    server, _, name = owner_url.rpartition("/")
    connection: Any = await connect_database(f"{server}/postgres", "DATABASE_OWNER_URL")
    try:
        with suppress(asyncpg.DuplicateDatabaseError):
            await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()


def _reach(host: str) -> str:
    """Where a program on this machine finds a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  # compared, not bound


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

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
from headwater.app.certificates import HomeCertificate
from headwater.app.child import Child, State
from headwater.app.engine_checks import check_nats, connect_database
from headwater.app.engines.ports import PortTaken, is_free
from headwater.app.home import ChildState, Home, Up
from headwater.app.process import give_memory_back
from headwater.app.program import Program
from headwater.app.ready_file import ReadyFile
from headwater.app.settings import PREFIX, Settings, require_loopback
from headwater.app.supervisor import Supervisor
from headwater.database import roles
from headwater.database.migrate import migrate

CERTIFICATE_CHECK_S = 86_400.0
"""The gateways see a new one within a minute."""
LOOPBACK = "127.0.0.0/8,::1/128"
ANONYMOUS_KEEP_ALIVE_S_MAX = 60
"""With `--dev-anonymous`: what was killed while somebody tried something is gone, and its will out, after a minute and a
half; and whoever writes a client meets a server's keep-alive, which few servers tell."""
SERVES_S = 60.0
"""From the moment that every role says it is ready to the moment that its ports answer."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    home: Path
    host: str = "127.0.0.1"
    http_port: int = 8080
    mqtt_port: int = 1883
    mqtts_port: int = 8883
    """0 = off, as for the next two"""
    ws_port: int = 8083
    wss_port: int = 8084
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
    mqtts_url: str | None
    """None = off, as for the next two"""
    ws_url: str | None
    wss_url: str | None
    ca_file: str | None
    """what to trust for mqtts and wss; None where the operator has given a certificate"""
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
        self._certificate = None if _is_given(settings) else HomeCertificate(self._home.path)
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
            renewing = asyncio.create_task(self._keep_certificate())
            try:
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    starting.result()
                    await stop.wait()
                    self._terminal.progress("stopping: nothing new is accepted, what was accepted is stored")
            finally:
                for task in (starting, stopping, renewing):
                    task.cancel()
                await asyncio.gather(starting, stopping, renewing, return_exceptions=True)
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
            if self._certificate is not None and self._certificate.ensure(self._options.host):
                self._terminal.progress(f"made a certificate for MQTT over TLS; devices trust {self._certificate.authority}")
            access = await bootstrap(settings.database.operator_url, ready_file.known_password)
            environment = role_programs.environment(settings)
            if self._options.dev_anonymous:
                await open_door(settings.database.url, access.tenant_id)
                keep_alive_s = min(settings.gateway.keep_alive_s_max, ANONYMOUS_KEEP_ALIVE_S_MAX)
                door = {"GATEWAY_ANONYMOUS_TENANT": access.tenant, "GATEWAY_KEEP_ALIVE_S_MAX": str(keep_alive_s)}
                environment |= role_programs.prefixed(door)
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

    async def _keep_certificate(self) -> None:
        while True:
            await asyncio.sleep(CERTIFICATE_CHECK_S)
            try:
                if self._certificate is not None and self._certificate.ensure(self._options.host):
                    self._terminal.progress("renewed the certificate for MQTT over TLS")
            except OSError as error:
                self._terminal.problem(f"the certificate for MQTT over TLS cannot be renewed: {error}")

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
                "GATEWAY_MQTTS_PORT": str(options.mqtts_port),
                "GATEWAY_WS_PORT": str(options.ws_port),
                "GATEWAY_WSS_PORT": str(options.wss_port),
                "GATEWAY_HTTP_PORT": str(options.ingest_port),
                "API_HOST": options.host,
                "API_HTTP_PORT": str(options.http_port),
            }
        )
        if self._certificate is not None:
            shared |= role_programs.prefixed(
                {
                    "GATEWAY_MQTTS_CERT_FILE": str(self._certificate.chain),
                    "GATEWAY_MQTTS_KEY_FILE": str(self._certificate.key),
                }
            )
        # What runs on this machine, simulated fleets and benchmarks too, is no crowd of strangers behind one address.
        environment = {PREFIX + "GATEWAY_EXEMPT_NETWORKS": LOOPBACK} | environment | shared
        names = {
            "workers": [("worker", i) for i in range(options.workers)],
            "gateways": [("gateway", i) for i in range(options.gateways)],
            "the API": [("api", 0)],
        }
        return [
            (label, [role_programs.role(role, number, environment) for role, number in group])
            for label, group in names.items()
        ]

    async def _await_service(self) -> None:
        """Every port answers as the world will ask it."""
        host, options = probe.reach(self._options.host), self._options
        device_ports = [options.mqtt_port, options.mqtts_port, options.ws_port, options.wss_port, options.ingest_port]
        async with asyncio.timeout(SERVES_S):
            while True:
                serves = [await probe.accepts(host, port) for port in device_ports if port]
                if all(serves) and await probe.answers_http(host, options.http_port, "/api/v1/health"):
                    return
                await asyncio.sleep(0.1)

    # -- what others see --------------------------------------------------------------------------------------------------

    def _ports(self) -> dict[str, int]:
        options = self._options
        ports = {
            "--http-port": options.http_port,
            "--mqtt-port": options.mqtt_port,
            "--mqtts-port": options.mqtts_port,
            "--ws-port": options.ws_port,
            "--wss-port": options.wss_port,
            "--ingest-port": options.ingest_port,
        }
        return {option: port for option, port in ports.items() if port}

    def _check_ports(self) -> None:
        ports = self._ports()
        host = self._options.host
        taken = {option: port for option, port in ports.items() if not is_free(port, host)}
        if taken:
            said = ", ".join(f"{port} ({option})" for option, port in taken.items())
            raise PortTaken(f"something listens on {host} already, port {said}: stop it, or choose other ports")
        if len(set(ports.values())) < len(ports):
            raise PortTaken(f"{', '.join(ports)} must differ")

    def _urls(self) -> dict[str, str]:
        """Of what is on."""
        host, options = _bracketed(probe.reach(self._options.host)), self._options
        ingest = "https" if self._settings.gateway.tls_cert_file else "http"
        urls = {
            "http_url": f"http://{host}:{options.http_port}",
            "mqtt_url": f"mqtt://{host}:{options.mqtt_port}",
            "mqtts_url": f"mqtts://{host}:{options.mqtts_port}" if options.mqtts_port else "",
            "ws_url": f"ws://{host}:{options.ws_port}/mqtt" if options.ws_port else "",
            "wss_url": f"wss://{host}:{options.wss_port}/mqtt" if options.wss_port else "",
            "ingest_url": f"{ingest}://{host}:{options.ingest_port}",
        }
        return {name: url for name, url in urls.items() if url}

    def _ready(self, access: Access) -> Ready:
        urls = self._urls()
        return Ready(
            http_url=urls["http_url"],
            mqtt_url=urls["mqtt_url"],
            mqtts_url=urls.get("mqtts_url"),
            ws_url=urls.get("ws_url"),
            wss_url=urls.get("wss_url"),
            ca_file=str(self._certificate.authority) if self._certificate is not None else None,
            ingest_url=urls["ingest_url"],
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


def _is_given(settings: Settings) -> bool:
    return bool(settings.gateway.tls_cert_file or settings.gateway.mqtts_cert_file)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

"""The engines that a home runs itself, because no setting names one, as programs for the supervisor."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable, Collection
from dataclasses import replace

from headwater.app.engine_checks import nats_once
from headwater.app.engines import postgres
from headwater.app.engines.account import Account, engine_account
from headwater.app.engines.nats import USER, NATSServer, server_binary
from headwater.app.home import Decisions, Home
from headwater.app.program import Program
from headwater.app.settings import DatabaseSettings, NATSSettings, Settings
from headwater.database import roles
from headwater.stream.topology import ensure

DATABASE = "headwater"

_LOUD_POSTGRES = re.compile(
    rb"PANIC|FATAL(?!.*(starting up|shutting down|terminating connection|recovery mode|not yet accept))"
)
_LOUD_NATS = re.compile(rb"\[FTL\]|\[ERR\] (?!.*(Authorization|authentication|Client))|JetStream.*(disabled|out of)")
_ILL_NATS = re.compile(rb"critical write error|JetStream out of|will be DISABLED")
"""After a write that failed (a full disk) a stream stores nothing more, even when there is room again."""
ROOM_BYTES_MIN = 256 << 20


def plan(given: Settings, home: Home, taken: Collection[int], say: Callable[[str], None]) -> tuple[Settings, list[Program]]:
    """The settings with which everybody reaches the engines, and the programs to start for that.

    taken  ports that are needed for ourselves
    Raises NoEngineAccount, EngineMissing.
    """
    own_postgres, own_nats = not given.database.owner_url, not given.nats.url
    decisions = home.decide(taken, postgres=own_postgres, nats=own_nats)
    account = engine_account(given.engine.user) if own_postgres or own_nats else None
    settings = replace(given, api=replace(given.api, secret_key=given.api.secret_key or home.secrets().api_secret_key))
    programs = []
    if own_postgres:
        server = _postgres(settings, home, decisions, account, say)
        settings = replace(settings, database=_reached(settings.database, server, home))
        programs.append(_postgres_program(server))
    if own_nats:
        nats_server = _nats(settings, home, decisions, account, say)
        stream = replace(
            settings.nats, url=nats_server.url, user=USER, password=nats_server.password,
            uplink_bytes_max=min(settings.nats.uplink_bytes_max, decisions.uplink_bytes_max),
        )  # fmt: skip
        settings = replace(settings, nats=stream)
        programs.append(_nats_program(nats_server, stream))
    return settings, programs


def _reached(settings: DatabaseSettings, server: postgres.PostgresServer, home: Home) -> DatabaseSettings:
    passwords = home.secrets().roles
    app, writer, operator = (server.url(role, passwords[role], DATABASE) for role in roles.ROLES)
    return replace(settings, url=app, writer_url=writer, operator_url=operator, owner_url=server.superuser_url(DATABASE))


def _postgres(
    settings: Settings, home: Home, decisions: Decisions, account: Account | None, say: Callable[[str], None]
) -> postgres.PostgresServer:
    directory = home.engine_directory("postgres", account)
    _say_if_moved(home, "postgres", say)
    if not (directory / "data").exists():
        say("making a PostgreSQL data directory")
    return postgres.PostgresServer(
        bin_dir=postgres.bin_directory(settings.engine.postgres_bin_dir, account),
        directory=directory,
        port=decisions.postgres_port,
        password=home.secrets().postgres,
        account=account,
    )


def _nats(
    settings: Settings, home: Home, decisions: Decisions, account: Account | None, say: Callable[[str], None]
) -> NATSServer:
    directory = home.engine_directory("nats", account)
    _say_if_moved(home, "nats", say)
    return NATSServer(
        binary=server_binary(settings.engine.nats_server_path, account),
        directory=directory,
        port=decisions.nats_port,
        password=home.secrets().nats,
        account=account,
    )


def _say_if_moved(home: Home, name: str, say: Callable[[str], None]) -> None:
    link = home.path / name
    if link.is_symlink():
        say(f"the data of {name} is in {link.resolve()}: the account that it runs as cannot reach {home.path}")


def _postgres_program(server: postgres.PostgresServer) -> Program:
    return Program(
        name="postgres",
        argv=server.argv,
        environment=postgres.ENVIRONMENT,
        account=server.account,
        prepare=server.prepare,
        ready=server.wait_ready,
        stop_signal=signal.SIGINT,  # fast shutdown: sessions are ended, a checkpoint is written
        stop_s=60,
        kill_signal=signal.SIGQUIT,
        death_signal=signal.SIGINT,
        loud=_LOUD_POSTGRES,
    )


def _nats_program(server: NATSServer, settings: NATSSettings) -> Program:
    async def streams() -> None:
        """Also after a crash: a stream that lives in memory is gone then, and nobody else would make it again."""
        async with nats_once(settings) as client:
            await ensure(client.jetstream(), settings.topology)

    def has_room() -> bool:
        return shutil.disk_usage(server.directory).free >= ROOM_BYTES_MIN

    return Program(
        name="nats",
        argv=server.argv,
        environment=postgres.ENVIRONMENT,
        account=server.account,
        prepare=server.prepare,
        ready=server.wait_ready,
        on_ready=streams,
        stop_s=30,
        death_signal=signal.SIGTERM,
        loud=_LOUD_NATS,
        ill=_ILL_NATS,
        curable=has_room,
    )

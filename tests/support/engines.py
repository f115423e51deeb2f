"""Real engines for tests: one PostgreSQL for a pytest process, one nats-server for a test."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from headwater.app.engines import account, nats, postgres
from headwater.app.engines.ports import free_port
from headwater.app.process import die_with_parent
from headwater.database import roles
from headwater.database.migrate import migrate

TEMPLATE = "headwater_template"
START_S = 60


@dataclass(frozen=True)
class DatabaseURLs:
    """asyncpg URLs of one database, one for each role; owner is the superuser."""

    app: str
    writer: str
    operator: str
    owner: str


def in_a_loop_of_its_own(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end in another thread, so that it does not matter whether the test has a loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@contextmanager
def scratch_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="headwater-test-"))
    home.chmod(0o711)
    try:
        yield home
    finally:
        for link in home.iterdir():
            if link.is_symlink():
                shutil.rmtree(link.resolve(), ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def running(
    argv: tuple[str, ...], who: account.Account | None, log: Path, stop_signal: int
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, env=postgres.ENVIRONMENT, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=die_with_parent(),  # noqa: PLW1509  # it calls prctl and nothing else
            **(who.options if who else {}),
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(stop_signal)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _ready(server: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    async with asyncio.timeout(START_S):
        while not await server.answers():
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{log.read_text()[-3000:]}")  # noqa: ASYNC240  # the end
            await asyncio.sleep(0.01)


class TestPostgres:
    """A server with a migrated template; each test gets a copy of it."""

    __test__ = False  # the name is not a test's

    def __init__(self, server: postgres.PostgresServer) -> None:
        self.server = server
        self.passwords = {role: secrets.token_urlsafe(24) for role in roles.ROLES}

    async def make_template(self) -> None:
        await self._execute(f"CREATE DATABASE {TEMPLATE}")
        connection = await asyncpg.connect(self.server.superuser_url(TEMPLATE))
        try:
            await migrate(connection)
            await roles.set_passwords(connection, self.passwords)
        finally:
            await connection.close()

    async def create(self, template: str = TEMPLATE) -> str:
        """Of `template0`: one that was never migrated."""
        name = f"test_{secrets.token_hex(6)}"
        await self._execute(
            f"CREATE DATABASE {name} TEMPLATE {template}",
            # A setting of a database is not part of what a template passes on.
            f"ALTER DATABASE {name} SET search_path = headwater, pg_catalog",
        )
        return name

    async def drop(self, name: str) -> None:
        await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def urls(self, name: str) -> DatabaseURLs:
        app, writer, operator = (self.server.url(role, self.passwords[role], name) for role in roles.ROLES)
        return DatabaseURLs(app, writer, operator, self.server.superuser_url(name))

    async def _execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.server.superuser_url())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def postgres_server(*, max_connections: int = 200) -> Iterator[TestPostgres]:
    who = account.engine_account()
    with scratch_home() as home:
        server = postgres.PostgresServer(
            bin_dir=postgres.bin_directory("", who),
            directory=account.engine_directory(home, "postgres", who),
            port=free_port(),
            password=secrets.token_urlsafe(24),
            account=who,
            durable=False,
            settings={"max_connections": str(max_connections), "log_min_error_statement": "error"},
        )
        server.prepare()
        with running(server.argv, who, home / "postgres.log", signal.SIGQUIT) as process:
            in_a_loop_of_its_own(_ready(server, process, home / "postgres.log"))
            tests = TestPostgres(server)
            in_a_loop_of_its_own(tests.make_template())
            yield tests


@contextmanager
def nats_server() -> Iterator[nats.NATSServer]:
    """As it runs in a home: fsync before each acknowledgement, a password."""
    who = account.engine_account()
    with scratch_home() as home:
        server = nats.NATSServer(
            binary=nats.server_binary("", who),
            directory=account.engine_directory(home, "nats", who),
            port=free_port(),
            password=secrets.token_urlsafe(24),
            account=who,
        )
        server.prepare()
        with running(server.argv, who, home / "nats.log", signal.SIGKILL) as process:
            in_a_loop_of_its_own(_ready(server, process, home / "nats.log"))
            yield server

"""A nats-server that a test kills and starts again on the same store, and a client that finds it again at once."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nats
from nats.aio.client import Client

from headwater.app.engines import account
from headwater.app.engines.nats import NATSServer, server_binary
from headwater.app.engines.ports import free_port
from tests.support import engines


@dataclass
class KillableNATS:
    server: NATSServer
    log: Path
    _life: ExitStack = field(default_factory=ExitStack)
    _pid: int = 0

    async def start(self) -> None:
        running = engines.running(self.server.argv, self.server.account, self.log, signal.SIGKILL)
        self._pid = self._life.enter_context(running).pid
        async with asyncio.timeout(engines.START_S):
            await self.server.wait_ready()

    def kill(self) -> None:
        """SIGKILL. What it said was stored is on disk, and nothing else is left of it."""
        self._life.close()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """SIGSTOP: connections stay, and nobody answers."""
        os.kill(self._pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)

    async def start_again(self) -> None:
        self.kill()
        await self.start()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Reconnects for ever, as those of the roles do (app/connections.py), only sooner."""
        connection = await nats.connect(self.server.url_with_password, max_reconnect_attempts=-1, reconnect_time_wait=0.05)
        try:
            yield connection
        finally:
            await connection.close()


@contextmanager
def killable_nats() -> Iterator[KillableNATS]:
    """Not started yet."""
    who = account.engine_account()
    with engines.scratch_home() as home:
        server = NATSServer(
            binary=server_binary("", who),
            directory=account.engine_directory(home, "nats", who),
            port=free_port(),
            password=secrets.token_urlsafe(24),
            account=who,
        )
        server.prepare()
        killable = KillableNATS(server, home / "nats.log")
        try:
            yield killable
        finally:
            killable.kill()

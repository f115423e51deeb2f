"""The live half of a gateway, and a served API, for tests of watching."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import UUID

import nats
import uvicorn

from headwater.live import watch
from headwater.live.feed import LiveFeed
from headwater.live.watch import WatchList
from headwater.stream.envelope import Kind, Record

DEADLINE_S = 10


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # what it waits for comes over the network, and nothing else tells
            await asyncio.sleep(0.005)


class LiveGateway:
    """Hears watch lists and copies what is wanted, as a gateway does with what it has stored."""

    def __init__(self, connection: nats.NATS) -> None:
        self.connection = connection
        self.watch_list = WatchList()
        self.feed = LiveFeed(connection, self.watch_list)
        self.sequence = 0

    async def __aenter__(self) -> Self:
        self._listening = await watch.subscribe(self.connection, self.watch_list)
        self._running = asyncio.ensure_future(self.feed.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await self._listening.close()

    def stores(self, *devices: UUID, tenant: UUID, body: dict[str, Any] | None = None, kind: Kind = Kind.TELEMETRY) -> None:
        now = time.time_ns() // 1000
        self.sequence += len(devices)
        self.feed.offer([
            Record(tenant.bytes, device.bytes, kind, now, now, 1, self.sequence, body or {"n": self.sequence})
            for device in devices
        ])  # fmt: skip

    async def wants(self, tenant: UUID, device: UUID) -> None:
        await until(lambda: self.watch_list.wanted(tenant.bytes, device.bytes))


@asynccontextmanager
async def served(app: Any, port: int = 0) -> AsyncIterator[str]:
    """The application on a real port, as the API role serves it. Yields host:port."""
    config = uvicorn.Config(
        app, port=port, loop="none", ws="websockets-sansio", lifespan="on", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    server.config.load()
    serving = asyncio.create_task(server._serve())
    await until(lambda: server.started or serving.done())
    if serving.done():
        serving.result()
    address = server.servers[0].sockets[0].getsockname()
    try:
        yield f"{address[0]}:{address[1]}"
    finally:
        server.should_exit = True
        await serving

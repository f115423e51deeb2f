"""The API role: reads top to bottom, from settings to a listening socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack

import asyncpg
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headwater.api import problems
from headwater.api.app import APIServices, create_app
from headwater.app import readiness
from headwater.app.connections import connect_nats
from headwater.app.engines.ports import PortTaken
from headwater.app.settings import Settings, require
from headwater.clock import SystemClock
from headwater.database.session import Database, open_pool

log = structlog.get_logger(__name__)

DRAIN_S = 10
"""What a request may still take when we stop; a watcher of live data is told to come back."""
BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Longer than a load balancer keeps an idle connection, so that it is the one to close it."""
WEBSOCKET_BYTES_MAX = 256 * 1024
"""What a client may send in one message: a list of what it wants to watch."""


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve people and programs until `stop`; then finish the requests that are under way."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(
            require(settings.database.url, "DATABASE_URL"),
            size_max=settings.database.pool_size_max,
            application_name="headwater-api",
        )
        stack.push_async_callback(_close, pool)
        operator_pool = None
        if settings.database.operator_url:
            operator_pool = await open_pool(
                settings.database.operator_url, size_max=4, application_name="headwater-operator"
            )
            stack.push_async_callback(_close, operator_pool)
        nats = await connect_nats(settings.nats, name="headwater-api")
        stack.push_async_callback(nats.close)
        app = create_app(
            APIServices(
                secret_key=require(settings.api.secret_key, "API_SECRET_KEY"),
                database=Database(pool),
                operator_pool=operator_pool,
                nats=nats,
                jetstream=nats.jetstream(),
                clock=SystemClock(),
                public_url=settings.api.public_url,
                topology=settings.nats.topology,
            )
        )
        server = _Server(
            uvicorn.Config(
                app,
                loop="none",
                http=_Protocol,
                ws="websockets-sansio",
                ws_max_size=WEBSOCKET_BYTES_MAX,
                # A live event is some 250 bytes: compressing it costs more than it saves, and a window for each watcher.
                ws_per_message_deflate=False,
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=DRAIN_S,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        listener = _listen(settings.api.host, settings.api.http_port)
        stack.callback(listener.close)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        server.should_exit = True
        await serving
        if not server.started:
            raise RuntimeError("the API could not start; the reason stands above")


class _Protocol(HttpToolsProtocol):
    """What never becomes a request (a URL beyond 64 KiB, say) is answered as any other problem."""

    def send_400_response(self, msg: str) -> None:
        body = problems.unreadable()
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: %b\r\ncontent-length: %d\r\ncache-control: no-store\r\n"
            b"x-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head % (problems.MEDIA_TYPE.encode(), len(body)) + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """Signals are the runner's business; and whoever started us hears when we serve."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            readiness.announce_ready()
            log.info("api_ready")


async def _close(pool: asyncpg.Pool) -> None:
    """A connection that somebody still holds must not keep us from ending."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await pool.close()
            return
    pool.terminate()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise PortTaken(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another HEADWATER_API_HTTP_PORT"
        ) from error

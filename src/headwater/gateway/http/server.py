"""uvicorn inside the gateway's process and loop: a shared port, bounded heads, no signals, a graceful end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONNECTIONS_MAX = 10_000
KEEP_ALIVE_S = 75
"""A device that sends once a minute keeps its TLS connection."""
HEAD_S = 10.0
HEAD_BYTES_MAX = 32_768
DRAIN_S = 10
_BACKLOG = 2_048


def bind(host: str, port: int) -> socket.socket:
    """A listening socket whose port the other gateways of this machine may share. Port 0 = any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


async def serve(
    app: Any, host: str, port: int, *, stop: asyncio.Event, certificate_file: str = "", key_file: str = ""
) -> None:
    """Serve until `stop`; then accept no more and give what is under way DRAIN_S seconds. Raises OSError: port taken."""
    await serve_on(app, bind(host, port), stop=stop, certificate_file=certificate_file, key_file=key_file)


async def serve_on(
    app: Any, listener: socket.socket, *, stop: asyncio.Event, certificate_file: str = "", key_file: str = ""
) -> None:
    """`serve`, on a socket that `bind` made."""
    config = uvicorn.Config(
        app,
        http=_BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
        backlog=_BACKLOG,
        ssl_certfile=certificate_file or None,
        ssl_keyfile=key_file or None,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    server = _Server(config)
    stopping = asyncio.create_task(_end(server, stop))
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()
        listener.close()


async def _end(server: _Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The process owns its signals; `stop` tells us."""
        yield


class _BoundedProtocol(HttpToolsProtocol):
    """httptools bounds neither the size of a request's head nor the time it takes; we do both."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Counts what belongs to no body: llhttp keeps an endless header to itself.
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_S, self._head_late)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        self.transport.close()

"""Ending a connection so that the last word arrives.

A socket that is closed while unread bytes lie in it is reset, and a reset throws away what the peer has not read yet: the
DISCONNECT that says why. So our side ends, the peer's is read and thrown away until it ends too, or until LINGER_S.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

LINGER_S = 2.0
"""A round trip, and a client that looks at its socket once a second."""


def hang_up(transport: Any, protocol: asyncio.BaseProtocol) -> None:
    """Once or again. protocol: whose transport it is; it hears of the end and of nothing before."""
    if transport.is_closing() or not transport.can_write_eof():  # TLS says good-bye by itself
        transport.close()
        return
    if isinstance(transport.get_protocol(), _Deaf):
        return
    with suppress(OSError):  # gone already: the transport finds out
        transport.write_eof()
    timer = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)
    transport.set_protocol(_Deaf(protocol, timer))
    transport.resume_reading()


def let_go(transport: Any) -> None:
    """There is nothing more to say. Where the last word is on its way, it is left to arrive."""
    if not (transport.can_write_eof() and isinstance(transport.get_protocol(), _Deaf)):
        transport.close()


async def hang_up_socket(ours: socket.socket, last_words: bytes) -> None:
    """The same for a socket without a transport."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):  # gone already, or, a TimeoutError, still talking
        if last_words:
            ours.send(last_words)
        ours.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LINGER_S):
            while await loop.sock_recv(ours, 65_536):
                pass


class _Deaf(asyncio.Protocol):
    __slots__ = ("_protocol", "_timer")

    def __init__(self, protocol: asyncio.BaseProtocol, timer: asyncio.TimerHandle) -> None:
        self._protocol = protocol
        self._timer = timer

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._protocol.connection_lost(error)

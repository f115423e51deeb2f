"""One listening socket: accepts when the door says so, and takes a connection through PROXY header, TLS and WebSocket.

Owns a connection from accept until an MQTTConnection has it. It accepts by itself, instead of leaving that to the event
loop, because three things stand between a socket and MQTT: the pace of the door, a header that must be read before TLS
begins, and a handshake whose failure somebody wants to hear of in words. A connection that says nothing costs a socket and a
small task until its time is over; buffers for TLS are made when its first byte has come.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from headwater.gateway.mqtt import proxy_protocol, tls
from headwater.gateway.mqtt.addresses import Network
from headwater.gateway.mqtt.door import Door
from headwater.gateway.mqtt.hang_up import hang_up_socket
from headwater.gateway.mqtt.proxy_protocol import ProxyRefused
from headwater.gateway.mqtt.tls import HANDSHAKE_S, SHUTDOWN_S, ServerTLS
from headwater.gateway.mqtt.visitor import Refusal, Refusals, Visitor
from headwater.gateway.mqtt.websocket import WebSocketTransport

log = structlog.get_logger(__name__)

BACKLOG = 4_096
"""Connections that the kernel may keep waiting for us during a storm; net.core.somaxconn must allow it."""
ACCEPTS_AT_ONCE = 16
"""Before others in this loop have their turn."""
HANDSHAKE_PAUSE_S = 0.001
"""Between two TLS handshakes that begin. Our half of one takes about as long, for which everybody else waits, and a PUBACK
takes several turns of the loop; a flood of handshakes that were begun at once held up devices for 100 ms."""
CANNOT_ACCEPT_S = 1.0
"""How long to wait where the process, or the machine, has no file or no memory for another connection."""
SILENT_S = 1_800
"""Then the kernel asks whether the peer is still there: of a client before MQTT 5 that gave no keep-alive nobody would hear
that it is gone. All others have spoken by then (Limits.keep_alive_s_max)."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: whoever is refused gets a reset, and the kernel keeps nothing of it."""

Begin = Callable[[Visitor], asyncio.Protocol]
"""makes the connection that speaks MQTT with a visitor"""


@dataclass(frozen=True, slots=True)
class Port:
    """scheme  what devices write before their URL: mqtt, mqtts, ws, wss
    number     0 = off
    """

    scheme: str
    number: int

    @property
    def secure(self) -> bool:
        return self.scheme in {"mqtts", "wss"}

    @property
    def websocket(self) -> bool:
        return self.scheme in {"ws", "wss"}


class Acceptor:
    """proxies        networks whose PROXY header is believed; None = there is no such header
    local_origins  of web pages that speak WebSocket, only those of this machine come in
    """

    def __init__(
        self, port: Port, *, door: Door, begin: Begin, refusals: Refusals,
        certificate: ServerTLS | None = None, proxies: Sequence[Network] | None = None, local_origins: bool = False,
    ) -> None:  # fmt: skip
        assert certificate is not None or not port.secure
        self.port = port
        self._door = door
        self._begin = begin
        self._refusals = refusals
        self._tls = certificate if port.secure else None
        self._proxies = proxies
        self._local_origins = local_origins
        self._sockets: list[socket.socket] = []
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._welcomes: set[asyncio.Task[None]] = set()
        self._turnstile = _Turnstile()
        self.accepted_total = 0
        self.refused_total: dict[str, int] = {}
        """by stage"""

    async def open(self, host: str) -> None:
        """Several processes may open the same port; the kernel spreads the connections. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host or None, self.port.number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
        try:
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
                self._sockets.append(_listen(family, address))
        except OSError:
            self.close()
            raise
        for listening in self._sockets:
            loop.add_reader(listening.fileno(), self._accept, listening)

    def close(self) -> None:
        """Accept no more; who has not come through to MQTT is dropped."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            pause = self._pauses.pop(listening, None)
            if pause is not None:
                pause.cancel()
            loop.remove_reader(listening.fileno())
            listening.close()
        self._sockets.clear()
        for welcome in self._welcomes:
            welcome.cancel()

    # -- accepting ------------------------------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            wait_s = self._door.wait_s()
            if wait_s > 0:
                self._pause(listening, wait_s)
                return
            try:
                accepted, peer = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("cannot_accept", scheme=self.port.scheme, reason=error.strerror)
                self._pause(listening, CANNOT_ACCEPT_S)
                return
            self._arrived(accepted, _address(peer))

    def _pause(self, listening: socket.socket, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())
        self._pauses[listening] = loop.call_later(seconds, self._go_on, listening)

    def _go_on(self, listening: socket.socket) -> None:
        del self._pauses[listening]
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept, listening)

    def _arrived(self, accepted: socket.socket, address: str) -> None:
        self.accepted_total += 1
        accepted.setblocking(False)
        visitor = self._door.enter(address)
        visitor.scheme, visitor.refuse = self.port.scheme, partial(self._refuse, visitor)
        if self._proxies is None:
            refusal = self._door.identify(visitor, address)
            if refusal is not None:
                self._refuse(visitor, refusal)
                _reset(accepted)
                return
        welcome = asyncio.get_running_loop().create_task(self._welcome(accepted, visitor))
        visitor.drop = partial(self._drop, visitor, welcome.cancel)
        self._welcomes.add(welcome)
        welcome.add_done_callback(self._welcomes.discard)

    async def _welcome(self, accepted: socket.socket, visitor: Visitor) -> None:
        """To MQTT, or to the end of the connection. Once the loop has made a transport of the socket, it is the loop's."""
        try:
            if self._proxies is not None:
                await self._hear_proxy(accepted, visitor, self._proxies)
            _set_up(accepted)
            if self._tls is not None:
                await _first_byte(accepted)
                await self._turnstile.pass_through()
        except _Refused as error:
            self._refuse(visitor, error.refusal)
            _reset(accepted)
            return
        except OSError:  # gone before anything began: nobody's fault, and what a load balancer's health check does
            self._door.leave(visitor)
            accepted.close()
            return
        except BaseException:
            self._door.leave(visitor)
            _reset(accepted)
            raise
        try:
            transport = await self._connect(accepted, visitor)
        except OSError as error:  # an ssl.SSLError is one, a TimeoutError too
            self._refuse(visitor, tls.refusal_of(error))
        except BaseException:
            self._door.leave(visitor)
            raise
        else:
            if visitor.is_here:
                visitor.drop = partial(self._drop, visitor, transport.abort)

    async def _hear_proxy(self, accepted: socket.socket, visitor: Visitor, trusted: Sequence[Network]) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                address = await proxy_protocol.read(accepted, visitor.address, trusted)
        except ProxyRefused as error:
            raise _Refused(error.refusal) from error
        except TimeoutError as error:
            raise _Refused(Refusal("proxy", "proxy.timeout", f"no PROXY header within {HANDSHAKE_S:.0f} s")) from error
        refusal = self._door.identify(visitor, address)
        if refusal is not None:
            raise _Refused(refusal)

    async def _connect(self, accepted: socket.socket, visitor: Visitor) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        made: asyncio.Transport
        if self._tls is None:
            made, _ = await loop.connect_accepted_socket(partial(self._protocol, visitor), accepted)
            return made
        return await self._shake_hands(accepted, visitor, self._tls.context)

    async def _shake_hands(self, accepted: socket.socket, visitor: Visitor, context: ssl.SSLContext) -> asyncio.Transport:
        made: asyncio.Transport
        with accepted.dup() as still_open:  # the loop closes its own as soon as the handshake has failed
            try:
                # Twice the limit for the loop's own clock: which of two that run out together wins would be anybody's guess.
                async with asyncio.timeout(HANDSHAKE_S):
                    made, _ = await asyncio.get_running_loop().connect_accepted_socket(
                        partial(self._protocol, visitor), accepted, ssl=context,
                        ssl_handshake_timeout=2 * HANDSHAKE_S, ssl_shutdown_timeout=SHUTDOWN_S,
                    )  # fmt: skip
            except ssl.SSLError as error:
                self._refuse(visitor, tls.refusal_of(error))
                await hang_up_socket(still_open, tls.last_words_of(error))
                raise
        if made.get_extra_info("cipher") is None:  # asyncio calls it success when the peer just goes away
            raise ConnectionResetError("closed during the handshake")
        return made

    def _protocol(self, visitor: Visitor) -> asyncio.Protocol:
        """What speaks on the socket once it is ready."""
        if self.port.websocket:
            return WebSocketTransport(
                partial(self._begin, visitor), partial(self._refuse, visitor), local_origins=self._local_origins
            )
        return self._begin(visitor)

    def _refuse(self, visitor: Visitor, refusal: Refusal | None) -> None:
        """Once: whoever is dropped for one reason ends with another. None = it just went away."""
        self._door.leave(visitor)
        if visitor.over or refusal is None:
            return
        visitor.over = True
        self.refused_total[refusal.stage] = self.refused_total.get(refusal.stage, 0) + 1
        self._refusals.refused(visitor, refusal)

    def _drop(self, visitor: Visitor, end: Callable[[], object], refusal: Refusal) -> None:
        self._refuse(visitor, refusal)
        end()


class _Refused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


class _Turnstile:
    """Lets one through, and then devices have the loop for HANDSHAKE_PAUSE_S before the next."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_shut = False

    async def pass_through(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._is_shut:
            self._is_shut = True
            loop.call_later(HANDSHAKE_PAUSE_S, self._turn)
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _turn(self) -> None:
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():  # it has not gone meanwhile
                first.set_result(None)
                asyncio.get_running_loop().call_later(HANDSHAKE_PAUSE_S, self._turn)
                return
        self._is_shut = False


async def _first_byte(accepted: socket.socket) -> None:
    """Wait for it and leave it there. Raises ConnectionResetError at the end of the stream, _Refused when none comes."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(accepted.fileno(), _tell, readable)
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            await readable
    except TimeoutError as error:
        raise _Refused(Refusal("tls", "tls.timeout", f"nothing came within {HANDSHAKE_S:.0f} s")) from error
    finally:
        loop.remove_reader(accepted.fileno())
    if not accepted.recv(1, socket.MSG_PEEK):
        raise ConnectionResetError("closed before the handshake")


def _tell(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def _listen(family: int, address: Any) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def _set_up(accepted: socket.socket) -> None:
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S)


def _reset(accepted: socket.socket) -> None:
    with suppress(OSError):
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    accepted.close()


def _address(peer: Any) -> str:
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"

"""Connections on their way from TCP to CONNACK: many at once, plain or over TLS, in one thread.

Owns a socket until it is up or has failed, then gives it away. It tries nothing twice: whoever asked for the connection
decides what a failure means.
"""

from __future__ import annotations

import resource
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from headwater.testing.load import wire
from headwater.testing.load.wire import Credentials

AT_ONCE = 64
"""A start, not a storm. Mosquitto lets 100 wait, and the next one tries again a second later."""
CONNECTS_PER_SOURCE = 20_000
"""Loopback addresses to spread over, because one address has fewer than 28,000 ports to offer."""
CONNECT_S = 30.0
"""Nobody has come for so long: the rest is not waited for. How long all of them take is the broker's affair."""
FILES_SPARE = 64
_IP_BIND_ADDRESS_NO_PORT = 24
"""linux/in.h; Python names it from 3.12 on. A port is chosen with its connection, which stays quick when most are taken."""
_ABORT = struct.pack("ii", 1, 0)
_POLL_S = 1.0

Connection = socket.socket | ssl.SSLSocket


class _Phase(Enum):
    TCP = auto()
    TLS = auto()
    CONNECT = auto()
    CONNACK = auto()


@dataclass(slots=True)
class Arrival:
    """index    decides about the source address
    up       None while it is on its way; False = it was refused, or ended
    took_s   from the first SYN, as far as it came
    """

    index: int
    person: Credentials
    connection: Connection
    number: int
    session: ssl.SSLSession | None
    began_s: float
    phase: _Phase = _Phase.TCP
    answer: bytes = b""
    up: bool | None = None
    took_s: float = 0.0


class Arrivals:
    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._poll = select.epoll()
        self._coming: dict[int, Arrival] = {}

    def close(self) -> None:
        for arrival in self._coming.values():
            arrival.connection.close()
        self._poll.close()

    def __len__(self) -> int:
        """On their way."""
        return len(self._coming)

    def start(self, index: int, person: Credentials, session: ssl.SSLSession | None = None) -> None:
        """session: of an earlier connection, to resume. Raises OSError where no socket could be had."""
        connection = open_socket(self._host, self._port, index)
        number = connection.fileno()
        self._coming[number] = Arrival(index, person, connection, number, session, time.perf_counter())
        self._poll.register(number, select.EPOLLOUT)

    def hear(self, timeout_s: float) -> list[Arrival]:
        """Those that are up or have failed since; they are the caller's, and open if they are up."""
        ended = []
        for number, _ in self._poll.poll(timeout_s):
            arrival = self._coming[number]
            try:
                self._advance(arrival)
            except (ssl.SSLWantReadError, BlockingIOError):
                self._poll.modify(number, select.EPOLLIN)
            except OSError:
                arrival.up = False
            if arrival.up is not None:
                arrival.took_s = time.perf_counter() - arrival.began_s
                del self._coming[number]
                self._poll.unregister(number)
                if not arrival.up:
                    arrival.connection.close()
                ended.append(arrival)
        return ended

    def _advance(self, arrival: Arrival) -> None:
        """As far as it goes without waiting. Raises OSError, of which an SSLWantReadError is one."""
        if arrival.phase is _Phase.TCP:
            if error := arrival.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "connect")
            arrival.phase = _Phase.CONNECT
            if self._tls is not None:
                arrival.connection = self._tls.wrap_socket(
                    arrival.connection, do_handshake_on_connect=False, server_hostname="localhost", session=arrival.session
                )
                arrival.phase = _Phase.TLS
        if arrival.phase is _Phase.TLS:
            assert isinstance(arrival.connection, ssl.SSLSocket)
            arrival.connection.do_handshake()
            arrival.phase = _Phase.CONNECT
        if arrival.phase is _Phase.CONNECT:
            arrival.connection.send(wire.connect(arrival.person))
            arrival.phase = _Phase.CONNACK
            self._poll.modify(arrival.number, select.EPOLLIN)
            return
        data = arrival.connection.recv(wire.CONNACK_BYTES - len(arrival.answer))
        arrival.answer += data
        if not data or len(arrival.answer) == wire.CONNACK_BYTES:
            arrival.up = wire.accepts(arrival.answer)


def connect_all(
    host: str, port: int, people: Iterable[Credentials], tls: ssl.SSLContext | None = None
) -> tuple[list[Arrival], int]:
    """(those that are up, how many are not); AT_ONCE at a time."""
    arrivals = Arrivals(host, port, tls)
    up: list[Arrival] = []
    failed = 0
    todo = enumerate(people)
    following = next(todo, None)
    give_up_s = time.monotonic() + CONNECT_S
    while (following is not None or len(arrivals)) and time.monotonic() < give_up_s:
        while following is not None and len(arrivals) < AT_ONCE:
            arrivals.start(*following)
            following = next(todo, None)
        for arrival in arrivals.hear(_POLL_S):
            if arrival.up:
                up.append(arrival)
                give_up_s = time.monotonic() + CONNECT_S
            else:
                failed += 1
    failed += len(arrivals) + (following is not None) + sum(1 for _ in todo)
    arrivals.close()
    return up, failed


def open_socket(host: str, port: int, index: int) -> socket.socket:
    """Connecting, not blocking. index: those of one address come in a row. Raises OSError."""
    connection = socket.socket()
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if host.startswith("127."):
            connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind((f"127.0.0.{1 + index // CONNECTS_PER_SOURCE}", 0))
        with suppress(BlockingIOError):
            connection.connect((host, port))
    except OSError:
        connection.close()
        raise
    return connection


def cut(connection: Connection) -> None:
    """End it as a network does that is gone: no good-bye, and the port is free at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    if isinstance(connection, ssl.SSLSocket):
        connection = socket.socket(fileno=connection.detach())
    connection.close()


def has_ended(connection: Connection) -> bool:
    """For one that says nothing: what TLS has to say for itself does not count."""
    try:
        return not connection.recv(1)
    except (ssl.SSLWantReadError, BlockingIOError):
        return False
    except OSError:
        return True


def tls_context() -> ssl.SSLContext:
    """Of a client that trusts anybody: whom it speaks to is not the question. It does the whole handshake all the same."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def raise_file_limit(wanted: int) -> None:
    """A connection is a file: as many as we are permitted, and as root as many as it takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (wanted, hard):
        if limit <= soft:
            return
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
            return

"""Attacks of strangers: connections that never become any. Cheap for whoever sends them, which is the point.

`trickle`    a slow-loris: `connections` open sockets, each of which sends one byte of an endless CONNECT a second, and comes
             again when it is thrown out
`half-open`  `rate` TLS handshakes a second that are begun and never ended: a ClientHello, for which the server computes its
             half of the key exchange and signs, and then silence. Strangers know nothing of each other, so they come at
             random moments (a Poisson process)

They come from many addresses of 127.0.0.0/8, none of them 127.0.0.1, and go on until standard input ends.

    python -m headwater.testing.load.siege --port 8883 --attack half-open --rate 300
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import select
import socket
import ssl
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

from headwater.testing.load import wire
from headwater.testing.load.arrivals import FILES_SPARE, cut, raise_file_limit, tls_context

ATTACKS = ("trickle", "half-open")
ADDRESSES = 500
"""A small botnet, so that no limit of one address stops it."""
TRICKLE_S = 1.0
CONNECT_BYTES = 60_000
"""of the endless CONNECT: what its first bytes promise"""
HALF_OPEN_MAX = 5_000
"""The oldest is given up for the next."""
READ_BYTES = 65_536
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Siege:
    host: str
    port: int
    attack: str
    connections: int = 1_000
    rate: float = 300.0


@dataclass(slots=True)
class Repelled:
    """opened       connections that were begun
    thrown_out   that the server ended
    open         at the end
    """

    opened: int = 0
    thrown_out: int = 0
    open: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0


class Attacker:
    def __init__(self, siege: Siege) -> None:
        self.result = Repelled()
        self._siege = siege
        self._poll = select.epoll()
        self._poll.register(sys.stdin, select.EPOLLIN)
        self._open: dict[int, socket.socket] = {}
        self._said = hello() if siege.attack == "half-open" else b""
        head = b"\x10" + wire.length(CONNECT_BYTES) + wire.text("MQTT") + b"\x04\x02\x00\x00"
        self._endless = head + CONNECT_BYTES.to_bytes(2, "big") + b"a" * CONNECT_BYTES
        self._trickled: dict[int, int] = {}

    def run(self) -> Repelled:
        """Until standard input ends."""
        cpu, start_s = time.process_time(), time.perf_counter()
        trickled_s = next_s = start_s
        while True:
            now_s = time.perf_counter()
            if self._siege.attack == "half-open":
                while next_s <= now_s:
                    self._begin()
                    next_s += random.expovariate(self._siege.rate)
            else:
                while len(self._open) < self._siege.connections and self.result.opened < self._allowed(now_s - start_s):
                    self._begin()
                if now_s - trickled_s >= TRICKLE_S:
                    trickled_s = now_s
                    self._trickle()
            if self._ended(min(POLL_S, next_s - now_s) if self._said else POLL_S):
                break
        self.result.open = len(self._open)
        self.result.seconds = round(time.perf_counter() - start_s, 3)
        self.result.cpu_s = round(time.process_time() - cpu, 3)
        for connection in self._open.values():
            cut(connection)
        return self.result

    def _allowed(self, seconds: float) -> float:
        """Connections so far: all at once, and as many again each second for those that were thrown out."""
        return self._siege.connections * (1 + seconds)

    def _begin(self) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        source = self.result.opened % ADDRESSES
        connection.bind((f"127.0.{1 + source // 250}.{1 + source % 250}", 0))
        self.result.opened += 1
        with suppress(BlockingIOError):
            connection.connect((self._siege.host, self._siege.port))
        number = connection.fileno()
        self._open[number] = connection
        self._poll.register(number, select.EPOLLIN | (select.EPOLLOUT if self._said else 0))
        if self._said:
            if len(self._open) > HALF_OPEN_MAX:
                self._end(next(iter(self._open)))
        else:
            self._trickled[number] = 0

    def _trickle(self) -> None:
        for number, connection in self._open.items():
            at = self._trickled[number]
            with suppress(OSError):
                connection.send(self._endless[at : at + 1])
                self._trickled[number] = at + 1

    def _ended(self, timeout_s: float) -> bool:
        """True when standard input has ended."""
        for number, event in self._poll.poll(timeout_s):
            connection = self._open.get(number)
            if connection is None:
                if number == sys.stdin.fileno() and not os.read(number, READ_BYTES):
                    return True
                continue
            try:
                if event & select.EPOLLOUT:
                    connection.send(self._said)
                    self._poll.modify(number, select.EPOLLIN)
                if event & ~select.EPOLLOUT and not connection.recv(READ_BYTES):
                    raise ConnectionResetError
            except BlockingIOError:
                continue
            except OSError:
                self.result.thrown_out += 1
                self._end(number)
        return False

    def _end(self, number: int) -> None:
        connection = self._open.pop(number, None)
        self._trickled.pop(number, None)
        if connection is not None:
            self._poll.unregister(number)
            cut(connection)


def hello() -> bytes:
    """A ClientHello, made once: it costs whoever repeats it nothing."""
    out = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        tls_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    return out.read()


def main() -> None:
    parser = argparse.ArgumentParser(description="Attack a broker of your own, to see what it costs the others.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--attack", choices=ATTACKS, required=True)
    parser.add_argument("--connections", type=int, default=1_000, help="trickle: at any time")
    parser.add_argument("--rate", type=float, default=300.0, help="half-open: new ones a second")
    siege = Siege(**vars(parser.parse_args()))
    raise_file_limit(max(siege.connections, HALF_OPEN_MAX) + FILES_SPARE)
    gc.disable()
    sys.stdout.write(json.dumps(asdict(Attacker(siege).run())) + "\n")


if __name__ == "__main__":
    main()

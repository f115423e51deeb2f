"""An MQTT load generator: many connections in one thread, QoS 0 or 1, a window of unacknowledged messages on each.

Written on epoll and plain sockets, because a load generator shares the machine with what it measures: at a window of 20 it
costs about a microsecond a message. It counts every acknowledgement and times it; it never sends again what was not
acknowledged, so what it counts is what the broker promised.

    python -m headwater.testing.load --port 1883 --connections 100 --window 20 --seconds 10 --credentials FILE
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

MQTT_3_1_1 = 4
HANDSHAKES_MAX = 256
"""Connections being opened at once: a start, not a storm."""
CONNECTS_PER_SOURCE = 20_000
"""Loopback addresses to spread over, because one address has fewer than 28,000 ports to offer."""
GRACE_S = 10.0
PAYLOAD = b'{"ts":%d,"values":{"temperature":%d.5,"humidity":40.25,"pressure":1013.2,"battery":3.61,"n":%d}}'


@dataclass(frozen=True, slots=True)
class Credentials:
    client_id: str
    username: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """rate is in messages a second over all connections, 0 = as fast as the windows allow; topic may hold {username}."""

    host: str
    port: int
    connections: int
    window: int = 1
    seconds: float = 10.0
    rate: float = 0.0
    topic: str = "v1/devices/me/telemetry"
    qos: int = 1


@dataclass(slots=True)
class Result:
    connections: int = 0
    refused: int = 0
    lost: int = 0
    sent: int = 0
    acknowledged: int = 0
    seconds: float = 0.0
    acknowledged_per_s: float = 0.0
    latency_us: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Peer:
    socket: socket.socket
    prefix: bytes
    """of a PUBLISH behind its fixed header: the topic"""
    sent: int = 0
    acknowledged: int = 0
    sent_at: list[float] = field(default_factory=list)
    rest: bytes = b""
    unsent: bytes = b""
    up: bool = False


def read_credentials(path: Path) -> list[Credentials]:
    """Lines of `client_id username password`."""
    return [Credentials(*line.split()) for line in path.read_text().splitlines() if line.strip()]


def run(load: Load, credentials: list[Credentials] | None = None) -> Result:
    result = Result()
    people = credentials or [Credentials(f"load-{i}") for i in range(load.connections)]
    if len(people) < load.connections:
        raise ValueError(f"{load.connections} connections need as many credentials, there are {len(people)}")
    poll = select.epoll()
    peers = _connect(load, people[: load.connections], poll, result)
    try:
        _exchange(load, peers, poll, result)
    finally:
        for peer in peers.values():
            peer.socket.close()
        poll.close()
    return result


# -- connecting -------------------------------------------------------------------------------------------------------------


def _connect(load: Load, people: list[Credentials], poll: select.epoll, result: Result) -> dict[int, _Peer]:
    peers: dict[int, _Peer] = {}
    waiting: set[int] = set()
    todo = iter(enumerate(people))
    exhausted = False
    give_up = time.monotonic() + 120
    while (waiting or not exhausted) and time.monotonic() < give_up:
        while len(waiting) < HANDSHAKES_MAX and not exhausted:
            following = next(todo, None)
            if following is None:
                exhausted = True
                break
            peer = _open(load, *following)
            peers[peer.socket.fileno()] = peer
            waiting.add(peer.socket.fileno())
            poll.register(peer.socket, select.EPOLLIN)
        for number, _ in poll.poll(1.0):
            if number not in waiting:
                continue
            waiting.discard(number)
            peer = peers[number]
            answer = _receive(peer)
            if len(answer) >= 4 and answer[0] == 0x20 and answer[3] == 0:
                peer.up = True
                result.connections += 1
            else:
                result.refused += 1
                poll.unregister(number)
    return {number: peer for number, peer in peers.items() if peer.up}


def _open(load: Load, index: int, person: Credentials) -> _Peer:
    connection = socket.socket()
    if load.host.startswith("127."):
        connection.bind((f"127.0.0.{1 + index // CONNECTS_PER_SOURCE}", 0))
    connection.connect((load.host, load.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    flags = 0x02 | (0x80 if person.username else 0) | (0x40 if person.password else 0)
    body = _text("MQTT") + bytes((MQTT_3_1_1, flags, 0, 0)) + _text(person.client_id)
    body += (_text(person.username) if person.username else b"") + (_text(person.password) if person.password else b"")
    connection.send(b"\x10" + _length(len(body)) + body)
    topic = load.topic.replace("{username}", person.username or person.client_id)
    return _Peer(connection, _text(topic), sent_at=[0.0] * (load.window + 1))


# -- exchanging -------------------------------------------------------------------------------------------------------------


def _exchange(load: Load, peers: dict[int, _Peer], poll: select.epoll, result: Result) -> None:
    latencies: list[float] = []
    everyone = list(peers.values())
    start = time.perf_counter()
    end = start + load.seconds
    turn = 0
    while everyone:
        now = time.perf_counter()
        if now >= end:
            break
        if load.rate:
            turn = _send_at_rate(load, everyone, result, turn, now - start)
        elif result.sent == 0 or not load.qos:
            for peer in everyone:
                _send(load, peer, result, load.window)
        for number, _ in poll.poll(0.0005 if load.rate or not load.qos else 0.1):
            known = peers.get(number)
            if known is not None:
                freed = _acknowledgements(load, known, result, latencies)
                if freed < 0:
                    result.lost += 1
                    poll.unregister(number)
                    del peers[number]
                    everyone = list(peers.values())
                elif freed and not load.rate and time.perf_counter() < end:
                    _send(load, known, result, freed)
    give_up = time.perf_counter() + GRACE_S
    while load.qos and result.acknowledged < result.sent and time.perf_counter() < give_up and peers:
        for number, _ in poll.poll(0.1):
            known = peers.get(number)
            if known is not None and _acknowledgements(load, known, result, latencies) < 0:
                result.lost += 1
                poll.unregister(number)
                del peers[number]
    result.seconds = time.perf_counter() - start
    result.acknowledged_per_s = (result.acknowledged if load.qos else result.sent) / result.seconds
    result.latency_us = _percentiles(latencies)


def _send_at_rate(load: Load, everyone: list[_Peer], result: Result, turn: int, elapsed_s: float) -> int:
    """As many as are due, round robin; a peer whose window is full is passed over."""
    due = int(elapsed_s * load.rate)
    passed = 0
    while result.sent < due and passed < len(everyone):
        peer = everyone[turn % len(everyone)]
        turn += 1
        if load.qos and peer.sent - peer.acknowledged >= load.window:
            passed += 1
            continue
        passed = 0
        _send(load, peer, result, 1)
    return turn


def _send(load: Load, peer: _Peer, result: Result, count: int) -> None:
    if peer.unsent:
        count = 0
    first = 0x30 | load.qos << 1
    window = load.window
    prefix = peer.prefix
    now = time.perf_counter()
    milliseconds = time.time_ns() // 1_000_000
    parts = []
    for number in range(peer.sent, peer.sent + count):
        body = PAYLOAD % (milliseconds, number % 40, number)
        packet_id = number % window + 1
        peer.sent_at[packet_id] = now
        identifier = packet_id.to_bytes(2, "big") if load.qos else b""
        parts.append(b"%c%b%b%b%b" % (first, _length(len(prefix) + len(identifier) + len(body)), prefix, identifier, body))
    peer.sent += count
    result.sent += count
    data = peer.unsent + b"".join(parts)
    try:
        peer.unsent = data[peer.socket.send(data) :]
    except BlockingIOError:
        peer.unsent = data
    except OSError:
        peer.unsent = b""


def _acknowledgements(load: Load, peer: _Peer, result: Result, latencies: list[float]) -> int:
    """How many PUBACKs came; -1 where the connection has ended."""
    data = _receive(peer)
    if not data:
        return -1
    data = peer.rest + data
    count, rest = divmod(len(data), 4)
    peer.rest = data[len(data) - rest :] if rest else b""
    now = time.perf_counter()
    sent_at = peer.sent_at
    for (packet_id,) in struct.iter_unpack("!2xH", data[: 4 * count]):
        if packet_id <= load.window:
            latencies.append(now - sent_at[packet_id])
    peer.acknowledged += count
    result.acknowledged += count
    return count


def _receive(peer: _Peer) -> bytes:
    try:
        return peer.socket.recv(65_536)
    except OSError:
        return b""


def _percentiles(latencies: list[float]) -> dict[str, float]:
    if not latencies:
        return {}
    ordered = sorted(latencies)
    last = len(ordered) - 1
    return {
        name: round(ordered[round(share * last)] * 1e6)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1))
    }


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _length(length: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Publish as fast as a broker acknowledges, or at a rate.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--window", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--qos", type=int, choices=(0, 1), default=1)
    parser.add_argument("--topic", default="v1/devices/me/telemetry")
    parser.add_argument("--credentials", type=Path, help="lines of: client_id username password")
    options = vars(parser.parse_args())
    path = options.pop("credentials")
    result = run(Load(**options), read_credentials(path) if path else None)
    sys.stdout.write(json.dumps(asdict(result)) + "\n")


if __name__ == "__main__":
    main()

"""An MQTT load generator: many connections in one thread, QoS 0 or 1, a window of unacknowledged messages on each.

Written on epoll and plain sockets, because a load generator shares the machine with what it measures: at a window of 20 it
costs half a microsecond a message, at a window of 1 what the kernel takes for a send and a receive. It counts every
acknowledgement and times it; it never sends again what was not acknowledged, so what it counts is what the broker promised.

Each message is five metrics, one of which, `sent_us`, is the time at which it was made (microseconds since 1970) and differs
from every other of its device: whoever looks at the stored rows can tell a lost message from a doubled one.

A connection is lost when it ends, or when it is answered with anything else than the PUBACKs that are due, in the order of
their messages [MQTT-4.6.0-2].

    python -m headwater.testing.load --port 1883 --connections 100 --window 20 --seconds 10 --credentials FILE
    python -m headwater.testing.load --port 1883 --connections 20000 --hold     # connect, and stay until standard input ends
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from headwater.testing.load import wire
from headwater.testing.load.arrivals import FILES_SPARE, Connection, connect_all, has_ended, raise_file_limit, tls_context
from headwater.testing.load.latency import STEP_S, STEPS, Latencies
from headwater.testing.load.wire import Credentials, read_credentials

GRACE_S = 10.0
"""For the last acknowledgements; what has none after that counts as not acknowledged."""
BODY = b'{"ts":%013d,"values":{"temp":%02d.5,"hum":40.25,"press":1013.2,"batt":3.61,"sent_us":%016d}}'
"""Of one length, whatever the numbers: what stands before it in a packet can be made once."""
BODY_BYTES = len(BODY % (0, 0, 0))
TURN_S = 0.01
"""At a rate, what a connection has to send within it goes together: at a thousand messages/s each alone would be a send."""


@dataclass(frozen=True, slots=True)
class Load:
    """rate       messages a second over all connections, 0 = as fast as the windows allow
    topic      may hold {username}
    tls        for connections that are held, and send nothing
    until_eof  say on standard output that all are connected, and end before `seconds` when standard input does
    """

    host: str
    port: int
    connections: int
    window: int = 1
    seconds: float = 10.0
    rate: float = 0.0
    topic: str = "v1/devices/me/telemetry"
    qos: int = 1
    tls: bool = False
    until_eof: bool = False


@dataclass(slots=True)
class Result:
    """seconds       from the first message to the last acknowledgement
    lost          connections that ended, or that were answered wrongly
    cpu_s         of this process while it exchanged messages: near `seconds`, and it measured itself
    latency_us    from a message's send to its PUBACK; to 10 us, beyond 5 s only `max` says how much
    """

    connections: int = 0
    refused: int = 0
    connect_s: float = 0.0
    lost: int = 0
    sent: int = 0
    acknowledged: int = 0
    seconds: float = 0.0
    acknowledged_per_s: float = 0.0
    cpu_s: float = 0.0
    latency_us: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Peer:
    """heads       what stands before the body of a PUBLISH, by packet identifier, twice round
    waiting     (when, how many) of the messages that are not acknowledged yet, oldest first
    rest        the beginning of a PUBACK
    unsent      what the socket did not take yet
    """

    socket: Connection
    heads: list[bytes]
    sent: int = 0
    acknowledged: int = 0
    waiting: deque[tuple[float, int]] = field(default_factory=deque)
    rest: bytes = b""
    unsent: bytes = b""


def run(load: Load, credentials: list[Credentials] | None = None) -> Result:
    def exchange(group: _Connections) -> None:
        if load.until_eof:
            _say(group.result)
        _Exchange(load, group).run()

    return _with_connections(load, credentials, exchange)


def hold(load: Load, credentials: list[Credentials] | None = None) -> Result:
    """Connect, say so on standard output, stay connected until standard input ends, and say how many were lost."""

    def stay(group: _Connections) -> None:
        _say(group.result)
        sys.stdin.read()
        for number, _ in group.poll.poll(0, group.result.connections + 1):
            group.result.lost += number in group.peers and has_ended(group.peers[number].socket)

    return _with_connections(load, credentials, stay)


@dataclass(slots=True)
class _Connections:
    poll: select.epoll
    peers: dict[int, _Peer]
    """by file number"""
    result: Result


def _with_connections(load: Load, credentials: list[Credentials] | None, use: Callable[[_Connections], None]) -> Result:
    people = credentials or [Credentials(f"load-{i}") for i in range(load.connections)]
    if len(people) < load.connections:
        raise ValueError(f"{load.connections} connections need as many credentials, there are {len(people)}")
    raise_file_limit(load.connections + FILES_SPARE)
    # Nothing here is part of a cycle, and walking through 20,000 connections would look like a slow broker.
    gc.disable()
    result = Result()
    poll = select.epoll()
    peers: dict[int, _Peer] = {}
    try:
        _connect(load, people[: load.connections], result, peers)
        for number in peers:
            poll.register(number, select.EPOLLIN)
        use(_Connections(poll, peers, result))
    finally:
        for peer in peers.values():
            peer.socket.close()
        poll.close()
        gc.enable()
    return result


def _connect(load: Load, people: list[Credentials], result: Result, peers: dict[int, _Peer]) -> None:
    """Those whom the broker took, by file number."""
    start = time.monotonic()
    up, result.refused = connect_all(load.host, load.port, people, tls_context() if load.tls else None)
    result.connect_s = round(time.monotonic() - start, 3)
    result.connections = len(up)
    heads: dict[str, list[bytes]] = {}
    for arrival in up:
        topic = load.topic.replace("{username}", arrival.person.username or arrival.person.client_id)
        if topic not in heads:
            heads[topic] = wire.publish_heads(topic, load.qos, load.window, BODY_BYTES)
        peers[arrival.number] = _Peer(arrival.connection, heads[topic])


# -- exchanging -------------------------------------------------------------------------------------------------------------


class _Exchange:
    """The messages of one run. Its methods are flat and long where a message passes through them."""

    def __init__(self, load: Load, group: _Connections) -> None:
        self._load = load
        self._window = load.window
        self._poll = group.poll
        self._peers = group.peers
        self._result = group.result
        self._due = wire.receipts_due(wire.PUBACK, load.window)
        self._received_bytes = 4 * load.window + 4
        self._latencies = Latencies()
        self._hopeless = 0
        """messages of lost connections that were not acknowledged"""
        self._stamp_us = 0
        self._bodies: list[bytes] = []
        self._ends = False
        if load.until_eof:
            self._poll.register(sys.stdin, select.EPOLLIN)

    def run(self) -> None:
        load, result = self._load, self._result
        cpu, start = time.process_time(), time.perf_counter()
        self._last = start
        end = start + load.seconds
        if load.rate:
            self._at_rate(start, end)
        else:
            self._as_fast_as_windows_allow(end)
        give_up = time.perf_counter() + GRACE_S
        while load.qos and result.acknowledged + self._hopeless < result.sent and time.perf_counter() < give_up:
            self._hear(0.1)
        result.seconds = (self._last if load.qos else time.perf_counter()) - start
        result.acknowledged_per_s = (result.acknowledged if load.qos else result.sent) / max(result.seconds, 1e-9)
        result.cpu_s = round(time.process_time() - cpu, 3)
        result.latency_us = self._latencies.percentiles_us()

    def _as_fast_as_windows_allow(self, end: float) -> None:
        self._new_bodies()
        for peer in list(self._peers.values()):
            self._send(peer, self._load.window)
        while self._peers and not self._ends and time.perf_counter() < end:
            self._hear(0.1 if self._load.qos else 0, answer=True)
            if not self._load.qos:
                self._new_bodies()
                for peer in list(self._peers.values()):
                    self._send(peer, self._load.window)

    def _at_rate(self, start: float, end: float) -> None:
        """As many as are due, round robin; a peer without room for its turn is passed over."""
        load, result, turn = self._load, self._result, 0
        together = max(1, min(load.window // 2, int(load.rate * TURN_S / max(1, len(self._peers)))))
        while self._peers and not self._ends and (now := time.perf_counter()) < end:
            everyone = list(self._peers.values())
            passed, missing = 0, int((now - start) * load.rate) - result.sent
            while missing >= together and passed < len(everyone):
                peer = everyone[turn % len(everyone)]
                turn += 1
                if peer.unsent or (load.qos and peer.sent - peer.acknowledged + together > load.window):
                    passed += 1
                    continue
                passed = 0
                missing -= together
                self._new_bodies()
                self._send(peer, together)
            self._hear(0.0005)

    def _new_bodies(self) -> None:
        """From here on messages carry the present time. Bodies are shared by all peers: each uses one only once."""
        self._stamp_us = max(self._stamp_us + self._load.window, time.time_ns() // 1000)
        self._bodies.clear()

    def _send(self, peer: _Peer, count: int) -> None:
        if peer.unsent:
            return
        bodies = self._bodies
        while len(bodies) < count:
            stamp = self._stamp_us + len(bodies)
            bodies.append(BODY % (stamp // 1000, 10 + stamp % 40, stamp))
        first = peer.sent % self._window
        if count == 1:
            data = peer.heads[first] + bodies[0]
        else:
            data = b"".join([part for packet in zip(peer.heads[first : first + count], bodies) for part in packet])  # noqa: B905  # there are more bodies than heads
        peer.sent += count
        self._result.sent += count
        peer.waiting.append((time.perf_counter(), count))
        self._write(peer, data)

    def _write(self, peer: _Peer, data: bytes) -> None:
        try:
            sent = peer.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the poll says so, too
        if sent < len(data):
            peer.unsent = data[sent:]
            self._poll.modify(peer.socket, select.EPOLLIN | select.EPOLLOUT)

    def _hear(self, timeout_s: float, *, answer: bool = False) -> None:
        """Take what has come; `answer`: and send as much as it has made room for."""
        window, answers = self._load.window, answer and self._load.qos > 0
        peers, acknowledged, send = self._peers, self._acknowledged, self._send
        events = self._poll.poll(timeout_s)
        if answers:
            self._new_bodies()
        for number, event in events:
            peer = peers.get(number)
            if peer is None:
                self._look_at_standard_input(number)
                continue
            if event & select.EPOLLOUT:
                self._go_on_sending(peer)
            if event == select.EPOLLOUT:
                continue
            if not acknowledged(peer):
                self._lose(number)
            elif answers and (room := window - peer.sent + peer.acknowledged):
                send(peer, room)

    def _look_at_standard_input(self, number: int) -> None:
        """Or at a connection that was lost in the same moment."""
        if self._load.until_eof and number == sys.stdin.fileno() and not os.read(number, 4096):
            self._ends = True
            self._poll.unregister(number)

    def _go_on_sending(self, peer: _Peer) -> None:
        data, peer.unsent = peer.unsent, b""
        self._poll.modify(peer.socket, select.EPOLLIN)
        self._write(peer, data)

    def _lose(self, number: int) -> None:
        peer = self._peers.pop(number)
        self._poll.unregister(number)
        self._result.lost += 1
        self._hopeless += peer.sent - peer.acknowledged

    def _acknowledged(self, peer: _Peer) -> bool:
        """Count the PUBACKs that came. False where the connection has ended, or they are not those that are due."""
        data = _receive(peer, self._received_bytes)
        if not data:
            return False
        if peer.rest:
            data, peer.rest = peer.rest + data, b""
        count, more = divmod(len(data), 4)
        first = peer.acknowledged % self._window
        if count > peer.sent - peer.acknowledged or not self._due.startswith(data, 4 * first):
            return False
        if more:
            peer.rest = data[4 * count :]
        peer.acknowledged += count
        self._result.acknowledged += count
        self._last = now = time.perf_counter()
        waiting, latencies = peer.waiting, self._latencies
        while count:
            sent_at, of = waiting[0]
            latency = now - sent_at
            latencies.slowest_s = max(latencies.slowest_s, latency)
            taken = min(of, count)
            latencies.counts[min(int(latency / STEP_S), STEPS)] += taken
            count -= taken
            if taken == of:
                waiting.popleft()
            else:
                waiting[0] = (sent_at, of - taken)
        return True


def _receive(peer: _Peer, bytes_max: int) -> bytes:
    """Empty where the connection has ended."""
    try:
        return peer.socket.recv(bytes_max)
    except OSError:
        return b""


def _say(result: Result) -> None:
    sys.stdout.write(json.dumps(asdict(result)) + "\n")
    sys.stdout.flush()


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
    parser.add_argument("--hold", action="store_true", help="send nothing; stay connected until standard input ends")
    parser.add_argument("--tls", action="store_true", help="with --hold: over TLS, whatever the certificate")
    parser.add_argument("--until-eof", action="store_true", help="say when all are connected; end when standard input does")
    options = vars(parser.parse_args())
    if options["tls"] and not options["hold"]:
        parser.error("--tls needs --hold")
    path, holds = options.pop("credentials"), options.pop("hold")
    credentials = read_credentials(path) if path else None
    _say((hold if holds else run)(Load(**options), credentials))

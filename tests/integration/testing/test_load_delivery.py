"""The deliveries that are counted are those that came: against a broker that delivers, and against some that do not."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from headwater.protocols.mqtt import Connect, PacketReader, Publish, Subscribe
from headwater.protocols.mqtt.packets import PubAck, PubComp, PubRec, PubRel
from headwater.protocols.mqtt.topics import match
from headwater.testing.load import delivery
from headwater.testing.load.delivery import Delivered, Delivery

Fate = Callable[[int], int]
"""The number of a message that came, all publishers together -> how often each of its subscribers gets it"""


def once(_: int) -> int:
    return 1


@dataclass(slots=True)
class Broker:
    """A lock around everything: what it does wrong is what a test says."""

    fate: Fate
    granted: int = 2
    subscriptions: list[tuple[str, socket.socket]] = field(default_factory=list)
    came: int = 0
    receipts: dict[type, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, connection: socket.socket, packet: object) -> None:
        match packet:
            case Connect():
                connection.sendall(b"\x20\x02\x00\x00")
            case Subscribe():
                subscription = packet.subscriptions[0]
                self.subscriptions.append((subscription.topic_filter, connection))
                qos = min(subscription.qos, self.granted)
                connection.sendall(b"\x90\x03" + packet.packet_id.to_bytes(2, "big") + bytes((qos,)))
            case Publish():
                self.deliver(packet)
                if packet.qos:
                    connection.sendall((b"\x40\x02", b"\x50\x02")[packet.qos - 1] + packet.packet_id.to_bytes(2, "big"))
            case PubRec():
                connection.sendall(b"\x62\x02" + packet.packet_id.to_bytes(2, "big"))
            case PubRel():
                connection.sendall(b"\x70\x02" + packet.packet_id.to_bytes(2, "big"))
        self.receipts[type(packet)] = self.receipts.get(type(packet), 0) + 1

    def deliver(self, packet: Publish) -> None:
        topic = packet.topic.encode()
        head = len(topic).to_bytes(2, "big") + topic
        for _ in range(self.fate(self.came)):
            for topic_filter, subscriber in self.subscriptions:
                if match(topic_filter, packet.topic):
                    rest = head + (b"\x12\x34" if packet.qos else b"") + packet.payload
                    assert len(rest) < 128
                    subscriber.sendall(bytes((0x30 | packet.qos << 1, len(rest))) + rest)
        self.came += 1


@contextlib.contextmanager
def broker(fate: Fate = once, granted: int = 2) -> Iterator[tuple[int, Broker]]:
    made = Broker(fate, granted)

    def serve(connection: socket.socket) -> None:
        reader = PacketReader(4)
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                for packet in reader.feed(data):
                    with made.lock:
                        made.answer(connection, packet)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], made
        listener.shutdown(socket.SHUT_RDWR)


def run(port: int, shape: str, *, many: int = 3, qos: int = 0, window: int = 4, seconds: float = 0.2) -> Delivered:
    return delivery.run(Delivery("127.0.0.1", port, shape, many, qos, window, seconds))


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(("shape", "connections", "audience"), [("fan-in", 4, 1), ("fan-out", 4, 3), ("pairs", 6, 1)])
def test_every_delivery_is_counted_once(shape: str, connections: int, audience: int, qos: int) -> None:
    with broker() as (port, made):
        found = run(port, shape, qos=qos)
    assert (found.connections, found.refused, found.lost, found.stalls, found.out_of_turn) == (connections, 0, 0, 0, 0)
    assert found.sent == made.came >= 12 // audience
    assert found.expected == found.delivered == found.sent * audience
    assert set(found.latency_us) == {"p50", "p95", "p99", "max"}
    receipts = {kind: made.receipts.get(kind, 0) for kind in (PubAck, PubRec, PubRel, PubComp)}
    of_publishers = found.sent if qos == 2 else 0
    # The last receipts of subscribers may still be under way.
    assert receipts[PubRel] == of_publishers
    assert receipts[PubAck] <= (found.delivered if qos == 1 else 0)
    if qos:
        assert receipts[(PubAck, PubRec)[qos - 1]] > 0


@pytest.mark.parametrize("qos", [0, 1])
def test_what_does_not_come_is_lost_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, qos: int) -> None:
    monkeypatch.setattr(delivery, "GRACE_S", 0.2)
    with broker(lambda number: 0 if number == 5 else 1) as (port, made):
        found = run(port, "fan-in", qos=qos)
    assert found.expected - found.delivered == 1
    assert found.sent == made.came > 12


def test_a_broker_that_delivers_nothing_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "GRACE_S", 0.2)
    monkeypatch.setattr(delivery, "STALL_S", 0.2)
    with broker(lambda _: 0) as (port, _):
        found = run(port, "pairs", many=1, seconds=0.7)
    # A window at once, and another after each stall.
    assert 1 <= found.stalls <= 3
    assert found.sent == 4 * (1 + found.stalls)
    assert (found.delivered, found.delivered_per_s) == (0, 0)


@pytest.mark.parametrize("shape", ["fan-in", "pairs"])
def test_what_comes_again_is_seen(shape: str) -> None:
    with broker(lambda number: 2 if number == 5 else 1) as (port, _):
        found = run(port, shape)
    assert (found.out_of_turn, found.delivered - found.expected) == (1, 1)


def test_a_subscription_at_a_lower_quality_is_refused() -> None:
    with broker(granted=1) as (port, _), pytest.raises(ConnectionError, match="9003000101"):
        run(port, "pairs", qos=2)


def test_it_is_a_program() -> None:
    with broker() as (port, _):
        argv = [sys.executable, "-m", "headwater.testing.load.delivery", "--port", str(port), "--shape", "fan-out"]
        done = subprocess.run([*argv, "--many", "2", "--seconds", "0.1"], capture_output=True, check=True, timeout=20)
    found = json.loads(done.stdout)
    assert found["delivered"] == found["expected"] > 0

"""The load generator against brokers that keep their promise, and against some that do not."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from headwater.protocols.mqtt import Connect, PacketReader, Publish
from headwater.testing import load
from headwater.testing.load import Load, publish

Answer = Callable[[int, list[Publish]], bytes | None]
"""(number of the connection, publishes that came together) -> what to send; None = end the connection"""


def puback(publish: Publish) -> bytes:
    return b"\x40\x02" + publish.packet_id.to_bytes(2, "big")


def in_order(_: int, publishes: list[Publish]) -> bytes | None:
    return b"".join(map(puback, publishes))


@contextlib.contextmanager
def broker(answer: Answer, got: list[Publish], *, refuse: int = -1) -> Iterator[int]:
    """refuse: the number of a connection that is not accepted"""

    def serve(connection: socket.socket, number: int) -> None:
        reader = PacketReader(4)
        with connection, contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65_536):
                packets = list(reader.feed(data))
                if any(isinstance(packet, Connect) for packet in packets):
                    connection.sendall(b"\x20\x02\x00" + (b"\x05" if number == refuse else b"\x00"))
                publishes = [packet for packet in packets if isinstance(packet, Publish)]
                got.extend(publishes)
                said = answer(number, publishes) if publishes else b""
                if said is None:
                    return
                connection.sendall(said)

    def accept() -> None:
        for number in range(10_000):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection, number), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_every_acknowledgement_is_counted_and_every_message_differs() -> None:
    got: list[Publish] = []
    with broker(in_order, got) as port:
        result = load.run(Load("127.0.0.1", port, connections=3, window=7, seconds=0.3, topic="of/{username}"))
    assert (result.connections, result.refused, result.lost) == (3, 0, 0)
    assert result.sent == result.acknowledged == len(got) >= 21
    values = [msgspec.json.decode(publish.payload)["values"] for publish in got]
    assert {len(one) for one in values} == {5}
    told = {(publish.topic, one["sent_us"]) for publish, one in zip(got, values, strict=True)}
    assert len(told) == len(got)
    assert {topic for topic, _ in told} == {"of/load-0", "of/load-1", "of/load-2"}
    assert set(result.latency_us) == {"p50", "p95", "p99", "max"}


@pytest.mark.parametrize("rate", [200, 4_000])
def test_a_rate_is_kept(rate: int) -> None:
    got: list[Publish] = []
    with broker(in_order, got) as port:
        result = load.run(Load("127.0.0.1", port, connections=4, window=20, seconds=0.5, rate=rate))
    # Never more than is due; how far behind a busy machine falls is not ours to judge.
    assert 0 < result.sent <= rate * 0.5
    assert result.sent == result.acknowledged == len(got)


def test_a_connection_that_ends_is_lost_and_the_others_go_on() -> None:
    got: list[Publish] = []
    with broker(lambda number, publishes: None if number == 1 else in_order(number, publishes), got) as port:
        result = load.run(Load("127.0.0.1", port, connections=3, window=2, seconds=0.3))
    assert (result.connections, result.lost) == (3, 1)
    assert result.sent - result.acknowledged == 2
    assert result.acknowledged >= 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda publishes: b"".join(map(puback, reversed(publishes))),
        lambda publishes: puback(publishes[0]) * 2,
        lambda publishes: b"".join(map(puback, publishes)) * 2,
        lambda publishes: b"\xd0\x00",
    ],
    ids=["out of order", "one twice", "all twice", "no PUBACK"],
)
def test_a_wrong_answer_loses_the_connection(wrong: Callable[[list[Publish]], bytes]) -> None:
    got: list[Publish] = []
    with broker(lambda _, publishes: wrong(publishes), got) as port:
        result = load.run(Load("127.0.0.1", port, connections=1, window=4, seconds=5))
    assert (result.lost, result.acknowledged) == (1, 0)


def test_acknowledgements_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "GRACE_S", 0.2)
    got: list[Publish] = []
    rest: list[bytes] = [b""]

    def in_pieces(_: int, publishes: list[Publish]) -> bytes:
        data = rest[0] + b"".join(map(puback, publishes))
        rest[0] = data[-3:]
        return data[:-3]

    with broker(in_pieces, got) as port:
        result = load.run(Load("127.0.0.1", port, connections=1, window=6, seconds=0.2))
    # The last piece never comes.
    assert (result.lost, result.sent - result.acknowledged) == (0, 1)
    assert result.acknowledged >= 5


def test_who_is_refused_is_counted_and_sends_nothing() -> None:
    got: list[Publish] = []
    with broker(in_order, got, refuse=0) as port:
        result = load.run(Load("127.0.0.1", port, connections=2, window=1, seconds=0.1))
    assert (result.connections, result.refused) == (1, 1)
    assert result.sent == result.acknowledged == len(got)


def test_idle_connections_stay_until_standard_input_ends() -> None:
    with broker(in_order, []) as port:
        argv = [sys.executable, "-m", "headwater.testing.load", "--port", str(port), "--connections", "20", "--hold"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["connections"] == 20
            assert process.poll() is None
            rest, _ = process.communicate(timeout=20)
    assert json.loads(rest)["lost"] == 0

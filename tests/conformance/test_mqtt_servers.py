"""The table over sockets: a gateway does what its session does, and a real mosquitto too, or the row says how it differs."""

from __future__ import annotations

import re
import socket
import time
from collections import defaultdict

import pytest

from headwater.protocols.mqtt import PacketReader
from tests.conformance.cases import CASES, Case, Mosquitto, describe
from tests.conformance.test_mqtt_session import name

ANSWER_S = 5.0
"""For an answer that must come."""
QUIET_S = 0.15
"""How long a mosquitto may think before silence counts as leniency."""
PING, PINGRESP = b"\xc0\x00", "pingresp"


class Peer:
    """A connection that has been sent a row's bytes."""

    def __init__(self, port: int, case: Case) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_S)
        self._packets = PacketReader(case.level)
        self.answer: list[str] = []
        self.is_open = True
        self._socket.sendall(case.sent)

    def read_until(self, count: int, within_s: float) -> None:
        """Until there are so many packets, the server closes, or the time is up."""
        deadline = time.monotonic() + within_s
        while self.is_open and len(self.answer) < count and (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                return
            except ConnectionResetError:
                data = b""
            self.is_open = bool(data)
            self.answer += [
                re.sub(r"(puback|pubrec):(\d+):10", r"\1:\2:00", describe(packet))  # "no matching subscribers": a success
                for packet in self._packets.feed(data)
            ]

    def ping(self) -> bool:
        """Whether the server still answers; whatever else it has to say comes before."""
        count = len(self.answer)
        self._socket.sendall(PING)
        self.read_until(count + 1, ANSWER_S)
        return self.answer[count:] == [PINGRESP] and self.answer.pop() == PINGRESP

    def close(self) -> None:
        self._socket.close()


def ask(port: int, case: Case) -> tuple[list[str], bool]:
    """What the server answers, and whether it keeps the connection."""
    peer = Peer(port, case)
    try:
        if case.stays:
            peer.read_until(len(case.answer.split()), ANSWER_S)
            return peer.answer, peer.ping()
        peer.read_until(1_000, ANSWER_S)
        return peer.answer, peer.is_open
    finally:
        peer.close()


def by_type(words: list[str]) -> dict[str, list[str]]:
    """A server owes an order to packets of one type only: its PUBACK waits for a disk, its PINGRESP for nothing."""
    found: dict[str, list[str]] = defaultdict(list)
    for word in words:
        found[word.partition(":")[0]].append(word)
    return found


@pytest.mark.parametrize("case", CASES, ids=name)
def test_gateway(case: Case, gateway_port: int) -> None:
    answer, stays = ask(gateway_port, case)
    assert by_type(answer) == by_type(case.answer.split())
    assert stays is case.stays


@pytest.mark.parametrize("case", CASES, ids=name)
def test_mosquitto(case: Case, mosquitto_port: int) -> None:
    if case.mosquitto is Mosquitto.LENIENT:
        assert not case.stays
        peer = Peer(mosquitto_port, case)
        peer.read_until(1_000, QUIET_S)
        assert peer.ping()
        peer.close()
        return
    answer, stays = ask(mosquitto_port, case)
    *before, last = case.answer.split() or [""]
    match case.mosquitto:
        case Mosquitto.SAME:
            assert (answer, stays) == (case.answer.split(), case.stays)
        case Mosquitto.SILENT:
            assert (answer, stays) == (before, False)
        case Mosquitto.OTHER_REASON:
            packet_type, _, reason = last.rpartition(":")
            assert (answer[:-1], stays) == (before, case.stays)
            assert answer[-1].startswith(packet_type)
            assert not answer[-1].endswith(reason)

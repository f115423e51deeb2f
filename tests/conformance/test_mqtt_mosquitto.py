"""The same table against a real mosquitto: an established broker does what we do, or the row says how it differs."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.protocols.mqtt import PacketReader
from tests.conformance.cases import CASES, Case, Mosquitto, describe
from tests.conformance.test_mqtt_session import name

MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
QUIET_S = 0.15
"""How long a broker may think before silence counts as an answer."""

pytestmark = pytest.mark.skipif(
    MOSQUITTO is None, reason="mosquitto is not installed: the table ran against our session only"
)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    configuration = tmp_path_factory.mktemp("mosquitto") / "mosquitto.conf"
    configuration.write_text(f"listener {free} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(configuration)], stderr=subprocess.DEVNULL, cwd=Path("/"))
    try:
        _wait_until_it_listens(free)
        yield free
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    pytest.fail("mosquitto did not listen within 10 s")


def ask(port: int, case: Case) -> tuple[str, bool]:
    """What the broker answers, and whether it keeps the connection."""
    received = b""
    may_stay = case.stays or case.mosquitto is Mosquitto.LENIENT
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(case.sent)
        connection.settimeout(QUIET_S if may_stay else 3)
        try:
            while chunk := connection.recv(4096):
                received += chunk
        except TimeoutError:
            return _describe(case.level, received), True
        except ConnectionResetError:
            pass
    return _describe(case.level, received), False


def _describe(level: int, received: bytes) -> str:
    described = " ".join(describe(packet) for packet in PacketReader(level).feed(received))
    return re.sub(r"(puback:\d+):10", r"\1:00", described)  # "no matching subscribers" is a success


@pytest.mark.parametrize("case", CASES, ids=name)
def test_table(case: Case, port: int) -> None:
    answer, stays = ask(port, case)
    before, _, last = case.answer.rpartition(" ")
    match case.mosquitto:
        case Mosquitto.SAME:
            assert (answer, stays) == (case.answer, case.stays)
        case Mosquitto.SILENT:
            assert (answer, stays) == (before, False)
        case Mosquitto.OTHER_REASON:
            packet_type, _, reason = last.partition(":")
            assert re.fullmatch(f"{before} {packet_type}:(?!{reason})..", answer)
            assert not stays
        case Mosquitto.LENIENT:
            assert stays
            assert not case.stays

"""Handshakes, storms and sieges, against a broker that is told whom to welcome."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.support.certificates import Authority

from headwater.testing.load import siege, storm
from headwater.testing.load.handshakes import Handshakes, run
from headwater.testing.load.storm import Devices, Storm
from headwater.testing.load.wire import Credentials

ACCEPTED, REFUSED = b"\x20\x02\x00\x00", b"\x20\x02\x00\x03"
Welcome = Callable[[int], bytes]
"""The number of a connection -> its CONNACK; empty = it is ended"""


@contextlib.contextmanager
def broker(welcome: Welcome, tls: ssl.SSLContext | None = None, came: threading.Semaphore | None = None) -> Iterator[int]:
    """came: released for each connection"""

    def serve(connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True)
            with connection:
                # A CONNECT comes in one piece here, except from besiegers.
                if len(connection.recv(4096)) > 1 and (connack := welcome(number)):
                    connection.sendall(connack)
                    while connection.recv(4096):
                        pass

    def accept() -> None:
        for number in range(1_000_000):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if came is not None:
                came.release()
            threading.Thread(target=serve, args=(connection, number), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority(tmp_path_factory.mktemp("authority")).issue("server"))
    return context


@pytest.mark.parametrize("resume", [False, True])
def test_handshakes_are_full_unless_they_are_to_resume(tls: ssl.SSLContext, resume: bool) -> None:
    with broker(lambda _: ACCEPTED, tls) as port:
        found = run(Handshakes("127.0.0.1", port, at_once=4, seconds=0.3, resume=resume))
    assert found.connected > 4
    assert found.refused == 0
    assert found.resumed == (found.connected if resume else 0)
    assert set(found.latency_us) == {"p50", "p95", "p99", "max"}


def test_a_connection_counts_when_it_is_accepted(tls: ssl.SSLContext) -> None:
    with broker(lambda number: (ACCEPTED, REFUSED, b"")[number % 3], tls) as port:
        found = run(Handshakes("127.0.0.1", port, at_once=1, seconds=0.3))
    assert 0 <= 2 * found.connected - found.refused <= 2


def test_who_is_not_taken_in_a_storm_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "RECONNECT_AFTER_S", 0.0)
    monkeypatch.setattr(storm, "RETRY_S", 0.05)
    # 20 who come, then 20 in the storm of whom none is taken, and 20 again.
    answers = [ACCEPTED] * 20 + [REFUSED] * 12 + [b""] * 8 + [ACCEPTED] * 20
    with broker(lambda number: answers[number]) as port:
        devices = Devices(Storm("127.0.0.1", port, 20), [Credentials(f"device-{i}") for i in range(20)])
        first, found = devices.connect(), devices.storm()
        devices.close()
    assert (first.connected, first.missing) == (20, 0)
    assert (found.connected, found.refused, found.ended, found.missing) == (20, 12, 8, 0)
    assert found.latency_us["p50"] >= 50_000


def test_who_never_comes_back_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "RECONNECT_AFTER_S", 0.0)
    monkeypatch.setattr(storm, "STORM_S", 0.5)
    with broker(lambda number: ACCEPTED if number < 3 else REFUSED) as port:
        devices = Devices(Storm("127.0.0.1", port, 3), [Credentials(f"device-{i}") for i in range(3)])
        devices.connect()
        found = devices.storm()
        devices.close()
    assert (found.connected, found.missing) == (0, 3)


def test_a_storm_for_each_line_of_standard_input() -> None:
    with broker(lambda _: ACCEPTED) as port:
        argv = [sys.executable, "-m", "headwater.testing.load.storm", "--port", str(port), "--connections", "5"]
        done = subprocess.run(argv, input=b"\n\n", capture_output=True, check=True, timeout=30)
    assert [json.loads(line)["connected"] for line in done.stdout.splitlines()] == [5, 5, 5]


@pytest.mark.parametrize("attack", siege.ATTACKS)
def test_besiegers_go_on_until_standard_input_ends(attack: str, tls: ssl.SSLContext) -> None:
    # Who trickles is thrown out after a byte, and comes again; a handshake that is begun waits for ever.
    came = threading.Semaphore(0)
    with broker(lambda _: ACCEPTED, tls if attack == "half-open" else None, came) as port:
        argv = [sys.executable, "-m", "headwater.testing.load.siege", "--port", str(port), "--attack", attack]
        argv += ["--connections", "5", "--rate", "50"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(6):
                assert came.acquire(timeout=20)
            assert process.poll() is None
            said, _ = process.communicate(timeout=20)
    found = json.loads(said)
    assert found["opened"] >= 6
    assert (found["thrown_out"] > 0) is (attack == "trickle")


def test_a_hello_is_a_client_hello() -> None:
    hello = siege.hello()
    assert (hello[0], hello[5]) == (0x16, 0x01)  # RFC 8446, 5.1 and 4


def test_idle_connections_are_held_over_tls(tls: ssl.SSLContext) -> None:
    with broker(lambda _: ACCEPTED, tls) as port:
        argv = [sys.executable, "-m", "headwater.testing.load", "--port", str(port), "--connections", "5", "--hold", "--tls"]
        done = subprocess.run(argv, input=b"", capture_output=True, check=True, timeout=20)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["connections"], line["lost"]) for line in lines] == [(5, 0), (5, 0)]


def test_a_publisher_that_accompanies_ends_with_its_standard_input() -> None:
    with broker(lambda _: ACCEPTED) as port:
        argv = [sys.executable, "-m", "headwater.testing.load", "--port", str(port), "--connections", "2", "--rate", "100"]
        with subprocess.Popen(
            [*argv, "--qos", "0", "--seconds", "600", "--until-eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["connections"] == 2
            rest, _ = process.communicate(timeout=20)
    assert json.loads(rest)["seconds"] < 600

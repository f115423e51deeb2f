"""The home: what it remembers, and what it finds that a killed `up` has left."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from headwater.app.engines.account import write_private
from headwater.app.engines.ports import _ephemeral_lowest, free_port
from headwater.app.home import Home, HomeInUse
from headwater.app.process import start_time
from headwater.app.ready_file import ReadyFile


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    made.open()
    return made


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_secrets_are_made_once_and_for_us_alone(home):
    first = home.secrets()
    assert home.secrets() == first
    assert (home.path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert first.nats not in repr(first)


def test_ports_stay_unless_somebody_took_them(home):
    first = home.decide([], postgres=True, nats=True)
    assert home.decide([], postgres=True, nats=True) == first
    with socket.create_server(("127.0.0.1", first.nats_port)):
        second = home.decide([], postgres=True, nats=True)
    assert second.postgres_port == first.postgres_port
    assert second.nats_port != first.nats_port
    third = home.decide([second.postgres_port], postgres=True, nats=True)
    assert third.postgres_port != second.postgres_port


def test_a_free_port_is_none_that_the_kernel_gives_away():
    assert all(1024 <= free_port() < _ephemeral_lowest() for _ in range(20))


def test_who_asks_for_many_free_ports_gets_different_ones():
    ports = [free_port() for _ in range(900)]  # of 16,000: without a memory some 25 would come twice
    assert len({*ports}) == 900


def test_one_up_at_a_time(home):
    with home.locked(), pytest.raises(HomeInUse), Home(home.path).locked():
        pass
    with home.locked():
        pass


def test_leftovers_are_ended_and_nobody_else(home):
    left, innocent = sleeper(), sleeper()
    try:
        home.write_pid("worker-0", left.pid)
        # A pid that the kernel has given to another process since then.
        write_private(home.run / "gateway-0.pid", f"{innocent.pid} 12345\n")
        write_private(home.run / "api.pid", "nonsense\n")
        assert home.end_leftovers() == ["worker-0"]
        assert left.wait(5) == -signal.SIGTERM
        assert start_time(innocent.pid) is not None
        assert list(home.run.glob("*.pid")) == []
    finally:
        left.kill()
        innocent.kill()
        innocent.wait()


def test_an_earlier_ready_file_is_not_taken_for_the_new_one(tmp_path):
    path = tmp_path / "ready.json"
    path.write_text('{"admin_password": "old"}')
    with ReadyFile(path) as file:
        assert not path.exists()
        assert file.known_password == "old"
    assert path.read_text() == '{"admin_password": "old"}'  # it did not start, so the old one is still the last word


def test_a_private_file_replaces_a_link_and_not_what_it_points_to(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    write_private(link, "new")
    assert target.read_text() == "precious"
    assert not link.is_symlink()

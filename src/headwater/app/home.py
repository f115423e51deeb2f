"""The home: the directory in which one `headwater up` keeps everything it must find again.

    home.json      what was decided at the first start: engine ports, how much the stream may hold
    secrets.json   passwords of the engines and their roles, the key that signs access tokens; mode 0600
    postgres/ nats/   the engines' data, owned by their account; links where that account cannot reach the home
    tls/           its own certificate authority, and what the MQTT ports show; see certificates.py
    logs/          one bounded log a child
    run/           pid files, and `up.json`: what runs now
    lock           held by the one `up` that may use this home

Nothing in here is shared with another home.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from headwater.app.engines.account import Account, engine_directory, write_private
from headwater.app.engines.ports import free_port, is_free
from headwater.app.process import start_time
from headwater.database import roles
from headwater.errors import DomainError
from headwater.stream.topology import GIB

LEFTOVER_S = 30.0
"""A PostgreSQL that was told to stop writes a checkpoint first."""


class HomeInUse(DomainError):
    code = "home.in_use"


class HomeUnusable(DomainError):
    code = "home.unusable"


class Secrets(msgspec.Struct, frozen=True):
    postgres: str
    """of the superuser"""
    roles: dict[str, str]
    nats: str
    api_secret_key: str

    def __repr__(self) -> str:
        return "Secrets(***)"


class Decisions(msgspec.Struct):
    """Kept from the first start; ports change only when somebody else has taken them."""

    uplink_bytes_max: int
    postgres_port: int = 0
    nats_port: int = 0


class ChildState(msgspec.Struct):
    name: str
    state: str
    pid: int | None
    restarts: int
    last_exit: int | None
    since: float
    """Unix time"""


class Up(msgspec.Struct):
    """What runs now: read by `status` and `doctor`."""

    version: str
    pid: int
    started_at: float
    urls: dict[str, str]
    children: list[ChildState] = []


class Home:
    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.logs = self.path / "logs"
        self.run = self.path / "run"

    def open(self) -> None:
        """Make the directories. Raises HomeUnusable."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.logs.mkdir(exist_ok=True, mode=0o700)
            self.run.mkdir(exist_ok=True, mode=0o700)
            os.utime(self.path)
        except OSError as error:
            raise HomeUnusable(
                f"{self.path} cannot be used as a home: {error.strerror}. Choose another with --home"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one `up` at a time. The kernel lets go of the lock however we end."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HomeInUse(f"another `headwater up` uses {self.path}: stop it, or choose another --home") from error
            yield
        finally:
            os.close(descriptor)

    def engine_directory(self, name: str, account: Account | None) -> Path:
        return engine_directory(self.path, name, account)

    def secrets(self) -> Secrets:
        """Made at the first call."""
        path = self.path / "secrets.json"
        if not path.exists():
            made = Secrets(_password(), {role: _password() for role in roles.ROLES}, _password(), _password())
            write_private(path, msgspec.json.encode(made).decode())
        return msgspec.json.decode(path.read_bytes(), type=Secrets)

    def find_secrets(self) -> Secrets | None:
        try:
            return msgspec.json.decode((self.path / "secrets.json").read_bytes(), type=Secrets)
        except OSError:
            return None

    def find_decisions(self) -> Decisions | None:
        try:
            return msgspec.json.decode((self.path / "home.json").read_bytes(), type=Decisions)
        except OSError:
            return None

    def decide(self, taken: Collection[int], *, postgres: bool, nats: bool) -> Decisions:
        """What was decided before, with ports for the engines that we run. taken: ports that we need for ourselves."""
        decisions = self.find_decisions() or Decisions(_stream_bytes(self.path))
        used = set(taken)
        for wanted, setting in ((postgres, "postgres_port"), (nats, "nats_port")):
            port = getattr(decisions, setting)
            if wanted and (not port or port in used or not is_free(port)):
                setattr(decisions, setting, _another_port(used))
            used.add(getattr(decisions, setting))
        write_private(self.path / "home.json", msgspec.json.format(msgspec.json.encode(decisions)).decode() + "\n")
        return decisions

    def write_up(self, up: Up) -> None:
        # A full disk must not stop the supervisor.
        with suppress(OSError):
            write_private(self.run / "up.json", msgspec.json.format(msgspec.json.encode(up)).decode() + "\n")

    def find_up(self) -> Up | None:
        """What `up` last said; only true while its pid lives."""
        try:
            up = msgspec.json.decode((self.run / "up.json").read_bytes(), type=Up)
        except (OSError, msgspec.DecodeError):
            return None
        return up if start_time(up.pid) is not None else None

    def write_pid(self, name: str, pid: int | None) -> None:
        path = self.run / f"{name}.pid"
        with suppress(OSError):  # as above
            if pid is None:
                path.unlink(missing_ok=True)
            else:
                write_private(path, f"{pid} {start_time(pid)}\n")

    def end_leftovers(self) -> list[str]:
        """End what a killed `up` may have left behind, known by pid and start time. Returns their names."""
        found: dict[str, tuple[int, str]] = {}
        for path in sorted(self.run.glob("*.pid")):
            pid_text, _, started = path.read_text().strip().partition(" ")
            if pid_text.isdigit() and started != "None" and start_time(int(pid_text)) == started:
                found[path.stem] = (int(pid_text), started)
            path.unlink(missing_ok=True)
        for name, (pid, _) in found.items():
            _signal(pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
        deadline = time.monotonic() + LEFTOVER_S
        for pid, started in found.values():
            while start_time(pid) == started:
                if time.monotonic() > deadline:
                    _signal(pid, signal.SIGKILL)
                time.sleep(0.05)
        return sorted(found)


def _another_port(used: Collection[int]) -> int:
    while (port := free_port()) in used:
        pass
    return port


def _stream_bytes(path: Path) -> int:
    """The backlog for when PostgreSQL is away: 8 GiB, but never more than a third of a small disk."""
    return max(256 << 20, min(8 * GIB, shutil.disk_usage(path).free // 3))


def _password() -> str:
    return secrets.token_urlsafe(32)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)

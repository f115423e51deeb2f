"""A whole `headwater up` for tests: started as a program, watched from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headwater.app.engines.ports import free_port
from headwater.app.process import die_with_parent, start_time

READY_S = 90
STOP_S = 60


class Installation:
    """home, ready    where it keeps itself, and its ready file
    options       further arguments of `headwater up`
    python        argv that runs Python, where it is not this one
    user          uid, where it is not ours
    """

    def __init__(
        self, directory: Path, *options: str, python: Sequence[str] = (sys.executable,), user: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.home = directory / "home"
        self.ready_file = directory / "ready.json"
        self.output = directory / "output"
        self.ports = {name: free_port() for name in ("http", "mqtt", "mqtts", "ws", "wss", "ingest")}
        self.options = options
        self._python = tuple(python)
        self._user = user
        self._environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [
            *self._python, "-m", "headwater", "up", "--home", str(self.home), "--ready-json", str(self.ready_file),
            *(word for name, port in self.ports.items() for word in (f"--{name}-port", str(port))), *self.options,
        ]  # fmt: skip
        ours = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
        identity: dict[str, Any] = {}
        if self._user is not None:
            identity = {"user": self._user, "group": self._user, "extra_groups": []}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                argv, env=ours | self._environment, cwd="/", stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  # it calls prctl and nothing else
                start_new_session=True, **identity,
            )  # fmt: skip

    def wait_ready(self) -> dict[str, Any]:
        until(self._is_ready, READY_S, lambda: self.output.read_text()[-4000:])
        return json.loads(self.ready_file.read_text())

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"`up` ended with {self.process.returncode}:\n{self.output.read_text()[-4000:]}")
        # The banner comes after the ready file of this start; an older file may lie there.
        return self.ready_file.exists() and self._said().count("Headwater is ready") > self._banners

    def up(self) -> dict[str, Any]:
        self._banners = self._said().count("Headwater is ready") if self.output.exists() else 0
        self.start()
        return self.wait_ready()

    def _said(self) -> str:
        return self.output.read_text(errors="replace")

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(signal_number)
        return self.process.wait(STOP_S)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def children(self) -> dict[str, dict[str, Any]]:
        """What `up` says of each child."""
        said = json.loads((self.home / "run" / "up.json").read_text())
        return {child["name"]: child for child in said["children"]}

    def descendants(self) -> dict[int, str]:
        """pid -> start time of everything that `up` started, directly or not."""
        assert self.process is not None
        found: dict[int, str] = {}
        waiting = [self.process.pid]
        while waiting:
            pid = waiting.pop()
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    pids = [int(text) for text in children.read_text().split()]
                except OSError:
                    continue
                for child in pids:
                    started = start_time(child)
                    if child not in found and started is not None:
                        found[child] = started
                        waiting.append(child)
        return found


def alive(processes: dict[int, str]) -> list[int]:
    return [pid for pid, started in processes.items() if start_time(pid) == started]


def until(condition: Callable[[], Any], timeout_s: float, explain: Callable[[], object] = lambda: "") -> Any:
    """The first true answer of `condition`; fails with `explain()` after the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {explain()}")
        time.sleep(0.05)


@contextmanager
def installation(directory: Path, *options: str, **more: Any) -> Iterator[Installation]:
    """One that runs nothing any more afterwards."""
    made = Installation(directory, *options, **more)
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.terminate()
            try:
                made.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                made.kill()

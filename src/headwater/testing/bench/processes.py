"""Memory and CPU time of processes, from /proc; and how many files they may open.

The kernel remembers the resident peak of a process, so most of it costs nothing. A program of several processes that share
memory (PostgreSQL) is looked at now and then, each page counted once: that walks through page tables, so not often.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Mapping
from pathlib import Path

from headwater.testing.bench.report import Outcome, Process
from headwater.testing.load import raise_file_limit

LOOK_S = 5.0
FILES_SPARE = 256
"""Of a gateway, or of a load generator: what it opens besides its connections."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Usage:
    """What programs use while this is entered. roots: name -> pid of the process that started the others of its program"""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = dict(roots)
        self._cpu: dict[str, float] = {}
        self._peaks: dict[str, int] = dict.fromkeys(roots, 0)
        self._looking: asyncio.Task[None] | None = None
        self.processes: list[Process] = []
        """afterwards"""

    async def __aenter__(self) -> Usage:
        self._cpu = {name: self._cpu_of(name) for name in self._roots}
        self._looking = asyncio.create_task(self._look_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        self._look()
        self.processes = [
            Process(name, self._peaks[name], round(self._cpu_of(name) - self._cpu[name], 2)) for name in self._roots
        ]

    async def _look_for_ever(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(LOOK_S)

    def _look(self) -> None:
        for name in self._roots:
            self._peaks[name] = max(self._peaks[name], self._memory(name))

    def _memory(self, name: str) -> int:
        pids = self._pids(name)
        return peak_bytes(pids[0]) if len(pids) == 1 else sum(map(memory_bytes, pids))

    def _cpu_of(self, name: str) -> float:
        """With that of children that have ended."""
        return sum(map(cpu_s, self._pids(name)))

    def _pids(self, name: str) -> list[int]:
        """Its root, and what that started, except other programs."""
        others = {pid for other, pid in self._roots.items() if other != name}
        found, waiting = [], [self._roots[name]]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            waiting.extend(child for child in _children(pid) if child not in others)
        return found


def permitted(wanted: int, outcome: Outcome) -> int:
    """A connection is a file, in a gateway and in a load generator, which inherit what we are permitted. Says what is left
    out."""
    raise_file_limit(wanted + FILES_SPARE)
    count = min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FILES_SPARE)
    if left_out := wanted - count:
        outcome.skipped.append(f"{left_out:,} connections: a process may open {count + FILES_SPARE:,} files here")
    return count


def memory_bytes(pid: int) -> int:
    """Its proportional share of the memory that it uses; resident memory where the kernel does not tell; 0 = it is gone."""
    return _kibibytes(f"/proc/{pid}/smaps_rollup", "Pss:") or _kibibytes(f"/proc/{pid}/status", "VmRSS:")


def peak_bytes(pid: int) -> int:
    """The most that was ever resident."""
    return _kibibytes(f"/proc/{pid}/status", "VmHWM:")


def cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue  # the thread has ended
    return found


def _kibibytes(path: str, name: str) -> int:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)

"""On what it was measured: figures mean nothing without their machine, and a disk whose fsync costs nothing changes them."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

FSYNCS = 50


def describe(directory: Path) -> dict[str, Any]:
    """directory: where homes are made"""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{_field(Path('/etc/os-release'), 'PRETTY_NAME', '=').strip(chr(34))}, Linux {platform.release()}",
        "directory": str(directory),
        "filesystem": filesystem_of(directory),
        "fsync_ms": fsync_ms(directory),
        "load_average": round(os.getloadavg()[0], 2),
    }


def fsync_ms(directory: Path) -> float:
    """What an append of 4 KiB costs until it is on disk: the median of some."""
    times = []
    with tempfile.NamedTemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(FSYNCS):
            file.write(bytes(4096))
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return round(statistics.median(times) * 1e3, 3)


def filesystem_of(directory: Path) -> str:
    """Of the mount that holds it."""
    found = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place, kind = line.split()[1:3]
        if directory.resolve().is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, kind)
    return found[1]


def _field(path: Path, name: str, mark: str = ":") -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(mark)[2].strip() for line in lines if line.partition(mark)[0].strip() == name), "")

"""What a child process needs that subprocess does not give: it never outlives the one who started it."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
GIVE_BACK_S = 60.0
HANDSHAKES_MIN = 100
"""Some 50 KiB each."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
MAPPED_FROM_BYTES = 128 << 10
"""glibc's own first value"""
SPARE_BYTES_MAX, GROWTH_BYTES = 64 << 20, 1 << 20
"""What may be free at the heap's end until it is given back, and by how much that end moves. With the bound above fixed,
glibc no longer raises the first of itself, and each handshake would move the end to and fro."""
COLLECT = (5_000, 3, 500)
"""Objects that have come and not gone until the young ones are looked at; every fourth time those of the last four times,
every five-hundredth of these all."""
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(signal_number: int = signal.SIGKILL) -> Callable[[], None]:
    """A `preexec_fn`: the kernel sends the signal to the child when its parent dies, however it dies.

    It runs after the child has changed its account, which would have cleared the setting. Elsewhere than on Linux it does
    nothing; there the next start finds the leftovers by their pid files.
    """
    parent = os.getpid()

    def arrange() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
            if os.getppid() != parent:  # it died between fork and prctl
                os._exit(1)

    return arrange


def start_time(pid: int) -> str | None:
    """When a process started, in the kernel's ticks: with the pid it names a process that no later one can be taken for.
    None where there is no such process (or it is a zombie), or no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold blanks
    return None if fields[0] in {"Z", "X"} else fields[19]


def give_memory_back() -> None:
    """Hand what the C library keeps for later back to the system, where it can: for a process that has done its work and
    now only watches."""
    if _libc is not None and hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def collect_rarely() -> None:
    """For a process that makes many objects and hardly a cycle: what the start made is never looked at again, what comes and
    goes with each message hardly ever, and everything once in some ten million objects that stay.

    Never many at once: 0.2 microseconds an object, in which nobody is served (50,000 young ones took 11 ms)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)


async def give_memory_back_for_ever(handshakes: Callable[[], int], *, every_s: float = GIVE_BACK_S) -> None:
    """For a process with TLS connections, whose handshakes leave holes between what stays. A millisecond or a few each time,
    and none where hardly anybody has come.

    handshakes  so many since the start
    """
    counted = 0
    while True:
        await asyncio.sleep(every_s)
        now = handshakes()
        if now - counted >= HANDSHAKES_MIN:
            counted = now
            give_memory_back()


def map_large_blocks() -> None:
    """Large blocks come from the kernel, as empty pages, for as long as the process lives.

    For a process with TLS connections: uvloop has a buffer of 256 KiB for each, of which a page or two are ever used. glibc
    raises its bound as soon as one of them is freed, and then makes the next of what others have used: 50 KiB in memory for
    a connection instead of 34 (2,000 that came one after another). Elsewhere than on glibc it does nothing.
    """
    if _libc is not None and hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
        _libc.mallopt(_M_TRIM_THRESHOLD, SPARE_BYTES_MAX)
        _libc.mallopt(_M_TOP_PAD, GROWTH_BYTES)


def give_way(nice: int) -> None:
    """Leave the processor to others that need it, as `nice` does: 0 = not at all, 19 = wherever anybody else wants it.

    Linux weighs sessions against each other before the processes in them, and each of our programs has a session of its own.
    """
    if nice <= 0:
        return
    os.nice(nice)
    with suppress(OSError):  # a kernel without autogroups
        Path("/proc/self/autogroup").write_text(str(nice))

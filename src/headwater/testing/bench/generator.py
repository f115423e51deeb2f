"""The load generator as a process of its own: it has a core's work to do, and no loop of ours may delay it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from headwater.testing.bench.context import BenchFailed
from headwater.testing.load import Result

_ARGV = (sys.executable, "-m", "headwater.testing.load")


async def publish(
    port: int, connections: int, window: int, seconds: float, *, rate: float = 0, credentials: Path | None = None
) -> Result:
    """To the end, its last acknowledgements included. Raises BenchFailed where not everybody could connect."""
    process = await _start(
        port, connections, "--window", str(window), "--seconds", str(seconds), "--rate", str(rate), credentials=credentials
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    return _read(out, err)


@asynccontextmanager
async def connected(port: int, connections: int, *, credentials: Path | None = None) -> AsyncIterator[Result]:
    """Idle connections while this is entered. Raises BenchFailed where one of them ended."""
    process = await _start(port, connections, "--hold", credentials=credentials)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        first = await process.stdout.readline()
        if not first:
            _, err = await process.communicate()
            raise BenchFailed(err.decode(errors="replace")[-1000:])
        yield _read(first, b"")
        process.stdin.close()
        out, err = await process.communicate()
        if lost := _read(out, err).lost:
            raise BenchFailed(f"{lost} of {connections} idle connections ended")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _start(port: int, connections: int, *options: str, credentials: Path | None) -> asyncio.subprocess.Process:
    argv = [*_ARGV, "--port", str(port), "--connections", str(connections), *options]
    if credentials is not None:
        argv += ["--credentials", str(credentials)]
    return await asyncio.create_subprocess_exec(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _read(out: bytes, err: bytes) -> Result:
    try:
        result = msgspec.json.decode(out, type=Result)
    except msgspec.DecodeError as error:
        raise BenchFailed(f"the load generator failed: {err.decode(errors='replace')[-1000:]}") from error
    if result.refused:
        raise BenchFailed(f"{result.refused} of {result.refused + result.connections} connections were refused")
    return result

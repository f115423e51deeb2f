"""The load generators, each as a process of its own: they have a core's work to do, and no loop of ours may delay it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from headwater.testing.bench.context import BenchFailed
from headwater.testing.bench.options import Delivery
from headwater.testing.load import Result
from headwater.testing.load.delivery import Delivered

_PACKAGE = "headwater.testing.load"
_Found = TypeVar("_Found", Result, Delivered)


async def publish(
    port: int, connections: int, window: int, seconds: float, *, rate: float = 0, credentials: Path | None = None
) -> Result:
    """To the end, its last acknowledgements included. Raises BenchFailed where not everybody could connect."""
    process = await _start(
        port, "--connections", str(connections), "--window", str(window), "--seconds", str(seconds), "--rate", str(rate),
        credentials=credentials,
    )  # fmt: skip
    return _read(*await _end(process), Result)


async def deliver(
    port: int, shape: str, delivery: Delivery, qos: int, seconds: float, *, credentials: Path | None = None
) -> Delivered:
    """From publishers to subscribers. Raises BenchFailed where not everybody could connect, or subscribe."""
    process = await _start(
        port, "--shape", shape, "--many", str(delivery.many), "--window", str(delivery.window), "--qos", str(qos),
        "--seconds", str(seconds), credentials=credentials, program=".delivery",
    )  # fmt: skip
    return _read(*await _end(process), Delivered)


@asynccontextmanager
async def connected(port: int, connections: int, *, credentials: Path | None = None) -> AsyncIterator[Result]:
    """Idle connections while this is entered. Raises BenchFailed where one of them ended."""
    process = await _start(port, "--connections", str(connections), "--hold", credentials=credentials)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        first = await process.stdout.readline()
        if not first:
            _, err = await process.communicate()
            raise BenchFailed(err.decode(errors="replace")[-1000:])
        yield _read(first, b"", Result)
        process.stdin.close()
        if lost := _read(*await process.communicate(), Result).lost:
            raise BenchFailed(f"{lost} of {connections} idle connections ended")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _start(port: int, *options: str, credentials: Path | None, program: str = "") -> asyncio.subprocess.Process:
    argv = [sys.executable, "-m", _PACKAGE + program, "--port", str(port), *options]
    if credentials is not None:
        argv += ["--credentials", str(credentials)]
    return await asyncio.create_subprocess_exec(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def _end(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    try:
        return await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise


def _read(out: bytes, err: bytes, kind: type[_Found]) -> _Found:
    try:
        result = msgspec.json.decode(out, type=kind)
    except msgspec.DecodeError as error:
        raise BenchFailed(f"the load generator failed: {err.decode(errors='replace')[-1000:]}") from error
    if result.refused:
        raise BenchFailed(f"{result.refused} of {result.refused + result.connections} connections were refused")
    return result

"""The load generators, each as a process of its own: they have a core's work to do, and no loop of ours may delay it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from headwater.testing.bench.context import BenchFailed
from headwater.testing.bench.options import Delivery
from headwater.testing.load import Result
from headwater.testing.load.delivery import Delivered
from headwater.testing.load.handshakes import Shaken
from headwater.testing.load.siege import Repelled
from headwater.testing.load.storm import Weathered

_PACKAGE = "headwater.testing.load"
FOR_EVER_S = 3_600.0
"""Longer than anything that it accompanies."""
_Found = TypeVar("_Found", Result, Delivered, Shaken, Weathered, Repelled)


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
async def connected(
    port: int, connections: int, *, credentials: Path | None = None, tls: bool = False
) -> AsyncIterator[Result]:
    """Idle connections while this is entered. Raises BenchFailed where one of them ended."""
    process = await _start(
        port, "--connections", str(connections), "--hold", *(["--tls"] if tls else []), credentials=credentials
    )
    async with _ending(process):
        yield await _line(process, Result)
        if lost := _read(*await _end(process), Result).lost:
            raise BenchFailed(f"{lost} of {connections} idle connections ended")


@asynccontextmanager
async def publishing(
    port: int, connections: int, rate: float, *, credentials: Path | None = None
) -> AsyncIterator[list[Result]]:
    """At a rate, while this is entered; afterwards the list holds what was found. Raises BenchFailed."""
    process = await _start(
        port, "--connections", str(connections), "--rate", str(rate), "--seconds", str(FOR_EVER_S), "--until-eof",
        credentials=credentials,
    )  # fmt: skip
    found: list[Result] = []
    async with _ending(process):
        await _line(process, Result)
        yield found
        found.append(_read(*await _end(process), Result))


async def shake(port: int, seconds: float, *, at_once: int, resume: bool, credentials: Path | None = None) -> Shaken:
    """TLS handshakes, one after the other. Raises BenchFailed."""
    options = ["--seconds", str(seconds), "--at-once", str(at_once), *(["--resume"] if resume else [])]
    return _read(*await _end(await _start(port, *options, credentials=credentials, program=".handshakes")), Shaken)


@asynccontextmanager
async def storms(
    port: int, connections: int, *, credentials: Path | None = None
) -> AsyncIterator[Callable[[], Awaitable[Weathered]]]:
    """Connected devices; each call is a storm, at the end of which they are connected again. Raises BenchFailed."""
    process = await _start(port, "--connections", str(connections), credentials=credentials, program=".storm")

    async def storm() -> Weathered:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        return await _line(process, Weathered)

    async with _ending(process):
        if missing := (await _line(process, Weathered)).missing:
            raise BenchFailed(f"{missing} of {connections} connections were refused")
        yield storm


@asynccontextmanager
async def besieged(port: int, attack: str, *options: str) -> AsyncIterator[list[Repelled]]:
    """Attacked while this is entered; afterwards the list says how it went. Raises BenchFailed."""
    process = await _start(port, "--attack", attack, *options, credentials=None, program=".siege")
    found: list[Repelled] = []
    async with _ending(process):
        yield found
        found.append(_read(*await _end(process), Repelled))


async def _start(port: int, *options: str, credentials: Path | None, program: str = "") -> asyncio.subprocess.Process:
    argv = [sys.executable, "-m", _PACKAGE + program, "--port", str(port), *options]
    if credentials is not None:
        argv += ["--credentials", str(credentials)]
    return await asyncio.create_subprocess_exec(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def _end(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """What it still says; its standard input ends, which some of them wait for."""
    try:
        return await process.communicate(b"")
    except asyncio.CancelledError:
        process.kill()
        raise


@asynccontextmanager
async def _ending(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _line(process: asyncio.subprocess.Process, kind: type[_Found]) -> _Found:
    """The next that it says. Raises BenchFailed."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    return _read(line, b"" if line else (await process.communicate())[1], kind)


def _read(out: bytes, err: bytes, kind: type[_Found]) -> _Found:
    try:
        result = msgspec.json.decode(out, type=kind)
    except msgspec.DecodeError as error:
        raise BenchFailed(f"the load generator failed: {err.decode(errors='replace')[-1000:]}") from error
    if isinstance(result, Result | Delivered) and result.refused:
        raise BenchFailed(f"{result.refused} of {result.refused + result.connections} connections were refused")
    return result

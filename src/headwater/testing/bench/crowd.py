"""(j) What very many connections cost that say nothing: plain and over TLS, of one gateway process and of Mosquitto.

Each contestant is started anew for each kind, because what a process has freed it does not always give back.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec

from headwater.testing.bench import certificate, mosquitto
from headwater.testing.bench.context import Bench
from headwater.testing.bench.generator import connected
from headwater.testing.bench.idle import WARM_UP
from headwater.testing.bench.installation import installation, temporary
from headwater.testing.bench.processes import Usage, memory_bytes, permitted
from headwater.testing.bench.report import Outcome, Process, Row, at_most, spread

PLAIN_KIB_MAX, TLS_KIB_MAX = 8.0, 36.0


class Memory(msgspec.Struct):
    """What idle connections of one kind cost one process."""

    name: str
    tls: bool
    connections: int
    memory_without_bytes: int
    memory_with_bytes: int
    kib_per_connection: float
    connected_per_s: float


class _Door(NamedTuple):
    name: str
    pid: int
    port: int
    credentials: Path | None


async def measure(bench: Bench) -> Outcome:
    outcome = Outcome("crowd")
    count = permitted(bench.options.crowd_connections, outcome)
    if mosquitto.find() is None:
        outcome.skipped.append(mosquitto.ABSENT)
    found: list[Memory] = []
    for tls in (False, True):
        found.append(await _ours(bench, count, tls, outcome.processes))
        if mosquitto.find() is not None:
            found.append(await _theirs(bench, count, tls))
    outcome.rows = [
        Row(
            f"{_kind(one.tls)}, {one.name}", spread([one.connected_per_s]), note=f"{one.kib_per_connection} KiB a connection"
        )
        for one in found
    ]
    outcome.figures = {"connections": count, "memory": msgspec.to_builtins(found)}
    outcome.bars = [
        at_most(
            f"memory per idle connection, {_kind(one.tls)}", one.kib_per_connection,
            TLS_KIB_MAX if one.tls else PLAIN_KIB_MAX, judged=not bench.options.quick, unit="KiB",
        )
        for one in found
        if one.name != "Mosquitto"
    ]  # fmt: skip
    return outcome


def _kind(tls: bool) -> str:
    return "TLS" if tls else "plain"


async def _ours(bench: Bench, count: int, tls: bool, processes: list[Process]) -> Memory:
    async with AsyncExitStack() as stack:
        shown = certificate.make(stack.enter_context(temporary())) if tls else None
        up = await stack.enter_async_context(installation(bench, certificate=shown))
        credentials = await up.devices(count)
        door = _Door("1 gateway", up.programs()["gateway-0"], up.tls_port if tls else up.mqtt_port, credentials)
        async with Usage(up.programs()) as usage:
            memory = await _fill(bench, door, count, tls)
        for process in usage.processes:
            process.name = f"{process.name} ({_kind(tls)})"
        processes += usage.processes
        return memory


async def _theirs(bench: Bench, count: int, tls: bool) -> Memory:
    async with AsyncExitStack() as stack:
        shown = certificate.make(stack.enter_context(temporary())) if tls else None
        running = await stack.enter_async_context(mosquitto.running(bench, shown))
        return await _fill(bench, _Door("Mosquitto", running.pid, running.tls_port or running.port, None), count, tls)


async def _fill(bench: Bench, door: _Door, count: int, tls: bool) -> Memory:
    options = bench.options
    async with connected(door.port, min(WARM_UP, count), credentials=door.credentials, tls=tls):
        pass
    await asyncio.sleep(options.settle_s)
    without = memory_bytes(door.pid)
    bench.say(f"connecting {count:,} devices, {_kind(tls)}, {door.name}")
    async with connected(door.port, count, credentials=door.credentials, tls=tls) as result:
        await asyncio.sleep(options.settle_s)
        with_ = memory_bytes(door.pid)
    kib = round((with_ - without) / count / 1024, 2)
    return Memory(door.name, tls, count, without, with_, kib, round(count / max(result.connect_s, 1e-9), 1))

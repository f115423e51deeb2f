"""(e) What a connection costs that says nothing: the memory of one gateway process with many of them, and without."""

from __future__ import annotations

import asyncio

from headwater.testing.bench.context import Bench
from headwater.testing.bench.generator import connected
from headwater.testing.bench.installation import installation
from headwater.testing.bench.processes import Usage, memory_bytes, permitted
from headwater.testing.bench.report import Outcome, Row, at_most, spread

WARM_UP = 200
"""Connections before the first look: what a gateway loads once is no cost of each."""
BAR_KIB, AIM_KIB = 12.0, 8.0


async def measure(bench: Bench) -> Outcome:
    options = bench.options
    outcome = Outcome("idle")
    count = permitted(options.idle_connections, outcome)
    async with installation(bench) as up:
        credentials = await up.devices(count)
        gateway = up.programs()["gateway-0"]
        async with Usage(up.programs()) as usage:
            async with connected(up.mqtt_port, min(WARM_UP, count), credentials=credentials):
                pass
            await asyncio.sleep(options.settle_s)
            without = memory_bytes(gateway)
            bench.say(f"connecting {count:,} devices")
            async with connected(up.mqtt_port, count, credentials=credentials) as result:
                await asyncio.sleep(options.settle_s)
                with_ = memory_bytes(gateway)
    kib = round((with_ - without) / count / 1024, 2)
    outcome.processes = usage.processes
    outcome.rows = [Row("connecting", spread([count / max(result.connect_s, 1e-9)]), lost=result.refused)]
    outcome.figures = {
        "connections": count, "memory_without_bytes": without, "memory_with_bytes": with_, "kib_per_connection": kib,
    }  # fmt: skip
    outcome.bars = [at_most("memory per idle connection", kib, BAR_KIB, judged=not options.quick, aim=AIM_KIB, unit="KiB")]
    return outcome

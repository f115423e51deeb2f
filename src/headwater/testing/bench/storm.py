"""(k) A storm: all devices lose their connections at once and come back at once. What it costs them, and who stayed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from headwater.testing.bench import mosquitto
from headwater.testing.bench.contest import BUSY, gateways_named
from headwater.testing.bench.context import Bench
from headwater.testing.bench.generator import publishing, storms
from headwater.testing.bench.installation import installation, split
from headwater.testing.bench.processes import Usage, permitted
from headwater.testing.bench.report import Outcome, Row, middle, milliseconds, nothing_lost, spread
from headwater.testing.load import Result
from headwater.testing.load.storm import Weathered

PROBES = 20
"""Devices that stay, and go on publishing, often enough to have a p99 after a second."""
PROBE_RATE = 200.0


@dataclass(slots=True)
class _Side:
    """calm, during  what the devices that stayed saw: before the first storm, and in each"""

    name: str
    port: int
    devices: Path
    probes: Path
    storms: list[Weathered] = field(default_factory=list)
    calm: list[Result] = field(default_factory=list)
    during: list[Result] = field(default_factory=list)

    def rows(self) -> list[Row]:
        cores = sum(one.cpu_s for one in self.storms) / max(1e-9, sum(one.seconds for one in self.storms))
        came_again = sum(one.refused + one.ended for one in self.storms)
        seconds = spread([one.seconds for one in self.storms]).median
        return [
            Row(
                f"CONNACK, {self.name}",
                spread([one.connected_per_s for one in self.storms]),
                middle([milliseconds(one.latency_us) for one in self.storms]),
                sum(one.missing for one in self.storms),
                note=f"all after {seconds:.1f} s, tried again {came_again:,} times, generator {cores:.0%} of a core"
                + (", the limit" if cores > BUSY else ""),
            ),
            *(_puback(f"PUBACK {when}, {self.name}", results) for when, results in self._pubacks().items()),
        ]

    def _pubacks(self) -> dict[str, list[Result]]:
        return {"before": self.calm, "in the storm": self.during}

    def figures(self) -> dict[str, Any]:
        return {"name": self.name, "storms": msgspec.to_builtins(self.storms), "cut_off": self.cut_off}

    @property
    def unacknowledged(self) -> int:
        return sum(one.sent - one.acknowledged for one in (*self.calm, *self.during))

    @property
    def cut_off(self) -> int:
        """Connections of devices that stayed, and whose broker did not."""
        return sum(one.lost for one in (*self.calm, *self.during))


def _puback(what: str, results: list[Result]) -> Row:
    return Row(
        what,
        spread([one.acknowledged_per_s for one in results]),
        middle([milliseconds(one.latency_us) for one in results]),
        sum(one.sent - one.acknowledged for one in results),
    )


async def measure(bench: Bench) -> Outcome:
    options, gateways = bench.options, bench.options.gateways[0]
    outcome = Outcome("storm")
    # The devices that stay have files, too.
    count = permitted(options.storm_connections + PROBES, outcome) - PROBES
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(installation(bench, gateways=gateways))
        devices, probes = split(await up.devices(count + PROBES), count)
        sides = [_Side(gateways_named(gateways), up.mqtt_port, devices, probes)]
        programs = up.programs()
        if mosquitto.find() is None:
            outcome.skipped.append(mosquitto.ABSENT)
        else:
            running = await stack.enter_async_context(mosquitto.running(bench))
            programs["mosquitto"] = running.pid
            # It asks nobody for a password, but its clients need names of their own: a second of a name ends the first.
            sides.append(_Side("Mosquitto", running.port, devices, probes))
        async with Usage(programs) as usage:
            for side in sides:
                await _storms(bench, side, count)
    outcome.processes = usage.processes
    outcome.rows = [row for side in sides for row in side.rows()]
    outcome.figures = {"connections": count, "sides": [side.figures() for side in sides]}
    outcome.bars = [
        nothing_lost("devices that did not come back", sum(one.missing for one in sides[0].storms)),
        nothing_lost("messages without an acknowledgement", sides[0].unacknowledged),
        nothing_lost("connections of devices that stayed", sides[0].cut_off),
    ]
    return outcome


async def _storms(bench: Bench, side: _Side, count: int) -> None:
    options = bench.options
    bench.say(f"connecting {count:,} devices, {side.name}; then {options.storms} storms")
    async with storms(side.port, count, credentials=side.devices) as storm:
        async with publishing(side.port, PROBES, PROBE_RATE, credentials=side.probes) as calm:
            await asyncio.sleep(options.publish_s)
        side.calm += calm
        for _ in range(options.storms):
            async with publishing(side.port, PROBES, PROBE_RATE, credentials=side.probes) as during:
                side.storms.append(await storm())
            side.during += during
            await asyncio.sleep(options.settle_s)

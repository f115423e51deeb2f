"""(l) What attacks by strangers cost a device that is connected: its PUBACKs with and without them.

Two attacks that are cheap for whoever makes them: connections that trickle an endless CONNECT, and TLS handshakes that are
begun and never ended. Rounds alternate: calm, one attack, the other.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from headwater.testing.bench import certificate, mosquitto
from headwater.testing.bench.contest import gateways_named
from headwater.testing.bench.context import Bench
from headwater.testing.bench.generator import besieged, publishing
from headwater.testing.bench.installation import installation, temporary
from headwater.testing.bench.processes import Usage
from headwater.testing.bench.report import Bar, Outcome, Row, at_most, middle, milliseconds, nothing_lost, spread
from headwater.testing.load import Result
from headwater.testing.load.siege import ATTACKS, Repelled

PROBES = 20
PROBE_RATE = 200.0
CALM = "calm"
HEAD_START_S = 1.0
"""Until an attack is under way."""
STRANGERS = {"GATEWAY_EXEMPT_NETWORKS": ""}
"""No address is above suspicion, as `headwater up` has it for those of its own machine."""
RATIO_MAX = 2.0


@dataclass(slots=True)
class _Side:
    name: str
    port: int
    tls_port: int
    credentials: Path | None
    results: dict[str, list[Result]] = field(default_factory=lambda: {name: [] for name in (CALM, *ATTACKS)})
    attacks: dict[str, list[Repelled]] = field(default_factory=lambda: {name: [] for name in ATTACKS})

    def latency_ms(self, when: str) -> dict[str, float]:
        return middle([milliseconds(one.latency_us) for one in self.results[when]])

    def ratio(self, attack: str, percentile: str) -> float | None:
        with_, without = self.latency_ms(attack).get(percentile), self.latency_ms(CALM).get(percentile)
        return round(with_ / without, 3) if with_ is not None and without else None

    def row(self, when: str) -> Row:
        results = self.results[when]
        begun, thrown_out = (
            sum(getattr(one, name) for one in self.attacks.get(when, ())) for name in ("opened", "thrown_out")
        )
        return Row(
            f"PUBACK, {when}, {self.name}",
            spread([one.acknowledged_per_s for one in results]),
            self.latency_ms(when),
            sum(one.sent - one.acknowledged for one in results),
            note=f"{begun:,} strangers, {thrown_out:,} thrown out" if begun else "",
        )

    def bars(self, *, judged: bool) -> list[Bar]:
        return [
            at_most(f"PUBACK, {attack}, {p} to that of calm", self.ratio(attack, p), RATIO_MAX, judged=judged, unit="x")
            for attack in ATTACKS
            for p in ("p50", "p99")
        ]


async def measure(bench: Bench) -> Outcome:
    options, gateways = bench.options, bench.options.gateways[0]
    outcome = Outcome("siege")
    async with AsyncExitStack() as stack:
        shown = certificate.make(stack.enter_context(temporary()))
        up = await stack.enter_async_context(installation(bench, gateways=gateways, settings=STRANGERS, certificate=shown))
        sides = [_Side(gateways_named(gateways), up.mqtt_port, up.tls_port, await up.devices(PROBES))]
        programs = up.programs()
        if mosquitto.find() is None:
            outcome.skipped.append(mosquitto.ABSENT)
        else:
            running = await stack.enter_async_context(mosquitto.running(bench, shown))
            programs["mosquitto"] = running.pid
            sides.append(_Side("Mosquitto", running.port, running.tls_port, None))
        async with Usage(programs) as usage:
            bench.say(f"{options.rounds} rounds of {options.publish_s:g} s: calm, and under each attack")
            for _ in range(options.rounds):
                for side in sides:
                    await _round(bench, side)
    outcome.processes = usage.processes
    outcome.rows = [side.row(when) for side in sides for when in side.results]
    outcome.figures = {
        "connections": options.siege_connections, "rate": options.siege_rate,
        "sides": [{"name": side.name, "attacks": msgspec.to_builtins(side.attacks)} for side in sides],
    }  # fmt: skip
    outcome.bars = sides[0].bars(judged=not options.quick)
    lost = sum(one.sent - one.acknowledged for results in sides[0].results.values() for one in results)
    outcome.bars.append(nothing_lost("messages without an acknowledgement", lost))
    return outcome


async def _round(bench: Bench, side: _Side) -> None:
    options = bench.options
    side.results[CALM] += await _probe(side, options.publish_s)
    for attack in ATTACKS:
        port = side.tls_port if attack == "half-open" else side.port
        numbers = ("--connections", str(options.siege_connections), "--rate", str(options.siege_rate))
        async with besieged(port, attack, *numbers) as repelled:
            await asyncio.sleep(HEAD_START_S)
            side.results[attack] += await _probe(side, options.publish_s)
        side.attacks[attack] += repelled


async def _probe(side: _Side, seconds: float) -> list[Result]:
    async with publishing(side.port, PROBES, PROBE_RATE, credentials=side.credentials) as found:
        await asyncio.sleep(seconds)
    return found

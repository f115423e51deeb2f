"""(a) How fast a device is acknowledged: QoS 1 through the real gateway, and through Mosquitto, in alternating rounds.

With authentication, authorisation, validation and normalisation on, and each acknowledgement after its fsync; Mosquitto is
anonymous and in memory. Workers stand still meanwhile, unless asked for: this is about the way up to the acknowledgement,
and `end-to-end` about the whole.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from headwater.testing.bench import mosquitto
from headwater.testing.bench.context import Bench
from headwater.testing.bench.generator import publish
from headwater.testing.bench.installation import installation
from headwater.testing.bench.options import Shape
from headwater.testing.bench.processes import Usage
from headwater.testing.bench.report import Bar, Outcome, Row, at_least, middle, milliseconds, nothing_lost, spread
from headwater.testing.load import Result

WARM_UP_S = 1.0
"""Before the first round of each: the first message of a connection takes a longer way."""


@dataclass(slots=True)
class _Side:
    """The rounds of one contestant under one shape."""

    name: str
    results: list[Result] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        return [result.acknowledged_per_s for result in self.results]

    @property
    def lost(self) -> int:
        return sum(result.sent - result.acknowledged for result in self.results)

    def row(self, shape: Shape) -> Row:
        generator = sum(r.cpu_s for r in self.results) / max(1e-9, sum(r.seconds for r in self.results))
        return Row(
            f"{shape}, {self.name}",
            per_s=spread(self.rates),
            latency_ms=middle([milliseconds(result.latency_us) for result in self.results]),
            lost=self.lost,
            note=f"generator {generator:.0%} of a core",
        )


@dataclass(slots=True)
class _Duel:
    """Both under one shape; without Mosquitto there is nobody to compare with."""

    shape: Shape
    gateways: int
    ours: _Side
    theirs: _Side = field(default_factory=lambda: _Side("Mosquitto"))

    @property
    def ratio(self) -> float | None:
        if not self.theirs.results:
            return None
        return round(spread(self.ours.rates).median / spread(self.theirs.rates).median, 3)

    @property
    def ratios(self) -> list[float]:
        """Round by round"""
        return [round(a / b, 3) for a, b in zip(self.ours.rates, self.theirs.rates, strict=False)]


async def measure(bench: Bench) -> Outcome:
    outcome = Outcome("publish")
    if mosquitto.find() is None:
        outcome.skipped.append(mosquitto.ABSENT)
    duels: list[_Duel] = []
    for gateways in bench.options.gateways:
        duels += await _with_gateways(bench, gateways, outcome)
    for duel in duels:
        outcome.rows += [side.row(duel.shape) for side in (duel.ours, duel.theirs) if side.results]
    outcome.figures["ratios"] = [
        {
            "connections": duel.shape.connections, "window": duel.shape.window, "gateways": duel.gateways,
            "ratio": duel.ratio, "rounds": duel.ratios,
        }
        for duel in duels
    ]  # fmt: skip
    outcome.bars = [_bar(shape, [d for d in duels if d.shape == shape], bench) for shape in bench.options.shapes]
    outcome.bars.append(nothing_lost("messages without an acknowledgement", sum(duel.ours.lost for duel in duels)))
    return outcome


async def _with_gateways(bench: Bench, gateways: int, outcome: Outcome) -> list[_Duel]:
    options = bench.options
    name = "1 gateway" if gateways == 1 else f"{gateways} gateways"
    duels = [_Duel(shape, gateways, _Side(name)) for shape in options.shapes]
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(installation(bench, gateways=gateways))
        credentials = await up.devices(max(shape.connections for shape in options.shapes))
        programs = up.programs()
        their_port = 0
        if mosquitto.find() is not None:
            their_port, programs["mosquitto"] = await stack.enter_async_context(mosquitto.running(bench))
        with nullcontext() if options.with_store else up.workers_held():
            async with Usage(programs) as usage:
                for duel in duels:
                    await _rounds(bench, duel, up.mqtt_port, credentials, their_port)
    for process in usage.processes:
        process.name = f"{process.name} ({name})"
    outcome.processes += usage.processes
    return duels


async def _rounds(bench: Bench, duel: _Duel, port: int, credentials: Path, their_port: int) -> None:
    options, connections, window = bench.options, duel.shape.connections, duel.shape.window
    bench.say(f"publishing, {duel.shape}, {duel.ours.name}: {options.rounds} rounds of {options.publish_s:g} s each")
    for seconds in (min(WARM_UP_S, options.publish_s), *[options.publish_s] * options.rounds):
        duel.ours.results.append(await publish(port, connections, window, seconds, credentials=credentials))
        if their_port:
            duel.theirs.results.append(await publish(their_port, connections, window, seconds))
    del duel.ours.results[0], duel.theirs.results[:1]


def _bar(shape: Shape, duels: list[_Duel], bench: Bench) -> Bar:
    """With as many gateways as serve best."""
    best = max(duels, key=lambda duel: duel.ratio or 0.0)
    return at_least(
        f"{shape}, of Mosquitto's rate, {best.ours.name}", best.ratio, shape.bar, judged=not bench.options.quick,
        aim=shape.aim, unit="x", low=min(best.ratios, default=None), high=max(best.ratios, default=None),
    )  # fmt: skip

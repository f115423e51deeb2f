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
from headwater.testing.bench.contest import Duel, Round, Side, gateways_named
from headwater.testing.bench.context import Bench
from headwater.testing.bench.generator import publish
from headwater.testing.bench.installation import installation
from headwater.testing.bench.options import Shape
from headwater.testing.bench.processes import Usage
from headwater.testing.bench.report import Bar, Outcome, milliseconds, nothing_lost
from headwater.testing.load import Result

WARM_UP_S = 1.0
"""Before the first round of each: the first message of a connection takes a longer way."""


@dataclass(slots=True)
class _Duel(Duel):
    """shape and gateways: of `what`"""

    shape: Shape = field(kw_only=True)
    gateways: int = field(kw_only=True)


async def measure(bench: Bench) -> Outcome:
    outcome = Outcome("publish")
    if mosquitto.find() is None:
        outcome.skipped.append(mosquitto.ABSENT)
    duels: list[_Duel] = []
    for gateways in bench.options.gateways:
        duels += await _with_gateways(bench, gateways, outcome)
    for duel in duels:
        outcome.rows += duel.rows
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
    name = gateways_named(gateways)
    duels = [_Duel(str(shape), Side(name), shape=shape, gateways=gateways) for shape in options.shapes]
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(installation(bench, gateways=gateways))
        credentials = await up.devices(max(shape.connections for shape in options.shapes))
        programs = up.programs()
        their_port = 0
        if mosquitto.find() is not None:
            their_port, _, programs["mosquitto"] = await stack.enter_async_context(mosquitto.running(bench))
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

    async def ours(seconds: float = options.publish_s) -> Round:
        return _round(await publish(port, connections, window, seconds, credentials=credentials))

    async def theirs(seconds: float = options.publish_s) -> Round:
        return _round(await publish(their_port, connections, window, seconds))

    warm_up_s = min(WARM_UP_S, options.publish_s)
    await ours(warm_up_s)
    if their_port:
        await theirs(warm_up_s)
    await duel.fight(options.rounds, ours, theirs if their_port else None)


def _round(result: Result) -> Round:
    return Round(
        result.acknowledged_per_s,
        milliseconds(result.latency_us),
        result.sent - result.acknowledged,
        result.cpu_s,
        result.seconds,
    )


def _bar(shape: Shape, duels: list[_Duel], bench: Bench) -> Bar:
    """With as many gateways as serve best."""
    best = max(duels, key=lambda duel: duel.ratio or 0.0)
    return best.bar(shape.bar, judged=not bench.options.quick, aim=shape.aim)

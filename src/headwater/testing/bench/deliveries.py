"""(f) fan-in, (g) fan-out, (h) pairs: ordinary messages from publishers to subscribers, through us and through Mosquitto.

Deliveries are counted, at the subscriber, and loops are closed: neither broker gains by taking what it does not deliver.
Ours authenticates every connection and authorises every topic, and acknowledges at QoS 1 and 2 what is stored; Mosquitto is
anonymous and in memory.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from headwater.testing.bench import mosquitto
from headwater.testing.bench.contest import Duel, Round, Side, gateways_named
from headwater.testing.bench.context import Bench
from headwater.testing.bench.generator import deliver
from headwater.testing.bench.installation import installation
from headwater.testing.bench.options import Delivery
from headwater.testing.bench.processes import Usage
from headwater.testing.bench.report import Outcome, milliseconds, nothing_lost

WARM_UP_S = 1.0
"""Before the first round of each: the first message of a connection takes a longer way."""


async def measure_fan_in(bench: Bench) -> Outcome:
    return await _measure(bench, "fan-in", bench.options.fan_in, "publishers")


async def measure_fan_out(bench: Bench) -> Outcome:
    return await _measure(bench, "fan-out", bench.options.fan_out, "subscribers")


async def measure_pairs(bench: Bench) -> Outcome:
    return await _measure(bench, "pairs", bench.options.pairs, "pairs")


async def _measure(bench: Bench, shape: str, delivery: Delivery, noun: str) -> Outcome:
    options, gateways = bench.options, bench.options.gateways[0]
    outcome = Outcome(shape)
    duels = [Duel(f"{delivery.many:,} {noun}, QoS {qos}", Side(gateways_named(gateways))) for qos in delivery.qualities]
    out_of_turn = dict.fromkeys(delivery.qualities, 0)
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(installation(bench, gateways=gateways))
        credentials = await up.devices(2 * delivery.many if shape == "pairs" else delivery.many + 1, ordinary=True)
        programs = up.programs()
        their_port = 0
        if mosquitto.find() is None:
            outcome.skipped.append(mosquitto.ABSENT)
        else:
            their_port, _, programs["mosquitto"] = await stack.enter_async_context(mosquitto.running(bench))

        async def run(port: int, qos: int, seconds: float, people: Path | None) -> Round:
            found = await deliver(port, shape, delivery, qos, seconds, credentials=people)
            if people is not None:
                out_of_turn[qos] += found.out_of_turn
            return Round(
                found.delivered_per_s,
                milliseconds(found.latency_us),
                found.expected - found.delivered,
                found.cpu_s,
                found.seconds,
            )

        async with Usage(programs) as usage:
            for duel, qos in zip(duels, delivery.qualities, strict=True):
                bench.say(f"{duel.what}: {options.rounds} rounds of {options.publish_s:g} s each")
                await run(up.mqtt_port, qos, min(WARM_UP_S, options.publish_s), credentials)
                ours = partial(run, up.mqtt_port, qos, options.publish_s, credentials)
                theirs = partial(run, their_port, qos, options.publish_s, None)
                await duel.fight(options.rounds, ours, theirs if their_port else None)
    outcome.processes = usage.processes
    outcome.rows = [row for duel in duels for row in duel.rows]
    outcome.figures["ratios"] = [
        {"qos": qos, "ratio": duel.ratio, "rounds": duel.ratios, "out_of_turn": out_of_turn[qos]}
        for qos, duel in zip(delivery.qualities, duels, strict=True)
    ]  # fmt: skip
    outcome.bars = [duel.bar(delivery.bar, judged=not options.quick) for duel in duels]
    outcome.bars += [
        nothing_lost("messages that were not delivered", sum(duel.ours.lost for duel in duels)),
        # At QoS 1 a message may come again.
        nothing_lost("QoS 0 and 2: came again, or after a later one", sum(n for qos, n in out_of_turn.items() if qos != 1)),
    ]
    return outcome

"""(b) What the whole carries for as long as one likes: from devices to rows, each acknowledged message stored exactly once.

The rate that is asked for, or one that can be held: first as fast as the windows allow for some seconds, until all of it is
stored. Where the store followed, the whole time is done like that; otherwise with nine tenths of what was stored, and with
less where the backlog still grew.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import msgspec

from headwater.testing.bench import mosquitto
from headwater.testing.bench.backlog import Backlog, Sample, growth_s
from headwater.testing.bench.context import Bench
from headwater.testing.bench.generator import publish
from headwater.testing.bench.installation import installation
from headwater.testing.bench.options import Options
from headwater.testing.bench.processes import Usage
from headwater.testing.bench.report import Outcome, Row, at_least, at_most, milliseconds, nothing_lost, spread
from headwater.testing.load import Result

ATTEMPTS = 3
SHARE = 0.9
"""Of what a short run carried; what it left for later (roll-ups, checkpoints) must fit, too."""
LESS = 0.85
GROWTH_S_MAX = 1.0
"""A store that is a hundredth too slow is a second further behind after a hundred seconds. What a roll-up or a checkpoint
does is less."""
REFERENCE_ROUNDS = 2
"""Before, and as many afterwards."""

_COUNT = """
SELECT coalesce(sum(copies), 0)::bigint AS rows, count(*) AS messages
FROM (
    SELECT count(*) AS copies
    FROM headwater.telemetry, (SELECT id FROM headwater.metric WHERE name = 'sent_us') AS sent
    GROUP BY device_id, numbers[array_position(metrics, sent.id)]
) AS each_message
"""


_SIZE = "SELECT pg_database_size(current_database())"


class Run(msgspec.Struct):
    """One run of the load generator, until everything of it was stored.

    stored_per_s   from the first message to the moment in which the last one was stored
    drained_s      from the last acknowledgement to that moment
    """

    rate_wanted: float
    sent: int
    acknowledged: int
    acknowledged_per_s: float
    stored_per_s: float
    drained_s: float
    backlog_growth_s: float
    backlog: list[Sample]
    latency_ms: dict[str, float]
    generator_cores: float


async def measure(bench: Bench) -> Outcome:
    options, shape, judged = bench.options, bench.options.end_to_end_shape, not bench.options.quick
    outcome = Outcome("end-to-end")
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(installation(bench, gateways=options.gateways[0]))
        credentials = await up.devices(shape.connections)
        connection = await stack.enter_async_context(up.database())
        client = await stack.enter_async_context(up.nats())
        backlog = Backlog(client, connection, up.settings.nats.lanes)

        reference = await _reference(bench, outcome)
        empty = await connection.fetchval(_SIZE)
        async with Usage(up.programs()) as usage:
            runs = await _Runner(bench, backlog, up.mqtt_port, credentials).runs()
        reference += await _reference(bench, outcome)

        sent, acknowledged = (sum(getattr(run, name) for run in runs) for name in ("sent", "acknowledged"))
        bench.say("counting what was stored")
        counted = await connection.fetchrow(_COUNT, timeout=600)
        size = await connection.fetchval(_SIZE) - empty

    held = runs[-1]
    ratio = round(held.stored_per_s / spread(reference).median, 3) if reference else None
    outcome.processes = usage.processes
    outcome.rows = [
        Row(
            "acknowledged",
            spread([held.acknowledged_per_s]),
            held.latency_ms,
            held.sent - held.acknowledged,
            note=f"generator {held.generator_cores:.0%} of a core",
        ),
        Row("stored", spread([held.stored_per_s]), lost=max(0, acknowledged - counted["messages"])),
    ]
    if reference:
        outcome.rows.append(Row(f"Mosquitto, {shape}, acknowledged", spread(reference)))
    outcome.figures = {
        "messages_acknowledged": acknowledged,
        "messages_stored": counted["messages"],
        "rows_stored": counted["rows"],
        "backlog_batches_max": max((sample.batches for sample in held.backlog), default=0),
        "backlog_behind_s_max": max((sample.behind_s for sample in held.backlog), default=0.0),
        "backlog_growth_s": held.backlog_growth_s,
        "drained_s": held.drained_s,
        "database_bytes_per_message": round(size / max(1, counted["messages"])),
        "runs": msgspec.to_builtins(runs),
    }
    outcome.bars = [
        at_least("sustained, of Mosquitto's bare rate", ratio, shape.bar, judged=judged, aim=shape.aim, unit="x",
                 low=round(held.stored_per_s / max(reference), 3) if reference else None,
                 high=round(held.stored_per_s / min(reference), 3) if reference else None),
        at_most("backlog growth", held.backlog_growth_s, GROWTH_S_MAX, judged=judged, unit="s"),
        nothing_lost("acknowledged messages that were not stored", max(0, acknowledged - counted["messages"])),
        nothing_lost("rows that repeat a message", counted["rows"] - counted["messages"]),
        nothing_lost("messages without an acknowledgement", sent - acknowledged),
    ]  # fmt: skip
    return outcome


async def _reference(bench: Bench, outcome: Outcome) -> list[float]:
    """Mosquitto's rates, while our installation has nothing to do."""
    if mosquitto.find() is None:
        outcome.skipped = [mosquitto.ABSENT]
        return []
    options, shape = bench.options, bench.options.end_to_end_shape
    bench.say(f"Mosquitto, {shape}: {REFERENCE_ROUNDS} rounds of {options.publish_s:g} s")
    async with mosquitto.running(bench) as theirs:
        rounds = [
            await publish(theirs.port, shape.connections, shape.window, options.publish_s) for _ in range(REFERENCE_ROUNDS)
        ]
    return [result.acknowledged_per_s for result in rounds]


@dataclass(frozen=True, slots=True)
class _Runner:
    bench: Bench
    backlog: Backlog
    port: int
    credentials: Path

    async def runs(self) -> list[Run]:
        """The last one is what was found."""
        options = self.bench.options
        if options.rate is not None:
            return [await self._run(options.rate, options.end_to_end_s)]
        runs = [await self._run(0, options.search_s)]
        for attempt in range(ATTEMPTS):
            last = runs[-1]
            fast_enough = not attempt and followed(last, options)
            rate = 0.0 if fast_enough else (LESS if last.rate_wanted else SHARE) * last.stored_per_s
            runs.append(await self._run(rate, options.end_to_end_s))
            if runs[-1].backlog_growth_s <= GROWTH_S_MAX:
                break
        return runs

    async def _run(self, rate: float, seconds: float) -> Run:
        shape = self.bench.options.end_to_end_shape
        how = f"{rate:,.0f} messages/s" if rate else "as fast as it can"
        self.bench.say(f"publishing for {seconds:g} s, {shape}, {how}")
        async with self.backlog:
            result = await publish(
                self.port, shape.connections, shape.window, seconds, rate=rate, credentials=self.credentials
            )
        last_acknowledgement = monotonic()
        await self.backlog.drained()
        drained_s = monotonic() - last_acknowledgement
        samples = _while_it_came(self.backlog.samples, result)
        return Run(
            rate_wanted=round(rate),
            sent=result.sent,
            acknowledged=result.acknowledged,
            acknowledged_per_s=round(result.acknowledged_per_s, 1),
            stored_per_s=round(result.acknowledged / (result.seconds + drained_s), 1),
            drained_s=round(drained_s, 2),
            backlog_growth_s=growth_s(samples),
            backlog=samples,
            latency_ms=milliseconds(result.latency_us),
            generator_cores=round(result.cpu_s / max(result.seconds, 1e-9), 2),
        )


def followed(search: Run, options: Options) -> bool:
    """Would the backlog stay where it is for as long as the real run lasts?"""
    return search.backlog_growth_s * options.end_to_end_s / options.search_s <= GROWTH_S_MAX


def _while_it_came(samples: list[Sample], result: Result) -> list[Sample]:
    """Without those before the first message and after the last: the load generator starts and ends, too."""
    last = samples[-1].at_s if samples else 0.0
    end_s = last if result.seconds <= 0 else min(last, result.connect_s + result.seconds)
    return [sample for sample in samples if sample.at_s <= end_s]

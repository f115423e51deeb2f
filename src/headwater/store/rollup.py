"""Roll-ups: raw telemetry becomes minutes, minutes become hours and days, each value counted exactly once.

A pass takes what the store has written since the last one, as the ledger tells, of all lanes at once, and moves their
positions `rollup` in the transaction that adds the minutes: all of it or nothing. Late data are no case of their own; a
device may come back with last year's. What the positions do not cover yet, queries read from the raw rows.

Hours and days would cost more than everything else if each pass brought them up to date: two rows a metric changed for the
few values that a device sends in a minute. So minutes are folded into them seldom, and each minute once. The frontier says
how far; what was observed from there on, queries add from the minutes. Where a pass brings values from before the frontier,
it adds them to hours and days itself.

A pass ends with a whole minute of the store's time, because a minute that two passes have read has two rows. Slow devices
have minutes, too: one with a single message is a row without four of its arrays, no larger than the raw one. A query about
them gains nothing by it, but need not tell devices apart.

Measured on two cores, with messages of five metrics: CPU in microseconds a message, bytes with indexes. In brackets, what
one row a metric, minute, hour and day would take, updated every 27 s.

    period of a device   the store   a pass   folding   sum   (rows)   bytes of minutes   (rows)   raw
    0.1 s                8           2.2      0.05      2.3   (4)      1                  (5)      272
    1 s                  10          2.3      0.1       2.4   (8)      15                 (47)     258
    10 s                 10 to 16    3.1      0.9       4     (46)     84 to 124          (480)    250
    60 s                 14 to 38    3.9      4         8     (87)     247                (1070)   259

Locks are taken in the order in which everybody takes them who reads these tables: parents first; rows of hours and days in
the order of their key. What retention locks does not wait for us (store/erasure.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import structlog

from headwater.clock import Clock, to_datetime
from headwater.store import rollup_sql
from headwater.store.partitions import PartitionKeeper
from headwater.store.rollup_sql import LATE, RAW, SEVERAL, SINGLE, Rows
from headwater.store.sums import GUARDED, PLAIN, Sums
from headwater.stream.position import PositionLost, move_position

log = structlog.get_logger(__name__)

CONSUMER = "rollup"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ROWS_MAX = 800_000
"""Raw rows of a pass: a minute of 12,000 messages a second, in about three seconds. Nobody waits for it but who wants to
drop a partition."""
ENTRIES_MAX = 2_000
"""Of the ledger, looked at for each lane; 100 s of a busy store. The rest waits for the next pass."""
SETTLE = timedelta(minutes=5)
"""The frontier stays so far behind: nearly everything has arrived by then."""
UNFOLDED_MAX = 1_000_000
"""Rows of minutes, about: from here on they are folded before the hour is full. A query about everybody reads them all, for
about half a second."""
STEP_MIN = timedelta(minutes=5)
"""But not sooner: folding costs two rows a series, however few minutes there are."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """moves    (lane, position, target) of the lanes that go on
    reached  all that was stored before is rolled up after it
    more     what is ready would be too much for one pass
    """

    moves: Sequence[tuple[int, int, int]]
    reached: datetime
    more: bool


class RollupDuty:
    """A `database.duty.Duty`."""

    name = "rollup"

    def __init__(self, partitions: PartitionKeeper, clock: Clock, *, every_s: float = 20.0) -> None:
        self.every_s = every_s
        self._partitions = partitions
        self._clock = clock

    async def perform(self, session: Any) -> bool:
        plan = await self._plan(session)
        if plan.moves:
            await _guarded(lambda sums: self._pass(session, plan, sums))
        await self._fold_what_is_due(session, plan.reached)
        return plan.more

    async def _plan(self, session: Any) -> _Plan:
        await session.execute(rollup_sql.ADD_LANES, CONSUMER)
        # By our own clock, which may differ from PostgreSQL's: that decides where a pass is cut, never what it counts.
        until = _floor(to_datetime(self._clock.now_us()), MINUTE)
        rows = await session.fetch(rollup_sql.PLAN, CONSUMER, until, ROWS_MAX, ENTRIES_MAX)
        waiting = [row["waiting_since"] for row in rows if row["waiting_since"] is not None]
        reached = min([*waiting, until])
        moves = [(row["lane"], row["position"], row["target"]) for row in rows if row["target"] > row["position"]]
        return _Plan(moves, reached, more=reached < until)

    async def _pass(self, session: Any, plan: _Plan, sums: Sums) -> None:
        async with session.transaction():
            await session.execute(rollup_sql.LOCAL_SETTINGS)
            for lane, position, target in plan.moves:
                await move_position(session, CONSUMER, lane, expected=position, to=target)
            lanes, _, targets = zip(*plan.moves, strict=True)
            span = await session.fetchrow(rollup_sql.TAKE, lanes, targets)
            if span["observed_from"] is not None:
                await self._partitions.ensure_rollups(span["observed_from"].date(), span["observed_to"].date())
                await _add(session, sums, _rows_of(plan, span))

    async def _fold_what_is_due(self, session: Any, reached: datetime) -> None:
        frontier = await session.fetchrow("SELECT folded_to, minutes FROM rollup_frontier")
        folded_to, until = frontier["folded_to"], _floor(reached - SETTLE, MINUTE)
        if (hour := _floor(until, HOUR)) > folded_to:
            until = hour
        elif frontier["minutes"] < UNFOLDED_MAX or until - folded_to < STEP_MIN:
            return
        await self._partitions.ensure_rollups(folded_to.date(), until.date())
        await _guarded(lambda sums: _fold(session, folded_to, until, sums))


def _rows_of(plan: _Plan, span: Any) -> list[Any]:
    """Arguments that every statement over the raw rows of a pass begins with."""
    lows: list[int | None] = [None] * (plan.moves[-1][0] + 1)
    highs = lows.copy()
    for lane, position, target in plan.moves:
        lows[lane], highs[lane] = position, target
    lowest, highest = min(move[1] for move in plan.moves), max(move[2] for move in plan.moves)
    return [span["observed_from"], span["observed_to"], lowest, highest, lows, highs]


async def _add(session: Any, sums: Sums, rows: Sequence[Any]) -> None:
    folded_to = await session.fetchval("SELECT folded_to FROM rollup_frontier FOR UPDATE")
    # Whoever makes a partition moves rows out of the default one. A statement that was planned before and executed after it
    # would find them in neither.
    await session.execute("LOCK TABLE ONLY telemetry, ONLY telemetry_default IN ACCESS SHARE MODE")
    widths, others = await _widths(session, RAW, rows)
    statements = [rollup_sql.minutes_of_width(width, sums) for width in widths]
    if others:
        statements.append(rollup_sql.minutes_of_others(widths, sums))
    added = 0
    for statement in statements:
        added += int((await session.execute(statement, *rows)).rpartition(" ")[2])
    if rows[0] < folded_to:
        widths, _ = await _widths(session, LATE, [*rows, folded_to])
        await session.execute(rollup_sql.hours_and_days([(LATE, widths)], sums), *rows, folded_to)
    await session.execute("UPDATE rollup_frontier SET minutes = minutes + $1", added)
    log.debug("telemetry_rolled_up", minutes=added)


async def _fold(session: Any, folded_to: datetime, until: datetime, sums: Sums) -> None:
    async with session.transaction():
        await session.execute(rollup_sql.LOCAL_SETTINGS)
        moved = await session.fetchval(
            "UPDATE rollup_frontier SET folded_to = $2, minutes = 0 WHERE folded_to = $1 RETURNING true", folded_to, until
        )
        if not moved:
            raise PositionLost(f"the frontier of the roll-ups is not at {folded_to}")
        await session.execute("LOCK TABLE ONLY telemetry_1m, ONLY telemetry_1m_default IN ACCESS SHARE MODE")
        widths_of = [(rows, (await _widths(session, rows, [folded_to, until]))[0]) for rows in (SINGLE, SEVERAL)]
        await session.execute(rollup_sql.hours_and_days(widths_of, sums), folded_to, until)
    log.debug("minutes_folded", since=folded_to.isoformat(), until=until.isoformat())


async def _widths(session: Any, rows: Rows, arguments: Sequence[Any]) -> tuple[list[int], bool]:
    """The common widths, and whether there is anything else."""
    found = await session.fetch(rows.widths, *arguments)
    common = rollup_sql.common_widths([(row["width"], row["rows"]) for row in found])
    return common, any(row["width"] not in common or row["extras"] for row in found)


async def _guarded(work: Callable[[Sums], Awaitable[None]]) -> None:
    try:
        await work(PLAIN)
    except asyncpg.NumericValueOutOfRangeError:
        log.info("sum_out_of_range")
        await work(GUARDED)


def _floor(at: datetime, width: timedelta) -> datetime:
    return at - (at - to_datetime(0)) % width

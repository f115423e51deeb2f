"""Partitions of telemetry and of its roll-ups: made ahead, and on demand for what comes late.

Days more than `DAYS_MAX` in the past or in the future share the default partition: a clock gone mad must not make a
thousand tables. The function in the database does the work with its owner's rights; here is only which ones are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import asyncpg
import structlog

from headwater.clock import Clock

log = structlog.get_logger(__name__)

DAYS_MAX = 90
DAYS_AHEAD = 3
"""A worker that nobody looks after over a long weekend does not run out of days."""
DAY_US = 86_400_000_000
AGAIN_US = 30_000_000
"""Each attempt may keep readers waiting, see telemetry_partition_create."""
_EPOCH = date(1970, 1, 1)

PARENTS = ("telemetry", "telemetry_1m", "telemetry_1h")
_LIST = r"""
SELECT p.relname AS parent, c.relname AS name, to_date(right(c.relname, 8), 'YYYYMMDD') AS starts
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
WHERE p.relnamespace = 'headwater'::regnamespace AND p.relname = ANY ($1::text[]) AND c.relname ~ '_\d{8}$'
ORDER BY starts, name
"""


@dataclass(frozen=True, slots=True)
class Partition:
    """Of the days from `starts` to before `ends`, UTC."""

    parent: str
    name: str
    starts: date
    ends: date


async def list_partitions(connection: Any) -> list[Partition]:
    """All but the default ones, oldest first."""
    rows = await connection.fetch(_LIST, PARENTS)
    return [Partition(row["parent"], row["name"], *span(row["parent"], row["starts"])) for row in rows]


class PartitionKeeper:
    """Knows which partitions are there; asks the database once for each of the others.

    One that cannot be made now, because somebody reads the default partition for long, is made later: rows go to the default
    partition until then, and nobody waits.
    """

    def __init__(self, pool: Any, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._known: set[tuple[str, date]] = set()
        self._later: dict[tuple[str, date], int] = {}
        """when to try again"""

    async def ensure(self, days: set[int]) -> None:
        """Days of telemetry, counted from 1970-01-01."""
        today = self._clock.now_us() // DAY_US
        await self._ensure("telemetry", (_EPOCH + timedelta(days=day) for day in days if abs(day - today) <= DAYS_MAX))

    async def ensure_rollups(self, first: date, last: date) -> None:
        """Weeks of 1-minute and months of 1-hour roll-ups, as far as they lie within the limits."""
        today = _EPOCH + timedelta(days=self._clock.now_us() // DAY_US)
        first, last = max(first, today - timedelta(days=DAYS_MAX)), min(last, today + timedelta(days=DAYS_MAX))
        days = [first + timedelta(days=i) for i in range((last - first).days + 1)]
        await self._ensure("telemetry_1m", days)
        await self._ensure("telemetry_1h", days)

    async def make_ahead(self) -> None:
        today = self._clock.now_us() // DAY_US
        await self.ensure(set(range(today, today + DAYS_AHEAD + 1)))
        day = _EPOCH + timedelta(days=today)
        await self.ensure_rollups(day, day + timedelta(days=DAYS_AHEAD))

    async def _ensure(self, parent: str, days: Iterable[date]) -> None:
        now_us = self._clock.now_us()
        for starts, ends in {span(parent, day) for day in days}:
            key = (parent, starts)
            if key in self._known or self._later.get(key, 0) > now_us:
                continue
            try:
                await self._pool.execute("SELECT telemetry_partition_create($1, $2, $3)", parent, starts, ends)
            except asyncpg.LockNotAvailableError:
                log.warning("partition_waits", parent=parent, starts=starts.isoformat())
                self._later[key] = now_us + AGAIN_US
            else:
                self._known.add(key)
                self._later.pop(key, None)


def span(parent: str, day: date) -> tuple[date, date]:
    """First day of the partition that a day falls into, and first day after it: a day, a week from Monday, a month."""
    if parent == "telemetry":
        return day, day + timedelta(days=1)
    if parent == "telemetry_1m":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    first = day.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1)

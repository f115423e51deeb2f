"""Upkeep of the database: partitions made ahead, BRIN indexes brought up to date, what has expired deleted.

Owns no table. Every chore is bounded and can be repeated; one that fails does not keep the others from being done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import structlog

from headwater.clock import Clock, to_datetime
from headwater.store.partitions import PartitionKeeper

log = structlog.get_logger(__name__)

ROWS_MAX = 1_000
"""Deleted by one statement."""
SUMMARIZED_DAYS = 2
"""Nearly all rows are of today or, from time zones and short outages, of yesterday: these are looked at every time."""
SUMMARIZE_ALL = timedelta(hours=1)
"""The other partitions, where only late rows come: looking through a year of them takes seconds."""


@dataclass(frozen=True, slots=True)
class Perishable:
    """Rows that have a lifetime. kept: how long after the time in column `at`."""

    table: str
    key: str
    at: str
    kept: timedelta

    @property
    def statement(self) -> str:
        return (
            f"DELETE FROM {self.table} WHERE ({self.key}) IN ("  # noqa: S608  # of this file's literals
            f"SELECT {self.key} FROM {self.table} WHERE {self.at} < $1 ORDER BY {self.at} LIMIT {ROWS_MAX})"
        )


SHOWN = timedelta(days=1)
"""So long after its end, somebody may still look for it and is told that it has expired."""
PERISHABLES = (
    Perishable(
        "idempotency_key", "tenant_id, actor, key", "created_at", timedelta(days=1)
    ),  # api/idempotency.py promises it
    Perishable("refresh_token", "id", "expires_at", SHOWN),
    Perishable("invitation", "id", "expires_at", SHOWN),
    Perishable("password_reset", "id", "expires_at", SHOWN),
)


class MaintenanceDuty:
    """A `database.duty.Duty`."""

    name = "maintenance"

    def __init__(self, partitions: PartitionKeeper, clock: Clock, *, every_s: float = 60.0) -> None:
        self.every_s = every_s
        self._partitions = partitions
        self._clock = clock
        self._summarized_all_us: int | None = None

    async def perform(self, session: Any) -> bool:
        chores: tuple[Callable[[Any], Awaitable[bool]], ...] = (self._make_ahead, self._summarize, self._delete_expired)
        more, failed = False, None
        for chore in chores:
            try:
                more |= await chore(session)
            except asyncpg.PostgresError as error:
                if session.is_closed():
                    raise
                log.warning("chore_fails", chore=chore.__name__.strip("_"), reason=f"{type(error).__name__}: {error}")
                failed = error
        if failed is not None:
            raise failed
        return more

    async def _make_ahead(self, session: Any) -> bool:
        await self._partitions.make_ahead()
        return False

    async def _summarize(self, session: Any) -> bool:
        now_us = self._clock.now_us()
        last = self._summarized_all_us
        if last is None or now_us - last >= SUMMARIZE_ALL // timedelta(microseconds=1):
            await session.execute("SELECT telemetry_summarize()")
            self._summarized_all_us = now_us
        else:
            since = to_datetime(now_us).date() - timedelta(days=SUMMARIZED_DAYS)
            await session.execute("SELECT telemetry_summarize($1)", since)
        return False

    async def _delete_expired(self, session: Any) -> bool:
        now = to_datetime(self._clock.now_us())
        more = False
        for perishable in PERISHABLES:
            deleted = await session.execute(perishable.statement, now - perishable.kept)
            more |= deleted == f"DELETE {ROWS_MAX}"
        return more

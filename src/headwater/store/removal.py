"""Removal: the telemetry and the timelines of devices that are gone, and so of tenants that are gone, leave every table.

Owns `removed_device`, which a trigger of `device` fills, also when a deleted tenant takes its devices along. A device is
gone through twice: at once, and a day later for what was under way at the first time (records in the stream that a worker
took for a known device's, roll-ups of rows that were just being deleted). Then nothing here remembers it.

It takes out row by row what a device had (store/erasure.py): a deleted tenant of a hundred thousand devices is work for
days, of which nobody else notices much.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog

from headwater.clock import Clock, to_datetime
from headwater.database.long_work import LongWork, Story
from headwater.store.erasure import (
    BEGINNING,
    DAYS,
    DEFAULTS,
    DEVICES_MAX,
    END,
    EVENTS,
    HAPPENINGS,
    delete_latest,
    erase,
    table_of,
)
from headwater.store.partitions import list_partitions
from headwater.store.retention_rules import EVERYTHING

log = structlog.get_logger(__name__)

AGAIN_AFTER = timedelta(days=1)
"""Longer than a worker that missed the news goes on taking a device for known, or a stream is behind."""

_DUE = """
SELECT device_id, swept_at FROM removed_device WHERE swept_at IS NULL OR swept_at < $1
ORDER BY swept_at NULLS FIRST, device_id LIMIT $2
"""


class RemovalDuty:
    """A `database.duty.Duty`."""

    name = "removal"

    def __init__(self, clock: Clock, *, every_s: float = 60.0) -> None:
        self.every_s = every_s
        self._clock = clock
        self._work = LongWork(self._sweep)

    async def perform(self, session: Any) -> bool:
        return await self._work.turn(session)

    async def _sweep(self, session: Any) -> Story:
        while True:
            now = to_datetime(self._clock.now_us())
            page = await session.fetch(_DUE, now - AGAIN_AFTER, DEVICES_MAX)
            if not page:
                return
            devices = [row["device_id"] for row in page]
            tables = [
                *(table_of(partition) for partition in await list_partitions(session)),
                *DEFAULTS,
                DAYS,
                EVENTS,
                HAPPENINGS,
            ]
            for table in tables:
                async for _ in erase(session, table, devices, EVERYTHING, (BEGINNING, END)):
                    yield
            await delete_latest(session, devices)
            first = [row["device_id"] for row in page if row["swept_at"] is None]
            async with session.transaction():
                await session.execute(
                    "UPDATE removed_device SET swept_at = $2 WHERE device_id = ANY ($1::uuid[])", first, now
                )
                await session.execute(
                    "DELETE FROM removed_device WHERE device_id = ANY ($1::uuid[]) AND swept_at < $2", devices, now
                )
            log.info("devices_removed", first=len(first), second=len(devices) - len(first))
            yield

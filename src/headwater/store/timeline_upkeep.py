"""What of timelines has been kept long enough goes.

Bounds: an age for both tables, and a number for the attempts of strangers, of whom anybody on the Internet can make as many
as the gateways write down. A device's timeline is cut to size by whoever writes it (store/timeline.py).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from headwater.clock import Clock, to_datetime

ROWS_MAX = 1_000
"""Deleted by one statement."""
STRANGERS_MAX = 200_000
"""Some 60 MB, and some hours of an attack on all gateways at once."""

_AGED = """
DELETE FROM {table} WHERE id = ANY (ARRAY(SELECT id FROM {table} WHERE at < $1 ORDER BY at LIMIT {limit}))
"""
_TOO_MANY = f"""
DELETE FROM stranger_attempt WHERE id = ANY (ARRAY(
    SELECT id FROM stranger_attempt WHERE (at, id) <= (
        SELECT at, id FROM stranger_attempt ORDER BY at DESC, id DESC OFFSET $1 LIMIT 1)
    ORDER BY at, id LIMIT {ROWS_MAX}))
"""  # noqa: S608  # of this file's literals


class TimelineDuty:
    """A `database.duty.Duty`."""

    name = "timeline"

    def __init__(self, clock: Clock, *, days: int = 30, strangers_max: int = STRANGERS_MAX, every_s: float = 60.0) -> None:
        self.every_s = every_s
        self._clock = clock
        self._kept = timedelta(days=days)
        self._strangers_max = strangers_max

    async def perform(self, session: Any) -> bool:
        before = to_datetime(self._clock.now_us()) - self._kept
        deleted = [
            await session.execute(_AGED.format(table=table, limit=ROWS_MAX), before)
            for table in ("device_timeline", "stranger_attempt")
        ]
        deleted.append(await session.execute(_TOO_MANY, self._strangers_max))
        return f"DELETE {ROWS_MAX}" in deleted

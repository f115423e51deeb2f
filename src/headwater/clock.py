"""Time. On the wire and in records: integer microseconds since the Unix epoch. In Python objects: aware UTC datetimes."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    def now_us(self) -> int: ...


class SystemClock:
    """The machine's wall clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


def to_datetime(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def to_us(at: datetime) -> int:
    """Exact: goes through integers, never through a float timestamp."""
    return (at - _EPOCH) // _MICROSECOND

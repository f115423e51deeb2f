"""What a device calls "now", as integer microseconds since the Unix epoch.

Numbers are seconds, milliseconds, microseconds or nanoseconds, told apart by magnitude: from 1973 to the year 5138 the
four cannot be confused. Text is ISO 8601 with a time of day; without an offset it is UTC. Late and backfilled data is
welcome without limit; a time before 2000 is a clock that was never set, a time too far ahead is a clock that is wrong.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite
from typing import Any

from headwater.clock import to_us
from headwater.ingest.errors import TimestampImplausible, TimestampMalformed

EARLIEST_US = 946_684_800_000_000
"""2000-01-01: devices without a battery-backed clock start in 1970, 1980 or 2000"""

_SECONDS_END = 10**11
_MILLISECONDS_END = 10**14
_MICROSECONDS_END = 10**17
_NANOSECONDS_END = 10**20
_TEXT_LENGTH_MAX = 40
"""`2026-11-23T23:45:00.123456789+01:00` has 35 characters"""


def microseconds(value: Any) -> int:
    """Exact for integers and text. Raises TimestampMalformed."""
    kind = type(value)
    if kind is int:
        return _from_int(value)
    if kind is float:
        return _from_float(value)
    if kind is str:
        return _from_text(value)
    if isinstance(value, datetime):  # MessagePack's own timestamp
        return to_us(value)
    raise TimestampMalformed(f"a time is a number or ISO 8601 text, not {_word(value)}")


def judge(observed_us: int, received_us: int, future_us_max: int) -> int:
    """The same time, if it is plausible. Raises TimestampImplausible."""
    if observed_us < EARLIEST_US:
        raise TimestampImplausible("the time is before 2000-01-01", observed_at_us=observed_us)
    if observed_us > received_us + future_us_max:
        ahead_s = (observed_us - received_us) // 1_000_000
        raise TimestampImplausible(f"the time is {ahead_s} s ahead of ours", observed_at_us=observed_us)
    return observed_us


def _from_int(value: int) -> int:
    size = abs(value)
    if size < _SECONDS_END:
        return value * 1_000_000
    if size < _MILLISECONDS_END:
        return value * 1_000
    if size < _MICROSECONDS_END:
        return value
    if size < _NANOSECONDS_END:
        return value // 1_000
    raise TimestampMalformed("the time is beyond any calendar")


def _from_float(value: float) -> int:
    if not isfinite(value) or abs(value) >= _NANOSECONDS_END:
        raise TimestampMalformed("the time is beyond any calendar")
    size = abs(value)
    if size < _SECONDS_END:
        return round(value * 1_000_000)
    if size < _MILLISECONDS_END:
        return round(value * 1_000)
    return _from_int(int(value))


def _from_text(text: str) -> int:
    # A date alone is no instant: it would put a whole day's data on one midnight.
    if len(text) > _TEXT_LENGTH_MAX or not ("T" in text or ":" in text):
        raise TimestampMalformed("the time is not ISO 8601 with a time of day")
    try:
        at = datetime.fromisoformat(text)
        return to_us(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise TimestampMalformed("the time is not ISO 8601 with a time of day") from error


def _word(value: Any) -> str:
    return {bool: "a boolean", dict: "an object", list: "a list", bytes: "bytes"}.get(type(value), "this")

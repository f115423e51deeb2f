"""Buckets of time: how an interval is written, and where its buckets begin.

Owns every decision about calendars and time zones; SQL only ever sees the instants made here. Seconds, minutes and hours
are aligned to the Unix epoch. Days, weeks (from Monday), months and years are aligned to the calendar of the time zone, so
a day there may last 23 or 25 hours.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from headwater.clock import to_datetime, to_us
from headwater.errors import ReferenceUnknown
from headwater.store.query_errors import QueryInvalid, QueryTooLarge

SECOND_US = 1_000_000
BUCKETS_MAX = 100_000
"""more than a day of seconds; a chart shows some thousand"""

INTERVAL = (
    "[1-9][0-9]{0,7}s|[1-9][0-9]{0,5}m|[1-9][0-9]{0,3}h|(?:[1-9][0-9]?|[12][0-9]{2}|3[0-5][0-9]|36[0-6])d"
    "|(?:[1-9]|[1-4][0-9]|5[0-2])w|(?:[1-9]|1[0-2])mo|1y"
)
"""In the calendar a year at most: above it a unit of its own would be due. What is written in seconds, minutes and hours
has as many digits as a year of them."""
_FORM = re.compile(INTERVAL, re.ASCII)
_FIXED_US = {"s": SECOND_US, "m": 60 * SECOND_US, "h": 3600 * SECOND_US}
ZONE = "[A-Za-z][A-Za-z0-9_+/-]{0,63}"
"""What names of the IANA database are made of."""
_MONDAY = date(1970, 1, 5)
_EPOCH = date(1970, 1, 1)


class Interval(msgspec.Struct, frozen=True):
    """count units; unit is one of s, m, h, d, w, mo, y."""

    count: int
    unit: str

    def __str__(self) -> str:
        return f"{self.count}{self.unit}"


def parse_interval(text: str) -> Interval:
    """Raises QueryInvalid."""
    if not _FORM.fullmatch(text):
        raise QueryInvalid(
            "an interval is a whole number and a unit: s, m, h, d, w, mo (months) or y, as in 15m; at most 366d or 1y",
            interval=text[:50],
        )
    digits = text.rstrip("smhdwoy")
    return Interval(int(digits), text.removeprefix(digits))


def parse_zone(name: str) -> ZoneInfo:
    """Raises ReferenceUnknown."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise ReferenceUnknown("no such time zone; use an IANA name, as in Europe/Berlin", "time_zone") from error


def bucket_starts(interval: Interval, start_us: int, end_us: int, zone: ZoneInfo) -> list[int]:
    """Where the buckets that touch [start, end) begin, ascending; the first may begin before `start`.

    Raises QueryTooLarge above BUCKETS_MAX.
    """
    if interval.unit in _FIXED_US:
        width = interval.count * _FIXED_US[interval.unit]
        first = start_us - start_us % width
        _bound((end_us - first + width - 1) // width, interval)
        return list(range(first, end_us, width))
    return _calendar_starts(interval, start_us, end_us, zone)


def _calendar_starts(interval: Interval, start_us: int, end_us: int, zone: ZoneInfo) -> list[int]:
    day = _floor(to_datetime(start_us).astimezone(zone).date(), interval)
    starts: list[int] = []
    while (at := _midnight_us(day, zone)) < end_us:
        # A zone that crosses the date line skips a day: its midnight is that of the next.
        if not starts or at > starts[-1]:
            starts.append(at)
            _bound(len(starts), interval)
        day = _next(day, interval)
    return starts


def _floor(day: date, interval: Interval) -> date:
    match interval.unit:
        case "d":
            return day - timedelta(days=(day - _EPOCH).days % interval.count)
        case "w":
            return day - timedelta(days=(day - _MONDAY).days % (7 * interval.count))
        case "mo":
            months = day.year * 12 + day.month - 1
            months -= months % interval.count
            return date(months // 12, months % 12 + 1, 1)
        case _:
            return date(day.year, 1, 1)


def _next(day: date, interval: Interval) -> date:
    match interval.unit:
        case "d":
            return day + timedelta(days=interval.count)
        case "w":
            return day + timedelta(weeks=interval.count)
        case "mo":
            months = day.year * 12 + day.month - 1 + interval.count
            return date(months // 12, months % 12 + 1, 1)
        case _:
            return date(day.year + 1, 1, 1)


def _midnight_us(day: date, zone: ZoneInfo) -> int:
    """Where the clocks skip midnight, the instant at which they do."""
    return to_us(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC))


def _bound(buckets: int, interval: Interval) -> None:
    if buckets > BUCKETS_MAX:
        raise QueryTooLarge(
            f"the range holds more than {BUCKETS_MAX} buckets of {interval}: ask for a shorter range or a longer interval",
            buckets_max=BUCKETS_MAX,
        )

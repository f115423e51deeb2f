from __future__ import annotations

from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.store.query_interval import bucket_starts, parse_interval
from headwater.store.query_plan import WIDTH_US, Segment, Source, rolled_span, segments

DAY = WIDTH_US[Source.DAY]
HOUR = WIDTH_US[Source.HOUR]
MINUTE = WIDTH_US[Source.MINUTE]


def plan(start: int, end: int, interval: str, zone: str = "UTC") -> list[Segment]:
    return segments(start, end, bucket_starts(parse_interval(interval), start, end, ZoneInfo(zone)))


@pytest.mark.parametrize(
    ("interval", "zone", "source"),
    [
        ("1d", "UTC", Source.DAY),
        ("1w", "UTC", Source.DAY),
        ("1mo", "UTC", Source.DAY),
        ("1d", "Europe/Berlin", Source.HOUR),
        ("1d", "Asia/Kathmandu", Source.MINUTE),  # 5 h 45 min ahead
        ("6h", "UTC", Source.HOUR),
        ("90m", "UTC", Source.MINUTE),
        ("15m", "UTC", Source.MINUTE),
        ("90s", "UTC", Source.RAW),
        ("1s", "UTC", Source.RAW),
    ],
)
def test_the_coarsest_roll_up_that_divides_the_bucket(interval: str, zone: str, source: Source) -> None:
    start = 20_000 * DAY
    length = 3 * HOUR if interval == "1s" else 70 * DAY
    middle = {part.source for part in plan(start, start + length, interval, zone)}
    assert source in middle
    order = [Source.DAY, Source.HOUR, Source.MINUTE, Source.RAW]
    assert all(order.index(one) >= order.index(source) for one in middle)


def test_ragged_ends_are_read_from_finer_tables() -> None:
    start, end = 20_000 * DAY + 23 * HOUR + 58 * MINUTE + 5, 20_002 * DAY + 2 * HOUR + 1
    assert plan(start, end, "1d") == [
        Segment(Source.RAW, start, 20_000 * DAY + 23 * HOUR + 59 * MINUTE),
        Segment(Source.MINUTE, 20_000 * DAY + 23 * HOUR + 59 * MINUTE, 20_001 * DAY),
        Segment(Source.DAY, 20_001 * DAY, 20_002 * DAY),
        Segment(Source.HOUR, 20_002 * DAY, 20_002 * DAY + 2 * HOUR),
        Segment(Source.RAW, 20_002 * DAY + 2 * HOUR, end),
    ]


@given(
    start=st.integers(0, 40_000 * DAY),
    length=st.integers(1, 9 * DAY),
    interval=st.sampled_from(["10m", "1h", "7h", "1d", "1w", "1mo", "50s"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]),
)
def test_segments_are_the_range_and_no_roll_up_straddles_a_bucket(start: int, length: int, interval: str, zone: str) -> None:
    starts = bucket_starts(parse_interval(interval), start, start + length, ZoneInfo(zone))
    parts = segments(start, start + length, starts)
    assert parts[0].start_us == start
    assert parts[-1].end_us == start + length
    assert all(left.end_us == right.start_us for left, right in pairwise(parts))
    for part in parts:
        width = WIDTH_US.get(part.source, 1)
        assert part.start_us < part.end_us
        assert part.start_us % width == part.end_us % width == 0
        assert all(at % width == 0 for at in starts if part.start_us < at < part.end_us)
    span = rolled_span(parts)
    rolled = [part for part in parts if part.source is not Source.RAW]
    assert span == ((rolled[0].start_us, rolled[-1].end_us) if rolled else None)

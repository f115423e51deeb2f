from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.clock import to_datetime, to_us
from headwater.errors import ReferenceUnknown
from headwater.store.query_errors import QueryInvalid, QueryTooLarge
from headwater.store.query_interval import BUCKETS_MAX, bucket_starts, parse_interval, parse_zone

ZONES = ("UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Beirut")


def us(*parts: int) -> int:
    return to_us(datetime(*parts, tzinfo=UTC))  # type: ignore[arg-type, misc]  # a tuple of numbers, in their order


@pytest.mark.parametrize("text", ["1s", "90s", "15m", "24h", "1d", "366d", "52w", "12mo", "1y"])
def test_an_interval_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_interval(text)) == text


@pytest.mark.parametrize(
    "text", ["", "0s", "s", "1", "1M", "-1s", "1.5h", "2y", "13mo", "367d", "53w", "100000000s", "1 h", "\u0661s", "1h\n"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(QueryInvalid):
        parse_interval(text)


@pytest.mark.parametrize("name", ["Europe/Atlantis", "../etc/passwd", "", "Europe", "/etc/localtime", "a\0b", "x" * 5000])
def test_a_zone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ReferenceUnknown):
        parse_zone(name)


@given(
    text=st.sampled_from(["7s", "1m", "90m", "7h", "1d", "3d", "1w", "2w", "1mo", "5mo", "1y"]),
    zone=st.sampled_from(ZONES),
    start=st.integers(us(1975, 1, 1), us(2100, 1, 1)),
    length=st.integers(1, 50 * 86_400_000_000),
)
def test_buckets_cover_the_range_without_gap_or_overlap(text: str, zone: str, start: int, length: int) -> None:
    interval = parse_interval(text)
    if text == "7s":
        length %= 86_400_000_000
    starts = bucket_starts(interval, start, start + length + 1, ZoneInfo(zone))
    assert starts[0] <= start
    assert all(left < right for left, right in pairwise(starts))
    assert starts[-1] <= start + length
    if len(starts) > 1:
        assert starts[1] > start
    # Asking from inside the second bucket gives the same places: they do not depend on where the range begins.
    if len(starts) > 2:
        assert bucket_starts(interval, starts[1] + 1, start + length + 1, ZoneInfo(zone)) == starts[1:]


@given(zone=st.sampled_from(ZONES), start=st.integers(us(1990, 1, 1), us(2037, 1, 1)))
def test_a_day_is_the_local_date(zone: str, start: int) -> None:
    place = ZoneInfo(zone)
    starts = bucket_starts(parse_interval("1d"), start, start + 3 * 86_400_000_000, place)
    for at in starts:
        local = to_datetime(at).astimezone(place)
        before = (to_datetime(at) - timedelta(microseconds=1)).astimezone(place)
        assert before.date() < local.date()


def test_months_and_weeks_begin_where_people_expect() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    months = bucket_starts(parse_interval("1mo"), us(2026, 2, 10), us(2026, 4, 10), berlin)
    assert [to_datetime(at) for at in months] == [
        datetime(2026, 1, 31, 23, tzinfo=UTC), datetime(2026, 2, 28, 23, tzinfo=UTC), datetime(2026, 3, 31, 22, tzinfo=UTC),
    ]  # fmt: skip
    [week] = bucket_starts(parse_interval("1w"), us(2026, 11, 25), us(2026, 11, 26), ZoneInfo("UTC"))
    assert to_datetime(week) == datetime(2026, 11, 23, tzinfo=UTC)  # a Monday
    [quarter] = bucket_starts(parse_interval("3mo"), us(2026, 8, 9), us(2026, 8, 10), ZoneInfo("UTC"))
    assert to_datetime(quarter) == datetime(2026, 7, 1, tzinfo=UTC)


def test_too_many_buckets_say_what_to_change() -> None:
    with pytest.raises(QueryTooLarge, match="shorter range or a longer interval"):
        bucket_starts(parse_interval("1s"), 0, (BUCKETS_MAX + 1) * 1_000_000, ZoneInfo("UTC"))

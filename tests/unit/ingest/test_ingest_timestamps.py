from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.ingest.errors import Rejected, TimestampImplausible, TimestampMalformed
from headwater.ingest.timestamps import judge, microseconds

AT = 1_764_000_000_000_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_764_000_000, AT),
        (1_764_000_000_000, AT),
        (1_764_000_000_000_000, AT),
        (1_764_000_000_000_000_999, AT),
        (1_764_000_000.25, AT + 250_000),
        (1_764_000_000_000.5, AT + 500),
        (1.764e15, AT),
        ("2025-11-24T16:00:00Z", AT),
        ("2025-11-24T16:00:00", AT),
        ("2025-11-24 17:00:00.000001+01:00", AT + 1),
        ("2025-11-24T16:00:00.123456789Z", AT + 123_456),
        ("20251124T160000Z", AT),
        ("2025-11-24", None),
        ("1764000000", None),
        ("2025-11-24T24:61:00Z", None),
        ("x:" * 1000, None),
        (True, None),
        ([], None),
        (float("nan"), None),
        (float("inf"), None),
        (10**30, None),
        (-(10**30), None),
    ],
)
def test_a_time_is_exact_or_malformed(value: Any, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(TimestampMalformed):
            microseconds(value)
    else:
        assert microseconds(value) == expected
        assert type(microseconds(value)) is int


@given(st.integers(946_684_800, 4_102_444_800))
def test_the_four_units_agree(second: int) -> None:
    assert {microseconds(second * 10**power) for power in (0, 3, 6, 9)} == {second * 1_000_000}


def test_the_past_is_welcome_and_the_future_is_not() -> None:
    limit = 300_000_000
    assert judge(946_684_800_000_000, AT, limit) == 946_684_800_000_000
    assert judge(AT + limit, AT, limit) == AT + limit
    for implausible in (946_684_799_999_999, 0, -1, AT + limit + 1):
        with pytest.raises(TimestampImplausible):
            judge(implausible, AT, limit)


@given(st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans(), st.binary(), st.datetimes().map(str)))
def test_whatever_comes_only_rejected_comes_out(value: Any) -> None:
    with contextlib.suppress(Rejected):
        assert type(microseconds(value)) is int

"""What the API's description says of filters and sort keys is true: whatever it matches is taken."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.device.filter import TEXT_CHARACTERS_MAX, find_filter
from headwater.device.filter_pattern import FILTER_PATTERN, SORT_PATTERN
from headwater.device.filter_sql import Parameters, compile_filter
from headwater.device.sort import parse_sort

# Most of what such a long expression gives is long; that is no reason to look at less of it.
LONG = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@given(st.from_regex(FILTER_PATTERN, fullmatch=True).filter(lambda text: len(text) <= TEXT_CHARACTERS_MAX))
@LONG
def test_a_filter_that_matches_is_taken(text: str) -> None:
    node = find_filter(text)
    assert (node is None) == (text == "")
    if node is not None:
        compile_filter(node, Parameters())


@given(st.from_regex(SORT_PATTERN, fullmatch=True))
@settings(max_examples=200, deadline=None)
def test_a_sort_key_that_matches_is_taken(text: str) -> None:
    parse_sort(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        'labels.site = "north" and attributes.floor >= 3 and status in (active, suspended)',
        'connected = true and not name like "pump*" and (reported.firmware exists or profile = "tasmota")',
        'last_seen_at < "2026-01-15T12:00:00Z" or not (labels."a.b" not in ("x", "y"))',
        "attributes.a.b = null",
        "attributes.x exists",
    ],
)
def test_what_people_write_matches(text: str) -> None:
    assert re.search(FILTER_PATTERN, text)


@pytest.mark.parametrize(
    "text", ["name", "name = ", 'nobody = "x"', 'version = "x"', 'name = "a" and', "status = broken", "\u00a0"]
)
def test_what_is_no_filter_does_not(text: str) -> None:
    assert not re.search(FILTER_PATTERN, text)

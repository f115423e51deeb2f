from __future__ import annotations

import pytest

from headwater.store.query_gaps import Fill, Row, fill

STARTS = [0, 10, 20, 30, 50]
"""the last bucket is further away, as after a long day"""
POINTS: dict[int, Row] = {1: [4.0, 2], 4: [10.0, 1]}
NAMES = ("avg", "count")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Fill.NONE, {1: [4.0, 2], 4: [10.0, 1]}),
        (Fill.NULL, {0: [None, 0], 1: [4.0, 2], 2: [None, 0], 3: [None, 0], 4: [10.0, 1]}),
        (Fill.PREVIOUS, {0: [None, 0], 1: [4.0, 2], 2: [4.0, 0], 3: [4.0, 0], 4: [10.0, 1]}),
        (Fill.LINEAR, {0: [None, 0], 1: [4.0, 2], 2: [5.5, 0], 3: [7.0, 0], 4: [10.0, 1]}),
    ],
)
def test_fill(how: Fill, expected: dict[int, Row]) -> None:
    assert fill(dict(POINTS), STARTS, NAMES, how) == expected


def test_what_is_no_number_has_no_line() -> None:
    points: dict[int, Row] = {0: ["a", True, {"x": 1}], 2: ["b", False, {"x": 2}]}
    assert fill(points, [0, 10, 20], ("first", "last", "max"), Fill.LINEAR)[1] == [None, None, None]


def test_after_the_last_point_a_line_ends() -> None:
    assert fill({0: [1.0]}, [0, 10], ("avg",), Fill.LINEAR)[1] == [None]


def test_nothing_stays_nothing() -> None:
    assert fill({}, STARTS, NAMES, Fill.NULL) == {}

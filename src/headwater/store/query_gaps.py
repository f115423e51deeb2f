"""What stands in a bucket in which nothing was observed."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any


class Fill(StrEnum):
    NONE = "none"
    """no point at all"""
    NULL = "null"
    """a point whose aggregates are null and whose count is 0"""
    PREVIOUS = "previous"
    """the aggregates of the bucket before; null ahead of the first"""
    LINEAR = "linear"
    """numbers on the straight line between their neighbours in time; null at the open ends and for what is no number"""


Row = list[Any]
"""one point's aggregates, in the order of the query"""


def fill(points: dict[int, Row], starts: Sequence[int], aggregates: Sequence[str], how: Fill) -> dict[int, Row]:
    """points: bucket number -> aggregates. Returns one entry for every bucket, ascending; NONE returns `points` itself."""
    if how is Fill.NONE or not points:
        return points
    empty: Row = [0 if name == "count" else None for name in aggregates]
    filled: dict[int, Row] = {}
    before: int | None = None
    known = sorted(points)
    ahead = 0
    for number in range(len(starts)):
        if number in points:
            filled[number] = points[number]
            before, ahead = number, ahead + 1
        elif how is Fill.PREVIOUS and before is not None:
            filled[number] = [
                0 if name == "count" else value for name, value in zip(aggregates, points[before], strict=True)
            ]
        elif how is Fill.LINEAR and before is not None and ahead < len(known):
            after = known[ahead]
            share = (starts[number] - starts[before]) / (starts[after] - starts[before])
            filled[number] = [
                0 if name == "count" else _between(left, right, share)
                for name, left, right in zip(aggregates, points[before], points[after], strict=True)
            ]
        else:
            filled[number] = list(empty)
    return filled


def _between(left: Any, right: Any, share: float) -> float | None:
    if isinstance(left, bool) or isinstance(right, bool):
        return None
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        return None
    return left + (right - left) * share

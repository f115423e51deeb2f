"""From metric names to what an answer shows, and from stored numbers back to typed values.

A name may have been sent with several types: `21` and `21.5` are an integer and a float of one quantity, so numbers of
either type make one series. Every other type is a series of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from headwater.device.profile import MetricType

NUMERIC = frozenset({MetricType.FLOAT, MetricType.INTEGER})
DOCUMENTS = frozenset({MetricType.STRING, MetricType.JSON, MetricType.LOCATION})
"""what stands in `extras`: counted, never added up"""
EXACT_MAX = 2.0**53
"""beyond it a float no longer holds every integer"""


class MetricRow(msgspec.Struct, frozen=True):
    """One row of the table `metric`."""

    id: int
    name: str
    type: MetricType


class Series(msgspec.Struct, frozen=True):
    """id is the least of `ids`."""

    id: int
    name: str
    type: MetricType
    ids: tuple[int, ...]


def series_of(rows: Iterable[MetricRow]) -> list[Series]:
    """In the order of the names' first ids."""
    grouped: dict[tuple[str, object], list[MetricRow]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        kind: object = "number" if row.type in NUMERIC else row.type
        grouped.setdefault((row.name, kind), []).append(row)
    return [
        Series(
            id=group[0].id,
            name=group[0].name,
            type=group[0].type if len(group) == 1 else MetricType.FLOAT,
            ids=tuple(row.id for row in group),
        )
        for group in grouped.values()
    ]


def same_series(series: Iterable[Series]) -> dict[int, int]:
    """metric id -> the id of its series, where they differ."""
    return {other: one.id for one in series for other in one.ids if other != one.id}


def restore(kind: MetricType, number: float) -> Any:
    """The value that was stored as this number."""
    if kind is MetricType.BOOLEAN:
        return number != 0.0
    return int(number) if kind is MetricType.INTEGER else number


def restore_extra(kind: MetricType, value: Any) -> Any:
    """The value that was stored as this JSON."""
    if kind is MetricType.FLOAT:
        return float(value)  # NaN and infinities, which JSON numbers cannot say
    if kind is MetricType.LOCATION:
        return location(value)
    return value


def location(value: Sequence[float]) -> dict[str, float]:
    return dict(zip(("latitude", "longitude", "altitude_m"), value, strict=False))


def message_values(
    metrics: Mapping[int, MetricRow], ids: Sequence[int], numbers: Sequence[float], extras: Any
) -> dict[str, Any]:
    """One message's values by name. Ids that `metrics` does not know were not asked for."""
    values: dict[str, Any] = {}
    for number, stored in zip(ids, numbers, strict=True):
        metric = metrics.get(number)
        if metric is not None:
            values[metric.name] = restore(metric.type, stored)
    if extras:
        for key, document in extras.items():
            metric = metrics.get(int(key))
            if metric is not None:
                values[metric.name] = restore_extra(metric.type, document)
    return values


def integer(number: float) -> int | float:
    """An aggregate of integers, or the number of trues: an integer as far as a float can tell."""
    return number if abs(number) > EXACT_MAX else int(number)

"""A profile's metrics, compiled: which names are welcome, and what a value of each must be."""

from __future__ import annotations

from math import inf
from typing import Any

from headwater.device.profile import Metric, MetricType, ProfileDefinition, UnknownMetrics
from headwater.ingest.errors import MetricUnknown, PayloadTooManyValues
from headwater.ingest.values import INT_MAX, INT_MIN, Convert, check_name, converter, infer

VALUES_MAX = 1_000
"""Values of one record: as many as a profile may declare"""

STRING = "string"
"""A declared string in a `Check`: not the type itself, because its bound is the length and not an order."""

Check = tuple[str, type | str | None, Any, Any]
"""(name, type, lowest, highest): what a value may be to be taken as it is; type None = undeclared: any plain type"""


class MetricNormaliser:
    """Telemetry by the profile."""

    def __init__(self, definition: ProfileDefinition) -> None:
        self._metrics = {metric.name: metric for metric in definition.metrics}
        self._convert: dict[Any, Convert] = {name: converter(metric) for name, metric in self._metrics.items()}
        self._unknown = definition.unknown_metrics

    def __call__(self, values: dict[Any, Any]) -> dict[str, Any]:
        """Raises Rejected, which names the metric. Null is no value: skipped."""
        if len(values) > VALUES_MAX:
            raise _too_many(values)
        body: dict[str, Any] = {}
        for name, value in values.items():
            convert = self._convert.get(name)
            if convert is None:
                if self._unknown is UnknownMetrics.DROP:
                    continue
                check_name(name)
                if self._unknown is UnknownMetrics.REJECT:
                    raise MetricUnknown(f"the profile has no metric {name}", metric=name)
                convert = infer
            if value is not None:
                body[name] = convert(name, value)
        return body

    def plan(self, names: tuple[str, ...]) -> tuple[Check, ...] | None:
        """Checks with which values of exactly these names, in this order, may be taken as they are; None = no such way.

        Empty = none is declared and all are welcome. `names` have passed `__call__` before, so they are valid.
        """
        accepting = self._unknown is UnknownMetrics.ACCEPT
        if accepting and self._metrics.keys().isdisjoint(names):
            return ()
        checks: list[Check] = []
        for name in names:
            metric = self._metrics.get(name)
            bounds = _bounds(metric) if metric else (None, INT_MIN, INT_MAX) if accepting else None
            if bounds is None:
                return None
            checks.append((name, *bounds))
        return tuple(checks)


def normalise_attributes(values: dict[Any, Any]) -> dict[str, Any]:
    """Attributes are never declared. Null = forget the attribute."""
    if len(values) > VALUES_MAX:
        raise _too_many(values)
    body: dict[str, Any] = {}
    for name, value in values.items():
        check_name(name)
        body[name] = None if value is None else infer(name, value)
    return body


def _too_many(values: dict[Any, Any]) -> PayloadTooManyValues:
    return PayloadTooManyValues(f"{len(values)} values in one record, at most {VALUES_MAX}", values_max=VALUES_MAX)


def _bounds(metric: Metric) -> tuple[type | str | None, Any, Any] | None:
    if metric.type is MetricType.FLOAT:
        return float, (-inf if metric.min is None else metric.min), (inf if metric.max is None else metric.max)
    if metric.type is MetricType.INTEGER:
        low = INT_MIN if metric.min is None else max(metric.min, INT_MIN)
        return int, low, (INT_MAX if metric.max is None else min(metric.max, INT_MAX))
    if metric.type is MetricType.BOOLEAN:
        return bool, False, True
    if metric.type is MetricType.STRING:
        return STRING, 0, -1  # no number is between them
    return None

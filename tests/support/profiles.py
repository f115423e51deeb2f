"""Profiles for tests, compiled."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from headwater.device.principal import ProfileVersion
from headwater.device.profile import Metric, MetricType, ProfileDefinition
from headwater.ingest.profile_compiled import CompiledProfile
from headwater.stream.envelope import EXT_JSON, EXT_LOCATION

NOW_US = 1_764_000_001_000_000
"""2025-11-24T16:00:01Z"""

EVERY_TYPE = (
    Metric("temperature", MetricType.FLOAT, min=-40, max=85),
    Metric("count", MetricType.INTEGER, min=0, max=1000),
    Metric("open", MetricType.BOOLEAN),
    Metric("mode", MetricType.STRING),
    Metric("detail", MetricType.JSON),
    Metric("place", MetricType.LOCATION),
)


def compiled(*metrics: Metric, **definition: Any) -> CompiledProfile:
    return CompiledProfile(ProfileVersion(UUID(int=1), 1, ProfileDefinition(metrics=metrics, **definition)))


def plain(value: Any) -> Any:
    """Ext as ("json", value) or ("location", [..]), so that tests can compare; everything else as it is."""
    if isinstance(value, msgspec.msgpack.Ext):
        if value.code == EXT_JSON:
            return "json", msgspec.json.decode(value.data)
        assert value.code == EXT_LOCATION
        return "location", msgspec.msgpack.decode(value.data)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value


def same(left: Any, right: Any) -> bool:
    """Equal in value and in type: 1, 1.0 and True are three things here."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and left == right

"""What a profile's definition must keep to, beyond the types of its parts. Pure."""

from __future__ import annotations

import math
import re

from headwater.device.errors import ProfileContradictory, ProfileInvalid
from headwater.device.profile import Metric, MetricType, ProfileDefinition

PLACEHOLDERS = frozenset({"{device}", "{external_id}"})

_NUMBERS = frozenset({MetricType.FLOAT, MetricType.INTEGER})
_BRACES = re.compile(r"\{[^{}]*\}?|\}")
_POINTER = re.compile(r"(/([^~\x00]|~[01])*)*")


def check_profile(definition: ProfileDefinition) -> None:
    """Raises ProfileInvalid or ProfileContradictory at the first part that is wrong; its pointer is RFC 6901."""
    names: set[str] = set()
    for index, metric in enumerate(definition.metrics):
        pointer = f"/metrics/{index}"
        if metric.name in names:
            raise ProfileContradictory(f"the metric {metric.name!r} is declared twice", f"{pointer}/name")
        names.add(metric.name)
        _check_metric(metric, pointer)
    for index, rule in enumerate(definition.topics):
        pointer = f"/topics/{index}"
        check_topic_filter(rule.filter, f"{pointer}/filter")
        _check_text(rule.time_key, f"{pointer}/time_key")
        if not _POINTER.fullmatch(rule.path):
            raise ProfileInvalid("a path is a JSON pointer (RFC 6901): empty, or starting with /", f"{pointer}/path")
    for part in ("publish", "subscribe"):
        for index, topic_filter in enumerate(getattr(definition, part)):
            check_topic_filter(topic_filter, f"/{part}/{index}", may_be_sys=part == "subscribe")


def _check_metric(metric: Metric, pointer: str) -> None:
    for part in ("name", "unit", "description"):
        _check_text(getattr(metric, part), f"{pointer}/{part}")
    bounds = {"min": metric.min, "max": metric.max}
    for part, bound in bounds.items():
        if bound is None:
            continue
        if metric.type not in _NUMBERS:
            detail = f"only numbers have bounds, and {metric.name!r} is {metric.type}"
            raise ProfileContradictory(detail, f"{pointer}/{part}")
        if not math.isfinite(bound):
            raise ProfileInvalid("a bound is a finite number", f"{pointer}/{part}")
    if metric.min is not None and metric.max is not None and metric.min > metric.max:
        raise ProfileContradictory(f"min of {metric.name!r} is greater than its max", f"{pointer}/min")


def check_topic_filter(topic_filter: str, pointer: str, *, may_be_sys: bool = False) -> None:
    """MQTT 5.0, 4.7; `{device}` and `{external_id}` are the only placeholders."""
    _check_text(topic_filter, pointer)
    levels = topic_filter.split("/")
    for index, level in enumerate(levels):
        if "#" in level and (level != "#" or index != len(levels) - 1):
            raise ProfileInvalid("# stands alone, as the last level of a topic filter", pointer)
        if "+" in level and level != "+":
            raise ProfileInvalid("+ stands alone in its level of a topic filter", pointer)
    if levels[0].startswith("$") and not (may_be_sys and levels[0] == "$SYS"):
        raise ProfileInvalid("topics that start with $ belong to the broker", pointer)
    for placeholder in _BRACES.findall(topic_filter):
        if placeholder not in PLACEHOLDERS:
            known = " and ".join(sorted(PLACEHOLDERS))
            raise ProfileInvalid(f"{placeholder} is unknown; the placeholders are {known}", pointer)


def _check_text(text: str, pointer: str) -> None:
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ProfileInvalid("this holds a character that is no text", pointer)

"""One value at a time: from what the decoder gave to what a record holds (see `Record.body`), or why not.

Types are kept: a string never becomes a number, a number never a boolean. Only exact steps between integer and float
are taken, and only towards the type that the profile declares.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import Any

import msgspec

from headwater.device.profile import Metric, MetricType
from headwater.ingest.decoders import DEPTH_MAX
from headwater.ingest.errors import (
    MetricNameInvalid,
    MetricOutOfBounds,
    MetricTooLarge,
    MetricTypeMismatch,
)
from headwater.stream.envelope import EXT_JSON, EXT_LOCATION

INT_MIN = -(2**63)
INT_MAX = 2**63 - 1
STRING_LENGTH_MAX = 65_536
"""Characters of one string, and bytes of one JSON value: a log line or a status document, not a file."""
JSON_MEMBERS_MAX = 10_000
NAME_LENGTH_MAX = 200
"""as `metric.name` in the database"""
_EXACT_FLOAT_MAX = 2**53

Convert = Callable[[str, Any], Any]
"""(name, value) -> normalised value; raises Rejected, which names the metric"""

_encode_json = msgspec.json.encode
_encode_msgpack = msgspec.msgpack.encode


def check_name(name: Any) -> None:
    if type(name) is not str or not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable():
        shown = repr(name)[:80]
        raise MetricNameInvalid(f"a name has 1 to {NAME_LENGTH_MAX} printable characters, not {shown}")


def infer(name: str, value: Any) -> Any:
    """A value that no profile declares: its own type, nothing guessed."""
    kind = type(value)
    if kind is float:
        return _finite(name, value)
    if kind is int:
        return _int64(name, value)
    if kind is bool:
        return value
    if kind is str:
        return _string(name, value)
    return _json(name, value)


def converter(metric: Metric) -> Convert:
    if metric.type is MetricType.FLOAT:
        return _float_between(-inf if metric.min is None else metric.min, inf if metric.max is None else metric.max)
    if metric.type is MetricType.INTEGER:
        return _int_between(INT_MIN if metric.min is None else metric.min, INT_MAX if metric.max is None else metric.max)
    return {
        MetricType.BOOLEAN: _boolean,
        MetricType.STRING: _string,
        MetricType.JSON: _json,
        MetricType.LOCATION: _location,
    }[metric.type]


def _mismatch(name: str, wanted: str, value: Any) -> MetricTypeMismatch:
    given = _WORDS.get(type(value), "something that JSON does not know")
    return MetricTypeMismatch(f"{name} is {wanted}, not {given}", metric=name)


_WORDS: dict[type, str] = {
    bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "an object",
    type(None): "null", bytes: "bytes",
}  # fmt: skip


def _finite(name: str, value: float) -> float:
    if not isfinite(value):
        raise MetricOutOfBounds(f"{name} is not a finite number", metric=name)
    return value


def _int64(name: str, value: int) -> int:
    if not INT_MIN <= value <= INT_MAX:
        raise MetricOutOfBounds(f"{name} does not fit in 64 bits", metric=name)
    return value


def _float_between(low: float, high: float) -> Convert:
    def convert(name: str, value: Any) -> float:
        if type(value) is int and INT_MIN <= value <= INT_MAX:
            value = float(value)
        elif type(value) is not float:
            raise _mismatch(name, "a number", value)
        if not low <= _finite(name, value) <= high:
            raise _outside(name, value, low, high)
        return value  # type: ignore[no-any-return]  # narrowed by the type() tests above

    return convert


def _int_between(low: float, high: float) -> Convert:
    def convert(name: str, value: Any) -> int:
        if type(value) is float and value.is_integer() and abs(value) <= _EXACT_FLOAT_MAX:
            value = int(value)
        elif type(value) is not int:
            raise _mismatch(name, "an integer", value)
        if not low <= _int64(name, value) <= high:
            raise _outside(name, value, low, high)
        return value  # type: ignore[no-any-return]  # narrowed by the type() tests above

    return convert


def _outside(name: str, value: float, low: float, high: float) -> MetricOutOfBounds:
    bound = f"below {low}" if value < low else f"above {high}"
    return MetricOutOfBounds(f"{name} = {value} is {bound}", metric=name)


def _boolean(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise _mismatch(name, "a boolean", value)
    return value


def _string(name: str, value: Any) -> str:
    if type(value) is not str:
        raise _mismatch(name, "a string", value)
    if len(value) > STRING_LENGTH_MAX:
        raise MetricTooLarge(f"{name} has more than {STRING_LENGTH_MAX} characters", metric=name)
    if "\0" in value:  # PostgreSQL has no text with a NUL
        raise MetricTypeMismatch(f"{name} contains the character NUL", metric=name)
    return value


def _json(name: str, value: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(EXT_JSON, json_text(name, value))


def json_text(name: str, value: Any) -> bytes:
    """`value` as JSON that every reader behind us can take: bounded, finite, 64-bit integers, no NUL."""
    _walk_json(name, value, DEPTH_MAX, [JSON_MEMBERS_MAX])
    text = _encode_json(value)
    if len(text) > STRING_LENGTH_MAX:
        raise MetricTooLarge(f"{name} has more than {STRING_LENGTH_MAX} bytes of JSON", metric=name)
    return text


def _walk_json(name: str, value: Any, depth: int, members: list[int]) -> None:
    members[0] -= 1
    if depth < 0 or members[0] < 0:
        raise MetricTooLarge(f"{name} is nested deeper than {DEPTH_MAX} or has too many members", metric=name)
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            _string(name, key)
            _walk_json(name, inner, depth - 1, members)
    elif kind is list or kind is tuple:
        for inner in value:
            _walk_json(name, inner, depth - 1, members)
    elif kind is str:
        _string(name, value)
    elif kind is float:
        _finite(name, value)
    elif kind is int:
        _int64(name, value)
    elif value is not None and kind is not bool:
        raise _mismatch(name, "a JSON value", value)


def _location(name: str, value: Any) -> msgspec.msgpack.Ext:
    latitude, longitude, *altitude = _coordinates(name, value)
    if not -90 <= latitude <= 90 or not -180 <= longitude <= 180:
        raise MetricOutOfBounds(f"{name} = {latitude}, {longitude} is not a place on Earth", metric=name)
    return msgspec.msgpack.Ext(EXT_LOCATION, _encode_msgpack([latitude, longitude, *altitude]))


def _coordinates(name: str, value: Any) -> list[float]:
    if type(value) is dict:
        members = _LOCATION_MEMBERS.get(frozenset(key for key in value if type(key) is str))
        value = [value[key] for key in members] if members is not None else None
    if type(value) is not list or len(value) not in (2, 3):
        raise _mismatch(name, 'a location: {"lat", "lon"[, "alt"]} or [lat, lon(, alt)]', value)
    return [_number(name, part) for part in value]


_LOCATION_MEMBERS = {
    frozenset(members): members
    for members in (
        ("lat", "lon"), ("lat", "lon", "alt"), ("lat", "lng"), ("lat", "lng", "alt"),
        ("latitude", "longitude"), ("latitude", "longitude", "altitude"), ("latitude", "longitude", "alt"),
    )
}  # fmt: skip

_number = _float_between(-inf, inf)

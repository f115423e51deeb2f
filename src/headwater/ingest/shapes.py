"""From a decoded payload to (time, values) pairs: bare object, `{"ts", "values"}`, a list of either; topic rules' paths.

In a bare object the member `ts`, or else `time`, is the time. Where firmware uses these words for something else, a topic
rule's `time_key` names another member, and both are metrics like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headwater.device.profile import TopicRule
from headwater.ingest.decoders import DEPTH_MAX
from headwater.ingest.errors import PayloadEmpty, PayloadMalformed, PayloadPathMissing, PayloadTooManyRecords

RECORDS_MAX = 10_000
"""Records of one message: a day of a 10 s sensor. Larger back-fills come as several messages, or as NDJSON."""

_TIME_KEYS = ("ts", "time")


@dataclass(frozen=True, slots=True)
class Shape:
    """How to find the values in a payload.

    path      JSON pointer, taken apart
    flatten   nested objects become dotted names
    time_key  "" = `ts` or `time`; a JSON pointer from the payload's root, where it starts with `/`
    timed     a bare object may hold its time (telemetry), or every member is a value (attributes)
    """

    path: tuple[str, ...] = ()
    flatten: bool = False
    time_key: str = ""
    timed: bool = True

    @classmethod
    def of(cls, rule: TopicRule, *, timed: bool = True) -> Shape:
        return cls(pointer(rule.path), rule.flatten, rule.time_key, timed)

    def find(self, tree: Any) -> tuple[Any, Any]:
        """(the part that holds the values, the time that stands elsewhere in the payload or None)"""
        part = at(tree, self.path)
        if part is _MISSING:
            raise PayloadPathMissing(f"the payload has no /{'/'.join(self.path)}")
        if not self.time_key.startswith("/"):
            return part, None
        time = at(tree, pointer(self.time_key))
        return part, (None if time is _MISSING else time)

    def open(self, item: Any) -> tuple[Any, dict[Any, Any]]:
        """(the device's time or None, values) of one record. `item` itself stays as it is."""
        if type(item) is not dict:
            raise PayloadMalformed("a record is an object")
        time, values = self._enveloped(item) or self._bare(item)
        if not values:
            raise PayloadEmpty("the record has no values")
        return time, (flattened(values) if self.flatten else values)

    def _enveloped(self, item: dict[Any, Any]) -> tuple[Any, dict[Any, Any]] | None:
        values = item.get("values")
        if type(values) is not dict:
            return None
        if len(item) == 1:
            return None, values
        if len(item) == 2:
            for key in (self.time_key, *_TIME_KEYS):
                if key in item:
                    return item[key], values
        return None

    def _bare(self, item: dict[Any, Any]) -> tuple[Any, dict[Any, Any]]:
        if not self.timed and not self.time_key:
            return None, item
        for key in (self.time_key,) if self.time_key else _TIME_KEYS:
            if key in item:
                return item[key], {name: value for name, value in item.items() if name != key}
        return None, item


def split(tree: Any) -> list[Any]:
    """The records of a message, not yet looked into."""
    if type(tree) is not list:
        return [tree]
    if not tree:
        raise PayloadEmpty("the list has no records")
    if len(tree) > RECORDS_MAX:
        raise PayloadTooManyRecords(f"{len(tree)} records in one message, at most {RECORDS_MAX}", records_max=RECORDS_MAX)
    return tree


def flattened(values: dict[Any, Any]) -> dict[str, Any]:
    """Nested objects as dotted names, as Tasmota's `AM2301.Temperature`; lists stay values."""
    flat: dict[str, Any] = {}
    _flatten("", values, flat, DEPTH_MAX)
    return flat


def _flatten(prefix: str, values: dict[Any, Any], flat: dict[str, Any], depth: int) -> None:
    if depth == 0:
        raise PayloadMalformed(f"objects are nested deeper than {DEPTH_MAX}")
    for key, value in values.items():
        name = f"{prefix}{key}"
        if type(value) is dict:
            _flatten(f"{name}.", value, flat, depth - 1)
        elif name in flat:
            raise PayloadMalformed(f"two members are called {name[:200]}")
        else:
            flat[name] = value


_MISSING = object()


def pointer(text: str) -> tuple[str, ...]:
    """The reference tokens of a JSON pointer (RFC 6901); a leading `/` may be left out."""
    if not text:
        return ()
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.removeprefix("/").split("/"))


def at(tree: Any, path: tuple[str, ...]) -> Any:
    for token in path:
        if type(tree) is dict and token in tree:
            tree = tree[token]
        elif type(tree) is list and token.isascii() and token.isdigit() and len(token) < 6 and int(token) < len(tree):
            tree = tree[int(token)]
        else:
            return _MISSING
    return tree

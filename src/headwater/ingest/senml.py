"""SenML (RFC 8428), JSON and CBOR, as records: base fields resolved, one record for each time.

A full name that begins with a device's URN (`urn:dev:mac:0024befffe804ff1:temp`, RFC 9039) loses it: who the device is
says its credential, and a metric is called the same on every device. Units are not converted: the profile owns the unit.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from math import isfinite
from typing import Any

from headwater.ingest.errors import PayloadEmpty, PayloadMalformed
from headwater.ingest.shapes import split

VERSION_MAX = 10
RELATIVE_END_US = 2**28 * 1_000_000
"""Times below 2^28 s are relative to now. RFC 8428, 4.5.3"""
_TIME_S_MAX = 10**11

# RFC 8428, table 6
_LABELS: dict[Any, str] = {
    -1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip


def resolve(pack: Any, received_us: int) -> list[tuple[int, dict[str, Any]]]:
    """(observed_at, values) by time, in the order of the pack. Raises PayloadMalformed, which names the record's index.

    Two values of one name at one time make two records.
    """
    if type(pack) is not list:
        raise PayloadMalformed("SenML is a list of records")
    base = _Base()
    records: list[tuple[int, dict[str, Any]]] = []
    current: dict[int, dict[str, Any]] = {}
    for index, item in enumerate(split(pack)):
        try:
            record = _labelled(item)
            base.update(record)
            observed_us = base.time_us(record, received_us)
            for name, value in base.values(record):
                values = current.get(observed_us)
                if values is None or name in values:
                    values = current[observed_us] = {}
                    records.append((observed_us, values))
                values[name] = value
        except PayloadMalformed as rejected:
            raise rejected.at(index) from None
    if not records:
        raise PayloadEmpty("the pack has no values")
    return records


class _Base:
    """The base fields as they stand: each holds from its record on."""

    def __init__(self) -> None:
        self._name = ""
        self._time_us = 0
        self._value: int | float | None = None
        self._sum: int | float | None = None

    def update(self, record: dict[str, Any]) -> None:
        version = record.get("bver", VERSION_MAX)
        if type(version) is not int or not 1 <= version <= VERSION_MAX:
            raise PayloadMalformed(f"SenML version {str(version)[:20]}, we read up to {VERSION_MAX}")
        if "bn" in record:
            self._name = _text(record, "bn")
        if "bt" in record:
            self._time_us = _time(record, "bt")
        if "bv" in record:
            self._value = _number(record, "bv")
        if "bs" in record:
            self._sum = _number(record, "bs")

    def time_us(self, record: dict[str, Any], received_us: int) -> int:
        at = self._time_us + (_time(record, "t") if "t" in record else 0)
        return at + received_us if at < RELATIVE_END_US else at

    def values(self, record: dict[str, Any]) -> list[tuple[str, Any]]:
        """A record may hold nothing but base fields."""
        values = self._value_of(record)
        total = _plus(record, "s", self._sum)
        if not values and total is None:
            return []
        name = metric_name(self._name + (_text(record, "n") if "n" in record else ""))
        if not name:
            raise PayloadMalformed("a record without a name")
        named = [(name, value) for value in values]
        return named if total is None else [*named, (f"{name}.sum", total)]

    def _value_of(self, record: dict[str, Any]) -> list[Any]:
        values: list[Any] = []
        if "v" in record or (self._value is not None and _NAMED_ONLY.isdisjoint(record) and "n" in record):
            values.append(_plus(record, "v", self._value))
        if "vs" in record:
            values.append(_text(record, "vs"))
        if "vb" in record:
            if type(record["vb"]) is not bool:
                raise PayloadMalformed("vb is not a boolean")
            values.append(record["vb"])
        if "vd" in record:
            data = record["vd"]
            values.append(urlsafe_b64encode(data).rstrip(b"=").decode() if type(data) is bytes else _text(record, "vd"))
        if len(values) > 1:
            raise PayloadMalformed("a record has more than one of v, vs, vb, vd")
        return values


_NAMED_ONLY = frozenset(("vs", "vb", "vd", "s"))


def metric_name(name: str) -> str:
    """`name` without the URN of the device. What is nothing but the URN stays: it is all there is."""
    if not name.startswith("urn:dev:"):
        return name
    head = 5 if name.startswith("urn:dev:dn:") else 4  # urn:dev:<subtype>:<identifier>; dn has a domain before it
    parts = name.split(":")
    rest = ":".join(parts[head:])
    return rest or parts[-1].partition("_")[2] or name


def _labelled(item: Any) -> dict[str, Any]:
    if type(item) is not dict:
        raise PayloadMalformed("a SenML record is an object")
    record: dict[str, Any] = {}
    for key, value in item.items():
        label = key if type(key) is str else _LABELS.get(key) if type(key) is int else None
        if label is None or label.endswith("_"):
            # RFC 8428, 4.4: a label that ends in "_" must be understood or the pack refused.
            raise PayloadMalformed(f"unknown SenML label {str(key)[:40]}")
        if label in record:
            raise PayloadMalformed(f"{label} is given twice")
        record[label] = value
    return record


def _text(record: dict[str, Any], label: str) -> str:
    value = record[label]
    if type(value) is not str:
        raise PayloadMalformed(f"{label} is not a string")
    return value


def _number(record: dict[str, Any], label: str) -> int | float:
    value = record[label]
    if type(value) is int or (type(value) is float and isfinite(value)):
        return value
    raise PayloadMalformed(f"{label} is not a number")


def _time(record: dict[str, Any], label: str) -> int:
    seconds = _number(record, label)
    if abs(seconds) > _TIME_S_MAX:
        raise PayloadMalformed(f"{label} is beyond any calendar")
    return seconds * 1_000_000 if type(seconds) is int else round(seconds * 1_000_000)


def _plus(record: dict[str, Any], label: str, base: int | float | None) -> int | float | None:
    """The value, and what the base adds to it; either may be missing."""
    if label not in record:
        return base if label == "v" else None
    value = _number(record, label)
    return value if base is None else base + value

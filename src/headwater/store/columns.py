"""Records as the bytes that PostgreSQL's binary COPY takes.

Owns the layout of a row of `telemetry`, `telemetry_latest` and `event`. Knows no connection and no clock.

A shape is everything that messages with the same names and types of values have in common: it is worked out once, and a
message of a known shape is one call of a function made for its number of values. Sorted as bytes, rows of `telemetry` lie
by (tenant, device, observed_at), because that is how they begin: the index on it then takes a batch for a third less.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from math import isfinite, isnan
from typing import Any

import msgspec
from msgspec.msgpack import Ext

from headwater.stream.envelope import EXT_JSON, EXT_LOCATION, Record

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
COPY_TRAILER = b"\xff\xff"

PG_EPOCH_US = 946_684_800_000_000
"""timestamptz counts microseconds from 2000-01-01 UTC."""
TIME_MIN_US, TIME_MAX_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Years 1 to 9999: what Python, PostgreSQL and ISO 8601 all can say."""
EXACT_INTEGER_MAX = 1 << 53
"""Beyond it a float8 no longer holds every integer."""

FLOAT, INTEGER, BOOLEAN, STRING, JSON, LOCATION = "float", "integer", "boolean", "string", "json", "location"
_TYPES: dict[object, str] = {
    float: FLOAT, int: INTEGER, bool: BOOLEAN, str: STRING, EXT_JSON: JSON, EXT_LOCATION: LOCATION,
}  # fmt: skip
PACKED_VALUES_MAX = 64
"""Of the messages that get a function of their own: beyond it compiling one costs milliseconds and much memory."""
METRIC_SET_IDS_MAX = 128
"""Beyond it a set is known by its digest: an index takes 2,704 bytes at most, and a message may have 1,000 metrics."""
JSON_DEPTH_MAX = 100
"""Of a value: what every reader can take, and far more than gateways let through."""
_INT4_OID, _FLOAT8_OID = 23, 701
_NULL = b"\xff\xff\xff\xff"
_NUL_ESCAPE = b"\\u0000"
_SUBSTITUTE = "\ufffd"
"""For U+0000, which PostgreSQL can store in no text and no jsonb."""

_json_encode = msgspec.json.Encoder().encode
_json_decode = msgspec.json.Decoder().decode
_location_decode = msgspec.msgpack.Decoder(list[float]).decode

PackRow = Callable[[Record, int, tuple[Any, ...]], bytes]


class UnknownValue(Exception):
    """A value of a type that no record may hold: the gateway that sent it is newer than this program."""


class Shape(msgspec.Struct, frozen=True):
    """metric_set  the key of the latest values, see `metric_set`
    metric_ids  in the order of the names
    integers    whether a value may be an integer that a float8 cannot hold
    pack        where all values are numbers, and few: the whole row at once; values must be finite and exact
    """

    metric_ids: tuple[int, ...]
    metric_set: bytes
    integers: bool
    pack: PackRow | None


def metric_type(value: object) -> str:
    """Raises UnknownValue."""
    token: object = value.code if isinstance(value, Ext) else type(value)
    try:
        return _TYPES[token]
    except KeyError:
        raise UnknownValue(f"a value of type {token!r}") from None


def make_shape(metric_ids: Sequence[int], types: Sequence[str], lane: int) -> Shape:
    packed = len(types) <= PACKED_VALUES_MAX and all(t in (FLOAT, INTEGER, BOOLEAN) for t in types)
    return Shape(
        tuple(metric_ids), metric_set(metric_ids), INTEGER in types, _row_packer(metric_ids, lane) if packed else None
    )


def metric_set(metric_ids: Sequence[int]) -> bytes:
    """The sorted ids, 4 bytes each, big-endian; of many their SHA-256."""
    ids = sorted(set(metric_ids))
    key = struct.pack(f"!{len(ids)}i", *ids)
    return key if len(ids) <= METRIC_SET_IDS_MAX else hashlib.sha256(key).digest()


def _array_head(count: int, oid: int) -> bytes:
    return struct.pack("!iiiii", 1, 0, oid, count, 1) if count else struct.pack("!iii", 0, 0, oid)


def _array(format_: str, oid: int, values: Sequence[float]) -> bytes:
    size = struct.calcsize("!" + format_)
    cells = b"".join(struct.pack("!i" + format_, size, value) for value in values)
    head = _array_head(len(values), oid)
    return struct.pack("!i", len(head) + len(cells)) + head + cells


_PREFIX = "!hi16si16siqiqiqih"
PREFIX_BYTES = struct.calcsize(_PREFIX)
"""Column count, tenant, device, observed_at, received_at, sequence, lane; then metrics, numbers, extras."""
_pack_prefix = struct.Struct(_PREFIX).pack


def _row_packer(metric_ids: Sequence[int], lane: int) -> PackRow:
    """A function for messages of exactly these metrics.

    Its source is written for the number of values, as dataclasses writes an __init__: with `*values` the call alone costs
    three times as much (1.8 against 0.66 microseconds a message of five).
    """
    count = len(metric_ids)
    head = _array("i", _INT4_OID, metric_ids)
    numbers = _array_head(count, _FLOAT8_OID)
    head += struct.pack("!i", len(numbers) + 12 * count) + numbers
    names = [f"v{i}" for i in range(count)]
    source = (
        "def row(record, sequence, values):\n"
        f"    ({''.join(name + ', ' for name in names)}) = values\n"
        "    return pack(9, 16, record.tenant, 16, record.device, 8, record.observed_at - epoch,\n"
        f"        8, record.received_at - epoch, 8, sequence, 2, lane, head, {''.join(f'8, {n}, ' for n in names)}-1)\n"
    )
    scope: dict[str, Any] = {
        "pack": struct.Struct(f"{_PREFIX}{len(head)}s{'id' * count}i").pack,
        "head": head,
        "lane": lane,
        "epoch": PG_EPOCH_US,
    }
    exec(source, scope)  # noqa: S102  # made of a count only, nothing from outside
    row: PackRow = scope["row"]
    return row


def pack_mixed_row(record: Record, sequence: int, lane: int, metric_ids: Sequence[int], values: Sequence[Any]) -> bytes:
    """Any message: numbers that a float8 holds exactly into the arrays, all else into extras."""
    metrics: list[int] = []
    numbers: list[float] = []
    extras: dict[str, Any] = {}
    for metric_id, value in zip(metric_ids, values, strict=True):
        if isinstance(value, float):
            if isfinite(value):
                metrics.append(metric_id)
                numbers.append(value)
            else:
                extras[str(metric_id)] = to_json(value)
        elif isinstance(value, int) and -EXACT_INTEGER_MAX <= value <= EXACT_INTEGER_MAX:
            metrics.append(metric_id)
            numbers.append(value)
        else:
            extras[str(metric_id)] = to_json(value)
    prefix = _pack_prefix(
        9, 16, record.tenant, 16, record.device, 8, record.observed_at - PG_EPOCH_US, 8, record.received_at - PG_EPOCH_US,
        8, sequence, 2, lane,
    )  # fmt: skip
    tail = pack_jsonb(_json_encode(extras)) if extras else _NULL
    return prefix + _array("i", _INT4_OID, metrics) + _array("d", _FLOAT8_OID, numbers) + tail


def pack_latest(record: Record, metric_set: bytes, row: bytes) -> bytes:
    """A row of telemetry_latest, from the same message's row of telemetry."""
    return (
        struct.pack(
            f"!hi16si16si{len(metric_set)}siqiqiqiq",
            10, 16, record.tenant, 16, record.device, len(metric_set), metric_set,
            8, record.observed_at - PG_EPOCH_US, 8, record.received_at - PG_EPOCH_US, 8, record.epoch, 8, record.sequence,
        )
        + row[PREFIX_BYTES:]
    )  # fmt: skip


def pack_event(record: Record, sequence: int, ordinal: int) -> bytes:
    """A row of event. Raises UnknownValue."""
    name, data = record.body.get("name"), record.body.get("data")
    if not isinstance(name, str):
        raise UnknownValue("an event without a name")
    text = name.replace("\0", _SUBSTITUTE).encode()
    return (
        struct.pack(
            f"!hiqiii16si16si{len(text)}s",
            8, 8, sequence, 4, ordinal, 16, record.tenant, 16, record.device, len(text), text,
        )
        + (_NULL if data is None else pack_jsonb(_json_encode(to_json(data))))
        + struct.pack("!iqiq", 8, record.observed_at - PG_EPOCH_US, 8, record.received_at - PG_EPOCH_US)
    )  # fmt: skip


def pack_jsonb(text: bytes) -> bytes:
    if _NUL_ESCAPE in text:
        text = _json_encode(_without_nul(_json_decode(text)))
    return struct.pack("!ib", len(text) + 1, 1) + text


def to_json(value: Any) -> Any:
    """What a value of a record is in JSON; text of type JSON is passed on as it came.

    Raises UnknownValue, also where a reader of ours could not take it: one such row would spoil every answer that it is in.
    """
    if isinstance(value, Ext):
        if value.code == EXT_JSON:
            return _json(bytes(value.data))
        if value.code == EXT_LOCATION:
            return _location(bytes(value.data))
    elif isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    elif value is None or isinstance(value, float | int | str):
        return value
    raise UnknownValue(f"a value of type {type(value).__name__}")


def _json(text: bytes) -> msgspec.Raw:
    try:
        value = _json_decode(text)
    except (ValueError, RecursionError) as error:
        raise UnknownValue(f"JSON that cannot be read: {error}") from error
    if text.count(b"[") + text.count(b"{") > JSON_DEPTH_MAX and _is_deeper(value, JSON_DEPTH_MAX):
        raise UnknownValue(f"JSON nested deeper than {JSON_DEPTH_MAX}")
    return msgspec.Raw(text)


def _is_deeper(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(_is_deeper(each, depth - 1) for each in inner)


def _location(data: bytes) -> list[float]:
    try:
        place = _location_decode(data)
    except ValueError as error:
        raise UnknownValue(f"a location that cannot be read: {error}") from error
    if not 2 <= len(place) <= 3 or not all(map(isfinite, place)):
        raise UnknownValue("a location is two or three finite numbers")
    return place


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", _SUBSTITUTE)
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {key.replace("\0", _SUBSTITUTE): _without_nul(item) for key, item in value.items()}
    return value


def copy_data(rows: Sequence[bytes]) -> bytes:
    return b"".join((COPY_HEADER, *rows, COPY_TRAILER))

"""Rows of a binary COPY, read back as PostgreSQL's documentation describes them. Independent of how they are written."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PG_EPOCH_US = 946_684_800_000_000


def cells(row: bytes) -> list[bytes | None]:
    """Its columns; None = NULL. Nothing may be left over."""
    (count,), at = struct.unpack_from("!h", row), 2
    found: list[bytes | None] = []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", row, at)
        at += 4
        found.append(None if length == -1 else row[at : at + length])
        at += max(length, 0)
    assert at == len(row), f"{len(row) - at} bytes left over"
    return found


def array(cell: bytes, format_: str, oid: int) -> list[Any]:
    dimensions, nulls, element = struct.unpack_from("!iii", cell)
    assert (nulls, element) == (0, oid)
    if dimensions == 0:
        assert len(cell) == 12
        return []
    assert dimensions == 1
    length, lower = struct.unpack_from("!ii", cell, 12)
    assert lower == 1
    size = struct.calcsize("!" + format_)
    values = [struct.unpack_from(f"!i{format_}", cell, 20 + n * (4 + size)) for n in range(length)]
    assert len(cell) == 20 + length * (4 + size)
    assert all(stated == size for stated, _ in values)
    return [value for _, value in values]


def jsonb(cell: bytes | None) -> Any:
    if cell is None:
        return None
    assert cell[0] == 1, "the only version there is"
    return json.loads(cell[1:])


def _int(cell: bytes | None) -> int:
    assert cell is not None
    return int.from_bytes(cell, "big", signed=True)


def _us(cell: bytes | None) -> int:
    return _int(cell) + PG_EPOCH_US


@dataclass(frozen=True)
class TelemetryRow:
    tenant: bytes
    device: bytes
    observed_at: int
    received_at: int
    sequence: int
    lane: int
    numbers: dict[int, float]
    extras: dict[str, Any] | None


def telemetry(row: bytes) -> TelemetryRow:
    tenant, device, observed, received, sequence, lane, metrics, numbers, extras = cells(row)
    assert tenant is not None
    assert device is not None
    assert lane is not None
    assert len(lane) == 2
    return TelemetryRow(
        tenant,
        device,
        _us(observed),
        _us(received),
        _int(sequence),
        _int(lane),
        dict(_pairs(metrics, numbers)),
        jsonb(extras),
    )


@dataclass(frozen=True)
class LatestRow:
    tenant: bytes
    device: bytes
    metric_set: bytes
    observed_at: int
    received_at: int
    epoch: int
    record: int
    numbers: dict[int, float]
    extras: dict[str, Any] | None


def latest(row: bytes) -> LatestRow:
    tenant, device, metric_set, observed, received, epoch, record, metrics, numbers, extras = cells(row)
    assert tenant is not None
    assert device is not None
    assert metric_set is not None
    return LatestRow(
        tenant, device, metric_set, _us(observed), _us(received), _int(epoch), _int(record),
        dict(_pairs(metrics, numbers)), jsonb(extras),
    )  # fmt: skip


@dataclass(frozen=True)
class EventRow:
    sequence: int
    ordinal: int
    tenant: bytes
    device: bytes
    name: str
    data: Any
    observed_at: int
    received_at: int


def event(row: bytes) -> EventRow:
    sequence, ordinal, tenant, device, name, data, observed, received = cells(row)
    assert tenant is not None
    assert device is not None
    assert name is not None
    return EventRow(_int(sequence), _int(ordinal), tenant, device, name.decode(), jsonb(data), _us(observed), _us(received))


def _pairs(metrics: bytes | None, numbers: bytes | None) -> Iterator[tuple[int, float]]:
    assert metrics is not None
    assert numbers is not None
    return zip(array(metrics, "i", 23), array(numbers, "d", 701), strict=True)

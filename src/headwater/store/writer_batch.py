"""What the records of a batch become: rows, attributes, dead letters.

Owns the hot path of the store: `Batch.add` costs about four microseconds a message, so it knows no connection, awaits
nothing and makes no object that is not stored. What it cannot place because it has not seen its metrics yet, it leaves in
`unresolved`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

from headwater.store.columns import (
    EXACT_INTEGER_MAX,
    TIME_MAX_US,
    TIME_MIN_US,
    Shape,
    UnknownValue,
    make_shape,
    metric_type,
    pack_event,
    pack_latest,
    pack_mixed_row,
    to_json,
)
from headwater.store.metrics import MetricCatalog, MetricKey, Refusal
from headwater.stream.envelope import Flag, Kind, Record

DAY_US = 86_400_000_000
SHAPES_MAX = 20_000
SHAPE_NAMES_MAX = 200_000
"""Shapes kept by one lane, and the names in all of them, about 40 MB; beyond either all are worked out again."""

_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


class Group(NamedTuple):
    """Records of one batch of the stream. sequence: the batch's. ordinals: their places in it."""

    sequence: int
    records: Sequence[Record]
    ordinals: Sequence[int]


class Item(NamedTuple):
    record: Record
    sequence: int
    ordinal: int


class Refused(NamedTuple):
    item: Item
    refusal: Refusal


class Leaf(NamedTuple):
    """An attribute's newest value in the batch. value None = forget it."""

    stamp: tuple[int, int, int]
    value: Any
    """as JSON has it"""


class Attributes(NamedTuple):
    tenant: bytes
    leaves: dict[str, Leaf]


class Shapes:
    """The shapes that a lane has met, under everything that decides one: tenant, names, types."""

    def __init__(self, lane: int, catalog: MetricCatalog) -> None:
        self.lane = lane
        self.catalog = catalog
        self.by_class: dict[tuple[bytes, tuple[str, ...], tuple[type, ...]], Shape] = {}
        """numbers only, found by their Python types"""
        self._by_type: dict[tuple[bytes, tuple[str, ...], tuple[str, ...]], Shape] = {}
        self._names = 0

    def find(self, tenant: bytes, names: tuple[str, ...], values: tuple[Any, ...]) -> Shape | Refusal | list[MetricKey]:
        """The shape, or why there is none, or the metrics to resolve first. Raises UnknownValue."""
        types = tuple(map(metric_type, values))
        shape = self._by_type.get((tenant, names, types))
        if shape is not None:
            return shape
        keys = [MetricKey(tenant, name, type_) for name, type_ in zip(names, types, strict=True)]
        ids = [self.catalog.ids.get(key) for key in keys]
        known = [i for i in ids if i is not None]
        if len(known) < len(ids):
            refusal = next(filter(None, map(self.catalog.refusal, keys)), None)
            return refusal or [key for key, i in zip(keys, ids, strict=True) if i is None]
        shape = make_shape(known, types, self.lane)
        self._names += len(names)
        if len(self._by_type) >= SHAPES_MAX or self._names > SHAPE_NAMES_MAX:
            self._by_type.clear()
            self.by_class.clear()
            self._names = len(names)
        self._by_type[tenant, names, types] = shape
        if shape.pack is not None:
            self.by_class[tenant, names, tuple(map(type, values))] = shape
        return shape


class Batch:
    """rows, events    as COPY takes them
    resent_*        those that must not be stored twice
    attributes      by device
    left_out        attributes for which their devices had no room
    """

    def __init__(self, shapes: Shapes) -> None:
        self.rows: list[bytes] = []
        self.resent_rows: list[bytes] = []
        self.events: list[bytes] = []
        self.resent_events: list[bytes] = []
        self.attributes: dict[bytes, Attributes] = {}
        self.left_out = 0
        self.refused: list[Refused] = []
        self.unresolved: list[Item] = []
        self._shapes = shapes
        self._newest: dict[tuple[bytes, bytes], tuple[tuple[int, int, int], Record, bytes]] = {}

    def add(self, group: Group) -> None:
        sequence = group.sequence
        by_class, rows, newest, telemetry = self._shapes.by_class, self.rows, self._newest, Kind.TELEMETRY.value
        for ordinal, record in zip(group.ordinals, group.records, strict=True):
            if record.kind == telemetry and not record.flags:
                body = record.body
                values = tuple(body.values())
                shape = by_class.get((record.tenant, tuple(body), tuple(map(type, values))))
                if (
                    shape is not None
                    and isfinite(sum(values))
                    and (not shape.integers or (max(values) <= EXACT_INTEGER_MAX and min(values) >= -EXACT_INTEGER_MAX))
                ):
                    row = shape.pack(record, sequence, values)  # type: ignore[misc]  # by_class holds only shapes with `pack`
                    rows.append(row)
                    key = (record.device, shape.metric_set)
                    stamp = (record.observed_at, record.epoch, record.sequence)
                    known = newest.get(key)
                    if known is None or stamp > known[0]:
                        newest[key] = (stamp, record, row)
                    continue
            self.add_item(Item(record, sequence, ordinal))

    def add_item(self, item: Item) -> None:
        """One record of any kind and with any values."""
        record = item.record
        try:
            if record.kind == Kind.TELEMETRY:
                self._add_telemetry(item)
            elif record.kind == Kind.ATTRIBUTES:
                self._add_attributes(record)
            elif record.kind == Kind.EVENT:
                event = pack_event(record, item.sequence, item.ordinal)
                (self.resent_events if record.flags & Flag.RESENT else self.events).append(event)
            else:
                self.refuse(item, "record.unknown_kind", f"the store knows no record of kind {record.kind}")
        except UnknownValue as error:
            self.refuse(item, "record.unknown_value", str(error))
        except (struct.error, UnicodeEncodeError, ValueError, TypeError) as error:
            self.refuse(item, "record.not_storable", f"{type(error).__name__}: {error}")

    def refuse(self, item: Item, code: str, detail: str) -> None:
        self.refused.append(Refused(item, Refusal(code, detail)))

    def latest_rows(self) -> list[bytes]:
        return [pack_latest(record, key[1], row) for key, (_, record, row) in self._newest.items()]

    def _add_telemetry(self, item: Item) -> None:
        record = item.record
        body = {name: value for name, value in record.body.items() if value is not None}
        if not body:
            return
        values = tuple(body.values())
        shape = self._shapes.find(record.tenant, tuple(body), values)
        if isinstance(shape, list):
            self.unresolved.append(item)
            return
        if isinstance(shape, Refusal):
            self.refused.append(Refused(item, shape))
            return
        row = pack_mixed_row(record, item.sequence, self._shapes.lane, shape.metric_ids, values)
        (self.resent_rows if record.flags & Flag.RESENT else self.rows).append(row)
        key = (record.device, shape.metric_set)
        stamp = (record.observed_at, record.epoch, record.sequence)
        known = self._newest.get(key)
        if known is None or stamp > known[0]:
            self._newest[key] = (stamp, record, row)

    def _add_attributes(self, record: Record) -> None:
        stamp = (record.observed_at, record.epoch, record.sequence)
        # First all of them: a record is kept whole or not at all.
        said = {name: to_json(value) for name, value in record.body.items()}
        _, leaves = self.attributes.setdefault(record.device, Attributes(record.tenant, {}))
        for name, value in said.items():
            known = leaves.get(name)
            if known is None or stamp > known.stamp:
                leaves[name] = Leaf(stamp, value)

    def wanted_metrics(self) -> set[MetricKey]:
        """What `unresolved` is made of: what is missing, and what must not be forgotten for it."""
        return {
            MetricKey(record.tenant, name, metric_type(value))
            for record, _, _ in self.unresolved
            for name, value in record.body.items()
            if value is not None
        }

    def retry_unresolved(self) -> None:
        items, self.unresolved = self.unresolved, []
        for item in items:
            self.add_item(item)


def is_storable(record: Record) -> bool:
    """What the columns can hold at all."""
    return (
        len(record.tenant) == 16 == len(record.device)
        and TIME_MIN_US <= record.observed_at <= TIME_MAX_US
        and TIME_MIN_US <= record.received_at <= TIME_MAX_US
        and _INT64_MIN <= record.epoch <= _INT64_MAX
        and _INT64_MIN <= record.sequence <= _INT64_MAX
    )

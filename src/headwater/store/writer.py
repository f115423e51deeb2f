"""The store's consumer: record batches become rows, exactly once.

Owns the transaction. It moves the lane's position first, then copies telemetry and events, merges latest values and
attributes, and commits all of it or nothing; the session that does so holds the lane's lock. Whatever dies, the next
session goes on from the position that is durable, and the stream still has everything behind it.

Its commits do not wait for the disk (`synchronous_commit = off`). Position and rows are in one transaction, so a PostgreSQL
that crashes forgets both or neither, and the lane reads the forgotten part again from the stream. That holds only while the
stream keeps what PostgreSQL might forget: the trimmer commits with `synchronous_commit = on` before it purges, which
flushes everything before it (stream/trim.py).

What cannot be stored never stops a lane: a record that PostgreSQL refuses is found by halving, inside savepoints, and goes
to the tenant's dead letters; a batch that cannot be decoded goes to those of the platform. What PostgreSQL cannot do now
(it is away, full, read-only, chose us as a deadlock's victim) ends the session, and the consumer tries again for ever.

A record that may be a repetition (`Flag.RESENT`) is stored only where no identical row is. Its first copy may wait in
another lane, so such a record waits until no lane has anything older to do. A gateway that still repeats a publish while the
device has already connected elsewhere and sent again can put the copies in the wrong order; that one is stored twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec
import structlog

from headwater.clock import to_datetime
from headwater.store.columns import copy_data
from headwater.store.dead_letters import PERMANENT, PLATFORM, Burial, PublishDead, Undecodable, decode
from headwater.store.metrics import MetricCatalog, Refusal
from headwater.store.writer_attributes import merge_attributes
from headwater.store.writer_batch import DAY_US, Batch, Group, Item, Refused, Shapes, is_storable
from headwater.store.writer_devices import KnownDevices, Sender, activate, look_up
from headwater.store.writer_latest import prune_latest
from headwater.stream import subjects
from headwater.stream.envelope import Record, UnknownEnvelope, decode_pieces
from headwater.stream.position import move_position
from headwater.stream.reader import Delivery

log = structlog.get_logger(__name__)

CONSUMER = "store"
FRONTIER_PAUSE_S = 0.05
LETTERS_AT_ONCE = 64
"""They share fsyncs; thousands one after the other would keep a lane waiting for minutes."""

_TEMPORARY_TABLES = """
CREATE TEMP TABLE IF NOT EXISTS latest_incoming (LIKE telemetry_latest) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS resent_incoming (LIKE telemetry) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS resent_event_incoming (LIKE event) ON COMMIT DELETE ROWS;
"""
_EMPTY_TEMPORARY_TABLES = """
DELETE FROM latest_incoming;
DELETE FROM resent_incoming;
DELETE FROM resent_event_incoming;
"""
_MERGE_LATEST = """
WITH merged AS (
    INSERT INTO telemetry_latest AS known
    SELECT * FROM latest_incoming ORDER BY device_id, metric_set
    ON CONFLICT (device_id, metric_set) DO UPDATE SET
        observed_at = excluded.observed_at, received_at = excluded.received_at, epoch = excluded.epoch,
        record = excluded.record, metrics = excluded.metrics, numbers = excluded.numbers, extras = excluded.extras
    WHERE (excluded.observed_at, excluded.epoch, excluded.record) > (known.observed_at, known.epoch, known.record)
    RETURNING device_id, known.xmax = 0 AS inserted
)
SELECT DISTINCT device_id FROM merged WHERE inserted
"""
_INSERT_RESENT = """
INSERT INTO telemetry
SELECT DISTINCT ON (device_id, observed_at, metrics, numbers, extras) * FROM resent_incoming AS new
WHERE NOT EXISTS (
    SELECT FROM telemetry AS old
    WHERE old.device_id = new.device_id AND old.observed_at = new.observed_at
      AND old.metrics = new.metrics AND old.numbers = new.numbers AND old.extras IS NOT DISTINCT FROM new.extras)
"""
_INSERT_RESENT_EVENTS = """
INSERT INTO event
SELECT DISTINCT ON (device_id, observed_at, name, data) * FROM resent_event_incoming AS new
WHERE NOT EXISTS (
    SELECT FROM event AS old
    WHERE old.device_id = new.device_id AND old.observed_at = new.observed_at
      AND old.name = new.name AND old.data IS NOT DISTINCT FROM new.data)
"""


class Partitions(Protocol):
    async def ensure(self, days: set[int]) -> None:
        """Make room for rows of these days, counted from 1970-01-01."""


class Frontier(Protocol):
    async def lowest_pending(self, lane: int) -> int | None:
        """The lowest stream sequence that any other lane has not stored yet; None where there is none."""


@dataclass(slots=True)
class StoreCounts:
    """Since the process began. dropped: records of devices that are gone, and attributes for which there was no room."""

    records: int = 0
    batches: int = 0
    rows: int = 0
    dropped: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class StoreParts:
    """What all lanes of a process share."""

    known: KnownDevices
    partitions: Partitions
    frontier: Frontier
    publish_dead: PublishDead
    counts: StoreCounts


@dataclass(slots=True)
class _Chunk:
    """Deliveries that go into one transaction, decoded.

    undecodable  batches, or (with an ordinal) single records of batches of which others can be read
    resent       whether some record may be a repetition
    refused      records that the columns cannot hold
    dropped      records of devices that are gone
    registered   devices that speak for the first time
    span         of observed_at
    """

    groups: list[Group] = field(default_factory=list)
    undecodable: list[_Undecodable] = field(default_factory=list)
    deliveries: int = 0
    to: int = 0
    resent: bool = False
    refused: list[Refused] = field(default_factory=list)
    dropped: int = 0
    registered: set[Sender] = field(default_factory=set)
    span: tuple[int, int] = (0, 0)

    def keep(self, wanted: Callable[[Record], bool]) -> int:
        """Returns how many records are not kept."""
        before = sum(len(group.records) for group in self.groups)
        self.groups = [
            Group(
                group.sequence,
                [record for record in group.records if wanted(record)],
                [place for place, record in zip(group.ordinals, group.records, strict=True) if wanted(record)],
            )
            for group in self.groups
        ]
        return before - sum(len(group.records) for group in self.groups)

    def items(self) -> list[Item]:
        return [
            Item(record, group.sequence, ordinal)
            for group in self.groups
            for ordinal, record in zip(group.ordinals, group.records, strict=True)
        ]


class _Undecodable(NamedTuple):
    delivery: Delivery
    reason: str
    sequence: int = 0
    ordinal: int | None = None


class StoreWork:
    """One lane's writing, for as long as one session lives."""

    def __init__(self, connection: Any, lane: int, parts: StoreParts) -> None:
        self._connection = connection
        self._lane = lane
        self._parts = parts
        self._burial = Burial(parts.publish_dead, CONSUMER, lane, subjects.up(lane))
        self._catalog = MetricCatalog(connection)
        self._shapes = Shapes(lane, self._catalog)
        self._ready = False
        self._resent_at: int | None = None
        """sequence of a batch that is known to have a repetition, so that it need not be decoded again while it waits"""
        parts.known.clear()

    async def apply(self, deliveries: Sequence[Delivery], *, position: int, offset: int) -> int:
        if not self._ready:
            await self._connection.execute(_TEMPORARY_TABLES)
            self._ready = True
        chunk = await self._readable(deliveries, offset)
        if not chunk.deliveries:
            await asyncio.sleep(FRONTIER_PAUSE_S)
            return 0
        await self._admit(chunk)
        batch = Batch(self._shapes)
        for group in chunk.groups:
            batch.add(group)
            # At once, so that only the first of many messages of a new kind takes the long way.
            await self._resolve(batch)
        await self._bury_undecodable(chunk.undecodable)
        await self._bury((*chunk.refused, *batch.refused))
        try:
            async with self._connection.transaction():
                await move_position(self._connection, CONSUMER, self._lane, expected=position, to=chunk.to)
                await self._write(batch)
                await self._finish(chunk, batch)
        except PERMANENT as error:
            log.warning("batch_refused", lane=self._lane, reason=f"{type(error).__name__}: {error}")
            buried = {refused.item[1:] for refused in batch.refused}
            async with self._connection.transaction():
                await move_position(self._connection, CONSUMER, self._lane, expected=position, to=chunk.to)
                batch = await self._write_halves([item for item in chunk.items() if item[1:] not in buried])
                await self._finish(chunk, batch)
                await self._bury(batch.refused)
        self._parts.known.add(chunk.registered)
        counts = self._parts.counts
        counts.batches += chunk.deliveries
        counts.records += sum(len(group.records) for group in chunk.groups)
        counts.rows += len(batch.rows) + len(batch.resent_rows)
        counts.dropped += chunk.dropped
        return chunk.deliveries

    async def _readable(self, deliveries: Sequence[Delivery], offset: int) -> _Chunk:
        """Up to the first batch with a repetition; or, where that is the first, as far as no other lane lags behind."""
        first = deliveries[0]
        if first.sequence != self._resent_at:
            chunk = _decode(deliveries, offset, stop_at_resent=True)
            if not chunk.resent:
                return chunk
            self._resent_at = first.sequence
        pending = await self._parts.frontier.lowest_pending(self._lane)
        ready = [delivery for delivery in deliveries if pending is None or delivery.sequence < pending]
        return _decode(ready, offset)

    async def _admit(self, chunk: _Chunk) -> None:
        """Take out records that the columns cannot hold and those of deleted devices; make room for the days of the rest."""
        everything = [record for group in chunk.groups for record in group.records]
        if not all(map(is_storable, everything)):
            refusal = Refusal("record.not_storable", "an id, a time or a number is out of range")
            chunk.refused = [Refused(item, refusal) for item in chunk.items() if not is_storable(item.record)]
            chunk.keep(is_storable)
            everything = list(filter(is_storable, everything))
        if not everything:
            return
        unknown = self._parts.known.unknown({(record.device, record.tenant) for record in everything})
        if unknown:
            existing, chunk.registered = await look_up(self._connection, unknown)
            self._parts.known.add(existing - chunk.registered)
            if gone := unknown - existing:
                chunk.dropped = chunk.keep(lambda record: (record.device, record.tenant) not in gone)
        times = [record.observed_at for group in chunk.groups for record in group.records]
        if times:
            chunk.span = (min(times), max(times))
            await self._parts.partitions.ensure({time // DAY_US for time in times})

    async def _resolve(self, batch: Batch) -> None:
        if not batch.unresolved:
            return
        await self._catalog.resolve(batch.wanted_metrics())
        batch.retry_unresolved()
        for item in batch.unresolved:
            batch.refuse(item, "record.not_storable", "its metrics are not known in time")
        batch.unresolved = []

    async def _write(self, batch: Batch) -> None:
        """All statements of a batch, each over all of its rows, tables and rows in the same order in every lane."""
        await self._copy("telemetry", batch.rows)
        await self._copy("event", batch.events)
        if batch.resent_rows:
            await self._copy("resent_incoming", batch.resent_rows)
            await self._connection.execute(_INSERT_RESENT)
        if batch.resent_events:
            await self._copy("resent_event_incoming", batch.resent_events)
            await self._connection.execute(_INSERT_RESENT_EVENTS)
        if latest := batch.latest_rows():
            await self._copy("latest_incoming", latest)
            inserted = await self._connection.fetch(_MERGE_LATEST)
            if inserted:
                await prune_latest(self._connection, [row["device_id"] for row in inserted])
        if batch.attributes:
            batch.left_out = await merge_attributes(self._connection, batch.attributes)

    async def _copy(self, table: str, rows: list[bytes]) -> None:
        if rows:
            # By device: an index takes neighbours for a third less (store/columns.py).
            rows.sort()
            # As a memoryview, because asyncpg takes bytes for the name of a file.
            await self._connection.copy_to_table(table, source=memoryview(copy_data(rows)), format="binary")

    async def _write_halves(self, items: Sequence[Item]) -> Batch:
        """The same, where something in it is refused: halve until it stands alone, and leave it out."""
        batch = Batch(self._shapes)
        for item in items:
            batch.add_item(item)
        await self._resolve(batch)
        try:
            async with self._connection.transaction():
                # What an earlier part brought is still there: these tables are emptied when the transaction ends.
                await self._connection.execute(_EMPTY_TEMPORARY_TABLES)
                await self._write(batch)
        except PERMANENT as error:
            if len(items) > 1:
                middle = len(items) // 2
                first, second = await self._write_halves(items[:middle]), await self._write_halves(items[middle:])
                for name in ("rows", "resent_rows", "refused"):
                    getattr(first, name).extend(getattr(second, name))
                first.left_out += second.left_out
                return first
            batch = Batch(self._shapes)
            batch.refuse(items[0], "record.refused_by_database", f"{type(error).__name__}: {error}")
        return batch

    async def _finish(self, chunk: _Chunk, batch: Batch) -> None:
        """The rest of the transaction."""
        chunk.dropped += batch.left_out
        if chunk.registered:
            await activate(self._connection, [device for device, _ in chunk.registered])
        count = len(batch.rows) + len(batch.resent_rows)
        if count:
            await self._connection.execute(
                """
                INSERT INTO telemetry_ledger AS known (lane, sequence, rows, observed_from, observed_to)
                VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (lane, sequence) DO UPDATE SET
                    rows = known.rows + excluded.rows,
                    observed_from = least(known.observed_from, excluded.observed_from),
                    observed_to = greatest(known.observed_to, excluded.observed_to)
                """,
                self._lane, chunk.to, count, *map(to_datetime, chunk.span),
            )  # fmt: skip

    async def _bury(self, everything: Sequence[Refused]) -> None:
        """Dead letters are stored before the transaction commits: rather twice than not at all."""
        for start in range(0, len(everything), LETTERS_AT_ONCE):
            await asyncio.gather(*map(self._bury_one, everything[start : start + LETTERS_AT_ONCE]))

    async def _bury_one(self, refused: Refused) -> None:
        record, sequence, ordinal = refused.item
        tenant = UUID(bytes=record.tenant) if len(record.tenant) == 16 else PLATFORM
        code, detail = refused.refusal
        await self._burial.record(tenant, record, (sequence, ordinal), code=code, detail=detail)
        self._parts.counts.dead_letters += 1

    async def _bury_undecodable(self, everything: Sequence[_Undecodable]) -> None:
        for delivery, reason, sequence, ordinal in everything:
            if ordinal is None:
                await self._burial.batch(delivery, reason)
            else:
                await self._burial.piece(delivery.data, (sequence, ordinal), reason)
            self._parts.counts.dead_letters += 1


def _decode(deliveries: Sequence[Delivery], offset: int, *, stop_at_resent: bool = False) -> _Chunk:
    """stop_at_resent: leave out the first batch with a repetition and all behind it, except where it is the very first."""
    chunk = _Chunk()
    for delivery in deliveries:
        group, undecodable = _decode_one(delivery, offset)
        resent = any(record.flags for record in group.records)
        if resent and stop_at_resent and chunk.deliveries:
            break
        chunk.resent |= resent
        chunk.groups.append(group)
        chunk.undecodable += undecodable
        chunk.deliveries += 1
        chunk.to = group.sequence
        if resent and stop_at_resent:
            break
    return chunk


def _decode_one(delivery: Delivery, offset: int) -> tuple[Group, list[_Undecodable]]:
    sequence = delivery.sequence + offset
    try:
        records = decode(delivery)
    except Undecodable as error:
        reason = str(error)
    else:
        return Group(sequence, records, range(len(records))), []
    try:
        pieces = decode_pieces(delivery.data)
    except (msgspec.DecodeError, UnknownEnvelope):
        return Group(sequence, [], []), [_Undecodable(delivery, reason)]
    good = [(ordinal, piece) for ordinal, piece in enumerate(pieces) if isinstance(piece, Record)]
    bad = [
        _Undecodable(Delivery(delivery.sequence, piece), reason, sequence, ordinal)
        for ordinal, piece in enumerate(pieces)
        if isinstance(piece, bytes)
    ]
    return Group(sequence, [record for _, record in good], [ordinal for ordinal, _ in good]), bad

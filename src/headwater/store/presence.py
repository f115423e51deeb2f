"""The presence consumer: control records become the presence of devices, in their order.

Owns the transaction, which moves the partition's position and merges the newest words into `device_state`. Like the store's
its commits need not wait for the disk, for the same reason (store/writer.py). What is done with a word is in
store/presence_state.py; who speaks for a gateway that cannot any more, in store/presence_reaper.py.

Other kinds that travel on `hw.ctl` are other consumers' matter. What cannot be read, and what PostgreSQL refuses for good,
goes to the platform's dead letters: our own gateways said it, and no tenant could do anything about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from headwater.store.dead_letters import PERMANENT, PLATFORM, Burial, PublishDead, Undecodable, decode
from headwater.store.presence_state import Unreadable, Word, merge, read
from headwater.stream import subjects
from headwater.stream.envelope import Kind, Record
from headwater.stream.position import move_position
from headwater.stream.reader import Delivery
from headwater.stream.topology import PRESENCE

log = structlog.get_logger(__name__)

_KINDS = frozenset({Kind.CONNECTED, Kind.DISCONNECTED})


@dataclass(slots=True)
class PresenceCounts:
    """Since the process began. changed, dropped: devices that were, and those that are gone, once in a round each."""

    batches: int = 0
    records: int = 0
    changed: int = 0
    dropped: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class PresenceParts:
    """What all partitions of a process share."""

    publish_dead: PublishDead
    counts: PresenceCounts


class _Heard(NamedTuple):
    """place: sequence of its batch in the stream, index in the batch"""

    word: Word
    record: Record
    place: tuple[int, int]


class PresenceWork:
    """One partition's, for as long as one session lives. Implements stream.consumer.LaneWork."""

    def __init__(self, connection: Any, partition: int, parts: PresenceParts) -> None:
        self._connection = connection
        self._partition = partition
        self._counts = parts.counts
        self._burial = Burial(parts.publish_dead, PRESENCE.name, partition, subjects.control(partition))

    async def apply(self, deliveries: Sequence[Delivery], *, position: int, offset: int) -> int:
        heard = await self._read(deliveries, offset)
        to = deliveries[-1].sequence + offset
        try:
            async with self._connection.transaction():
                await move_position(self._connection, PRESENCE.name, self._partition, expected=position, to=to)
                await self._merge(heard)
        except PERMANENT as error:
            log.warning("presence_refused", partition=self._partition, reason=f"{type(error).__name__}: {error}")
            async with self._connection.transaction():
                await move_position(self._connection, PRESENCE.name, self._partition, expected=position, to=to)
                await self._merge_halves(heard)
        self._counts.batches += len(deliveries)
        self._counts.records += len(heard)
        return len(deliveries)

    async def _read(self, deliveries: Sequence[Delivery], offset: int) -> list[_Heard]:
        heard = []
        for delivery in deliveries:
            try:
                records = decode(delivery)
            except Undecodable as error:
                log.warning("presence_undecodable", partition=self._partition, reason=str(error))
                await self._burial.batch(delivery, str(error))
                self._counts.dead_letters += 1
                continue
            for ordinal, record in enumerate(records):
                if record.kind in _KINDS:
                    place = (delivery.sequence + offset, ordinal)
                    try:
                        heard.append(_Heard(read(record), record, place))
                    except Unreadable as error:
                        await self._bury(record, place, "record.not_storable", str(error))
        return heard

    async def _merge(self, heard: Sequence[_Heard]) -> None:
        merged = await merge(self._connection, [one.word for one in heard])
        self._counts.changed += merged.changed
        self._counts.dropped += merged.unknown

    async def _merge_halves(self, heard: Sequence[_Heard]) -> None:
        """The same, where something in it is refused: halve until it stands alone. A device that was deleted meanwhile is
        refused the first time, and absent the second."""
        try:
            async with self._connection.transaction():
                await self._merge(heard)
        except PERMANENT as error:
            if len(heard) > 1:
                middle = len(heard) // 2
                await self._merge_halves(heard[:middle])
                await self._merge_halves(heard[middle:])
                return
            _, record, place = heard[0]
            await self._bury(record, place, "record.refused_by_database", f"{type(error).__name__}: {error}")

    async def _bury(self, record: Record, place: tuple[int, int], code: str, detail: str) -> None:
        log.warning("presence_unusable", partition=self._partition, code=code, detail=detail)
        await self._burial.record(PLATFORM, record, place, code=code, detail=detail)
        self._counts.dead_letters += 1

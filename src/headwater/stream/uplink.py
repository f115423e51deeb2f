"""The way up, as one gateway process sees it: one lane for volume, partitions for order, dead letters, live copies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from headwater.stream import subjects
from headwater.stream.batcher import Batcher, Live
from headwater.stream.envelope import DeadLetter, Record, encode_dead_letter
from headwater.stream.publisher import Publisher
from headwater.stream.topology import Topology

DEAD_LETTERS_IN_FLIGHT_MAX = 256
"""A flood of malformed messages is stored at this width and no wider; the rest waits, and so does whoever sends it."""


class StreamUplink:
    """Implements ingest.ports.Uplink.

    lane      the batcher of this process's lane; the MQTT hot path appends to it directly
    live      where copies of what is watched go
    """

    def __init__(self, publisher: Publisher, topology: Topology, lane: int, live: Live | None = None) -> None:
        self._publisher = publisher
        self._topology = topology
        self._live = live
        self.lane = Batcher(publisher, subjects.up(lane % topology.lanes), live=live)
        self._control: dict[int, Batcher] = {}
        self._dead_letter_slots = asyncio.Semaphore(DEAD_LETTERS_IN_FLIGHT_MAX)

    def submit(self, records: Sequence[Record]) -> asyncio.Future[None]:
        return self.lane.add(records)

    def control(self, record: Record) -> asyncio.Future[None]:
        """Low volume, strictly ordered per device: one batch of a partition is under way at a time."""
        partition = subjects.partition_of(record.device, self._topology.partitions)
        batcher = self._control.get(partition)
        if batcher is None:
            batcher = Batcher(self._publisher, subjects.control(partition), in_flight_max=1, live=self._live)
            self._control[partition] = batcher
        return batcher.add((record,))

    def reject(self, tenant_id: UUID, letter: DeadLetter) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._store_dead_letter(tenant_id, letter))

    async def _store_dead_letter(self, tenant_id: UUID, letter: DeadLetter) -> None:
        async with self._dead_letter_slots:
            await self._publisher.publish(subjects.dead(tenant_id), encode_dead_letter(letter))

    async def drain(self) -> None:
        for batcher in (self.lane, *self._control.values()):
            await batcher.drain()

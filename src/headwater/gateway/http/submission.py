"""From what a profile read to records in the stream: identity, epoch, sequence, flags."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headwater.device.principal import Principal
from headwater.ingest.ports import StreamUnavailable, Uplink
from headwater.ingest.profile_compiled import Observed
from headwater.stream.envelope import Flag, Kind, Record

CHUNK_RECORDS = 500
"""Large requests go to the stream in pieces, so that they share batches with everybody else."""
CHUNKS_UNDER_WAY_MAX = 4
STORED_S = 30.0
"""The stream's own time limits are shorter; this one is for the case that they fail."""


class Epochs:
    """A request is a connection of its own: its epoch is the clock, and never twice the same in this process.

    So the records of a device order by time of request, whichever gateway took them, and by place inside a request.
    """

    def __init__(self) -> None:
        self._last = 0

    def next(self, received_us: int) -> int:
        self._last = max(self._last + 1, received_us)
        return self._last


class Submission:
    """The records of one request. `added` counts those that were given, `accepted` those that the stream has stored."""

    def __init__(
        self, uplink: Uplink, principal: Principal, kind: Kind, received_us: int, epoch: int, *, resent: bool
    ) -> None:
        self._uplink = uplink
        self._tenant = principal.tenant_id.bytes
        self._device = principal.device_id.bytes
        self._kind = int(kind)
        self._received_us = received_us
        self._epoch = epoch
        self._resent = int(Flag.RESENT) if resent else 0
        self.added = 0
        self._waiting: list[Record] = []
        self._under_way: list[tuple[int, asyncio.Future[None]]] = []
        self.accepted = 0

    async def add(self, records: Sequence[Observed]) -> None:
        """Returns at once, except where too much is under way. Raises StreamFull, StreamUnavailable."""
        for observed_us, body in records:
            self.added += 1
            # Only a time that the device gave itself can tell a record that came twice.
            flags = self._resent if observed_us != self._received_us else 0
            self._waiting.append(
                Record(
                    self._tenant, self._device, self._kind, observed_us, self._received_us, self._epoch, self.added,
                    body, flags,
                )
            )  # fmt: skip
        while len(self._waiting) >= CHUNK_RECORDS:
            chunk, self._waiting = self._waiting[:CHUNK_RECORDS], self._waiting[CHUNK_RECORDS:]
            await self._submit(chunk)

    async def finish(self) -> int:
        """How many records the stream has stored: all of them. Raises StreamFull, StreamUnavailable."""
        if self._waiting:
            chunk, self._waiting = self._waiting, []
            await self._submit(chunk)
        while self._under_way:
            await self._oldest()
        return self.accepted

    async def _submit(self, chunk: list[Record]) -> None:
        if len(self._under_way) >= CHUNKS_UNDER_WAY_MAX:
            await self._oldest()
        stored = self._uplink.submit(chunk)
        stored.add_done_callback(_seen)
        self._under_way.append((len(chunk), stored))

    async def _oldest(self) -> None:
        count, stored = self._under_way.pop(0)
        # `wait` leaves the future alone when this request ends: the stream decides what becomes of its records.
        done, _ = await asyncio.wait((stored,), timeout=STORED_S)
        if not done:
            raise StreamUnavailable("the stream did not answer in time")
        stored.result()
        self.accepted += count


def _seen(stored: asyncio.Future[None]) -> None:
    """A request that ended early asks no more what became of its records; asyncio need not complain of that."""
    if not stored.cancelled():
        stored.exception()

"""The log of a tenant's ordinary messages: the queue of every session that is away or slow.

A place in it is (sequence, index): the batch's sequence in the stream and the message's index in the batch. Nobody's queue
is copied out of it: a session keeps its place and reads on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from nats.aio.client import Client

from headwater.stream import subjects
from headwater.stream.direct_get import last_sequence, read_from
from headwater.stream.envelope import Message, decode_messages
from headwater.stream.topology import MESSAGE_STREAM

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LoggedBatch:
    sequence: int
    messages: list[Message]


class MessageLog:
    def __init__(self, client: Client) -> None:
        self._nats = client

    async def read(self, tenant_id: UUID, sequence: int, batches: int) -> list[LoggedBatch]:
        """Up to `batches` from `sequence` on, ascending. Fewer = there are no more. Raises ReadFailed."""
        found = await read_from(self._nats, MESSAGE_STREAM, subjects.message(tenant_id), sequence, batches)
        return [LoggedBatch(stored.sequence, decode_messages(stored.data)) for stored in found]

    async def find(self, tenant_id: UUID, place: Place) -> Message | None:
        """None = the stream does not keep it any more. Raises ReadFailed."""
        found = await self.read(tenant_id, place[0], 1)
        if not found or found[0].sequence != place[0] or len(found[0].messages) <= place[1]:
            return None
        return found[0].messages[place[1]]

    async def end(self, tenant_id: UUID) -> int:
        """The sequence of the newest batch; 0 = there is none. Raises ReadFailed."""
        return await last_sequence(self._nats, MESSAGE_STREAM, subjects.message(tenant_id))

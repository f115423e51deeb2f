"""The log of a tenant's ordinary messages: the queue of every session that is away or slow.

A place in it is (sequence, index): the batch's sequence in the stream and the message's index in the batch. Nobody's queue
is copied out of it: a session keeps its place and reads on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from nats.aio.client import Client
from nats.errors import Error as NATSError

from headwater.stream import subjects
from headwater.stream.direct_get import ReadFailed, last_sequence, next_at_leader, read_from
from headwater.stream.envelope import Message, decode_messages
from headwater.stream.topology import MESSAGE_STREAM

Place = tuple[int, int]
"""(sequence of a batch in MESSAGE, index of a message in it)"""


@dataclass(frozen=True, slots=True)
class LoggedBatch:
    sequence: int
    messages: list[Message]


class MessageLog:
    """The ordinary messages of each tenant in the stream MESSAGE, for those who missed them live."""

    def __init__(self, client: Client) -> None:
        self._nats = client

    async def read(self, tenant_id: UUID, sequence: int, batches: int, *, known: int = 0) -> list[LoggedBatch]:
        """Up to `batches` from `sequence` on, ascending. Fewer = there are no more.

        known   a sequence of the tenant's that was seen: if nothing is found although it is not behind, the log does not
                keep it any more
        Raises  ReadFailed, also where the replica that answers is behind
        """
        subject = subjects.message(tenant_id)
        found = await read_from(self._nats, MESSAGE_STREAM, subject, sequence, batches)
        if not found and known >= sequence and await next_at_leader(self._nats, MESSAGE_STREAM, subject, sequence):
            raise ReadFailed("a replica of the log is behind")
        return [LoggedBatch(stored.sequence, decode_messages(stored.data)) for stored in found]

    async def find(self, tenant_id: UUID, sequence: int) -> LoggedBatch | None:
        """A batch that was in the log. None = it is not kept any more. Raises ReadFailed."""
        found = await self.read(tenant_id, sequence, 1, known=sequence)
        return found[0] if found and found[0].sequence == sequence else None

    async def last(self) -> int:
        """The sequence of the newest batch of all tenants, as the stream's leader has it. Raises ReadFailed."""
        try:
            return int((await self._nats.jetstream().stream_info(MESSAGE_STREAM)).state.last_seq)
        except (NATSError, TimeoutError) as error:
            raise ReadFailed("the log did not answer") from error

    async def end(self, tenant_id: UUID) -> int:
        """The sequence of the newest batch; 0 = there is none. Raises ReadFailed."""
        return await last_sequence(self._nats, MESSAGE_STREAM, subjects.message(tenant_id))

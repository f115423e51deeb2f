"""Dead letters back into the stream: read again, stored, and only then deleted.

A replay may be interrupted between storing and deleting, and repeated. Nothing is stored twice, because
  - the stream knows the message again (`Nats-Msg-Id` made from tenant and letter) for its duplicate window of two minutes;
  - after that the store does: the records carry `Flag.RESENT`, and are the same whenever they are made.
What the store does not know yet, two minutes later, it compares when it comes to it, so a backlog does not matter either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from headwater.device.principal import Principal
from headwater.errors import DomainError
from headwater.ingest.errors import Rejected
from headwater.stream import subjects
from headwater.stream.dead_letters import DeadLetterMissing, DeadLetters, NotReplayable, StoredLetter
from headwater.stream.envelope import DeadLetter, Record, encode_batch
from headwater.stream.publisher import Publisher

AT_ONCE_MAX = 32
"""Letters under way: enough to share fsyncs, few enough to leave the stream to the devices."""
_LANE = 0
"""Every topology has it, and records of any device may travel in any lane."""

FindPrincipals = Callable[[set[UUID]], Awaitable[dict[UUID, Principal]]]
"""The tenant's devices as they are now; a device that is gone is absent."""
Redecode = Callable[[Principal, DeadLetter], list[Record]]
"""Raises Rejected, NotReplayable."""


class DeviceGone(NotReplayable):
    """The device of the letter does not exist any more."""

    code = "dead_letter.device_gone"


@dataclass(frozen=True, slots=True)
class Replayed:
    """records: how many were stored, 0 where the letter holds nothing to keep. error: why it was refused and kept."""

    sequence: int
    records: int = 0
    error: DomainError | None = None


class Replay:
    def __init__(self, letters: DeadLetters, publisher: Publisher, redecode: Redecode) -> None:
        self._letters = letters
        self._publisher = publisher
        self._redecode = redecode

    async def all(self, tenant_id: UUID, letters: Sequence[StoredLetter], find: FindPrincipals) -> list[Replayed]:
        """In the order given. Raises StreamFull, StreamUnavailable: what was done by then is done."""
        principals = await find({UUID(bytes=stored.letter.device) for stored in letters if stored.letter.device})
        slots = asyncio.Semaphore(AT_ONCE_MAX)

        async def one(stored: StoredLetter) -> Replayed:
            async with slots:
                return await self._one(tenant_id, stored, principals)

        ended = await asyncio.gather(*(one(stored) for stored in letters), return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in ended if isinstance(outcome, Replayed)]

    async def _one(self, tenant_id: UUID, stored: StoredLetter, principals: dict[UUID, Principal]) -> Replayed:
        letter = stored.letter
        try:
            principal = principals.get(UUID(bytes=letter.device)) if letter.device else None
            if principal is None:
                raise DeviceGone("the device of this letter does not exist any more")
            records = self._redecode(principal, letter)
        except (Rejected, NotReplayable) as error:
            return Replayed(stored.sequence, error=error)
        if records:
            # received_at tells letters apart whose stream was made anew and counts from 1 again.
            name = f"dead-{tenant_id.hex}-{stored.sequence}-{letter.received_at}"
            await self._publisher.publish(subjects.up(_LANE), encode_batch(records), message_id=name)
        # Where somebody else replayed or deleted it meanwhile, the records are stored once all the same.
        with suppress(DeadLetterMissing):
            await self._letters.delete(tenant_id, stored.sequence)
        return Replayed(stored.sequence, len(records))

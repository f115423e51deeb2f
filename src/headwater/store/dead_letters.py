"""What a consumer of UPLINK cannot use: kept as a dead letter, so that it never stops a lane.

Owns which refusals of PostgreSQL are final, and the letters that consumers write. A letter is stored before the consumer's
transaction commits, and has an identifier by which the stream knows its repetition: rather twice than not at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import msgspec

from headwater.stream import subjects
from headwater.stream.envelope import DeadLetter, Record, UnknownEnvelope, decode_batch, encode_batch, encode_dead_letter
from headwater.stream.reader import Delivery

PLATFORM = UUID(int=0)
"""Whose dead letters hold what names no tenant, and what no tenant could do anything about."""
RECORD_CONTENT_TYPE = "application/vnd.headwater.records+msgpack"
"""A dead letter's payload is a record batch; of one, where it is for a record."""
LETTER_BYTES_MAX = 900_000
"""Below NATS's default max_payload of 1 MiB."""
DETAIL_LENGTH_MAX = 1_000
PERMANENT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""Classes 22, 23, 54: the same row would be refused again, whenever it comes."""

PublishDead = Callable[[str, bytes, str], Awaitable[object]]
"""(subject, payload, message id), done when stored."""


class Undecodable(Exception):
    """Not a record batch, or one of a version that this program does not know."""


def decode(delivery: Delivery) -> list[Record]:
    """Raises Undecodable."""
    try:
        return decode_batch(delivery.data)
    except (msgspec.DecodeError, UnknownEnvelope) as error:
        raise Undecodable(f"{type(error).__name__}: {error}") from error


class Burial:
    """Writes the dead letters of one consumer's lane.

    subject  what the lane reads
    """

    def __init__(self, publish: PublishDead, consumer: str, lane: int, subject: str) -> None:
        self._publish = publish
        self._consumer = consumer
        self._lane = lane
        self._subject = subject

    async def batch(self, delivery: Delivery, reason: str) -> None:
        """To the platform's: nobody knows whose it was."""
        letter = self._letter(b"", "record.undecodable", reason, 0, delivery.data)
        await self._store(PLATFORM, letter, f"{delivery.sequence}")

    async def piece(self, payload: bytes, place: tuple[int, int], reason: str) -> None:
        """One record that cannot be read, of a batch of which others can: to the platform's, too.

        place: sequence of its batch in the stream, index in the batch.
        """
        letter = self._letter(b"", "record.undecodable", reason, 0, payload)
        await self._store(PLATFORM, letter, f"{place[0]}-{place[1]}")

    async def record(self, tenant: UUID, record: Record, place: tuple[int, int], *, code: str, detail: str) -> None:
        """place: sequence of its batch in the stream, index in the batch."""
        letter = self._letter(record.device, code, detail, record.received_at, encode_batch([record]))
        await self._store(tenant, letter, f"{place[0]}-{place[1]}")

    def _letter(self, device: bytes, code: str, detail: str, received_at: int, payload: bytes) -> DeadLetter:
        return DeadLetter(
            device=device,
            source=self._consumer,
            topic=self._subject,
            code=code,
            detail=detail[:DETAIL_LENGTH_MAX],
            received_at=received_at,
            payload=payload[:LETTER_BYTES_MAX],
            content_type=RECORD_CONTENT_TYPE,
        )

    async def _store(self, tenant: UUID, letter: DeadLetter, place: str) -> None:
        await self._publish(subjects.dead(tenant), encode_dead_letter(letter), f"{self._consumer}-{self._lane}-{place}")

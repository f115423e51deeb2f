"""A tenant's dead letters: what could not become records, kept in the stream with the reason and the raw bytes.

A letter's name is its sequence in the stream. Reading is bounded: a call looks at SCANNED_MAX letters at most and gives the
place where the next goes on, so a page may be shorter than asked, even empty, and still not be the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError as StreamMissing

from headwater.errors import DomainError, NotFound
from headwater.stream import subjects
from headwater.stream.direct_get import BATCH_MAX, StoredMessage, read_from
from headwater.stream.envelope import DeadLetter, decode_dead_letter
from headwater.stream.topology import DEAD_STREAM

SCANNED_MAX = 5_000
"""letters that one call looks at: about half a second"""
_WIDTH_MAX = 1 << 22
"""Sequences that one step backwards may span. A tenant's letters lie scattered among everybody's."""


class DeadLetterMissing(NotFound):
    """It never was this tenant's, or it has expired, was deleted or replayed."""

    code = "dead_letter.not_found"


class NotReplayable(DomainError):
    """Nothing is wrong with the payload, but the letter has no way any more. Who replays is told; no device ever is."""


class DeadLetterFilter(msgspec.Struct, frozen=True):
    """A letter must fulfil all that is given. since, until: of its receipt, UTC microseconds, [since, until)."""

    device: UUID | None = None
    code: str = ""
    since_us: int | None = None
    until_us: int | None = None

    def accepts(self, letter: DeadLetter) -> bool:
        return (
            (self.device is None or letter.device == self.device.bytes)
            and (not self.code or letter.code == self.code)
            and (self.since_us is None or letter.received_at >= self.since_us)
            and (self.until_us is None or letter.received_at < self.until_us)
        )


@dataclass(frozen=True, slots=True)
class StoredLetter:
    sequence: int
    letter: DeadLetter


@dataclass(frozen=True, slots=True)
class LetterPage:
    """next: the sequence to go on from (ascending: at or above; descending: below); None = this was the last page."""

    letters: list[StoredLetter]
    next: int | None


Accepts = Callable[[DeadLetter], bool]


class DeadLetters:
    """Knows tenants by id and asks nobody for permission: that is the caller's."""

    def __init__(self, nats: Client, jetstream: JetStreamContext) -> None:
        self._nats = nats
        self._jetstream = jetstream

    async def get(self, tenant_id: UUID, sequence: int) -> StoredLetter:
        """Raises DeadLetterMissing."""
        found = await self._read(tenant_id, sequence, 1)
        if not found or found[0].sequence != sequence:
            raise _missing(sequence)
        return found[0]

    async def oldest(self, tenant_id: UUID, accepts: Accepts, *, start: int, limit: int) -> LetterPage:
        """From sequence `start` upwards."""
        letters: list[StoredLetter] = []
        scanned = 0
        while scanned < SCANNED_MAX:
            piece = await self._read(tenant_id, start, BATCH_MAX)
            for stored in piece:
                if len(letters) == limit:
                    return LetterPage(letters, stored.sequence)
                if accepts(stored.letter):
                    letters.append(stored)
            if len(piece) < BATCH_MAX:
                return LetterPage(letters, None)
            scanned += len(piece)
            start = piece[-1].sequence + 1
        return LetterPage(letters, start)

    async def newest(self, tenant_id: UUID, accepts: Accepts, *, below: int | None, limit: int) -> LetterPage:
        """Downwards from sequence `below`; None = from the newest.

        JetStream reads upwards only, so this steps back window by window; a window grows where letters are rare.
        """
        first, last, count = await self._extent(tenant_id)
        top = last + 1 if below is None else min(below, last + 1)
        letters: list[StoredLetter] = []
        scanned, width = 0, BATCH_MAX
        while count and top > first and scanned < SCANNED_MAX:
            bottom = max(first, top - width)
            window = await self._window(tenant_id, bottom, top, at_most=max(BATCH_MAX, SCANNED_MAX - scanned))
            if window is None:
                width = max(BATCH_MAX, width // 16)
                continue
            scanned += max(1, len(window))
            for stored in reversed(window):
                if len(letters) == limit:
                    return LetterPage(letters, letters[-1].sequence)
                if accepts(stored.letter):
                    letters.append(stored)
            top = bottom
            if len(window) < BATCH_MAX // 4:
                width = min(width * 4, _WIDTH_MAX)
        return LetterPage(letters, top if count and top > first else None)

    async def delete(self, tenant_id: UUID, sequence: int) -> None:
        """Raises DeadLetterMissing."""
        await self.get(tenant_id, sequence)
        try:
            await self._jetstream.delete_msg(DEAD_STREAM, sequence)
        except StreamMissing as error:
            raise _missing(sequence) from error

    async def _window(self, tenant_id: UUID, bottom: int, top: int, *, at_most: int) -> list[StoredLetter] | None:
        """All letters in [bottom, top); None where there are more than `at_most`, so that the window must be smaller."""
        found: list[StoredLetter] = []
        while bottom < top:
            piece = await self._read(tenant_id, bottom, min(BATCH_MAX, top - bottom))
            found += [stored for stored in piece if stored.sequence < top]
            if len(piece) < min(BATCH_MAX, top - bottom) or piece[-1].sequence >= top:
                break
            if len(found) > at_most and top - bottom > BATCH_MAX:
                return None
            bottom = piece[-1].sequence + 1
        return found

    async def _read(self, tenant_id: UUID, sequence: int, batch: int) -> list[StoredLetter]:
        found: Sequence[StoredMessage] = await read_from(self._nats, DEAD_STREAM, subjects.dead(tenant_id), sequence, batch)
        return [StoredLetter(message.sequence, decode_dead_letter(message.data)) for message in found]

    async def _extent(self, tenant_id: UUID) -> tuple[int, int, int]:
        """The stream's first and last sequence, and how many of its messages are this tenant's."""
        subject = subjects.dead(tenant_id)
        state = (await self._jetstream.stream_info(DEAD_STREAM, subjects_filter=subject)).state
        return state.first_seq, state.last_seq, (state.subjects or {}).get(subject, 0)


def _missing(sequence: int) -> DeadLetterMissing:
    return DeadLetterMissing("there is no such dead letter", noun="dead_letter", id=sequence)

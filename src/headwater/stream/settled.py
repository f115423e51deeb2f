"""Which batches of the log a shared subscription is done with, in the stream SESSION, for as long as NATS may hand them out.

A NATS that was killed has forgotten the last acknowledgements. It hands those batches out again when their time is over:
half a minute, and thousands of batches, later; or days later, where no member was there meanwhile. So they are marked, one
bit a batch by its sequence, SPAN of them in a record. A bound on their number would be passed by a busy group in seconds;
what lies below the consumer's own floor needs no mark.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from headwater.stream.direct_get import StoredMessage
from headwater.stream.keyed import KeyedStream, Overtaken
from headwater.stream.topology import DAY_S, MESSAGE_DAYS

SPAN = 16_384
"""Marks of a record, of up to 2 KiB: short enough to write several times a second."""
TTL_S = round(MESSAGE_DAYS * DAY_S)
"""No batch is handed out for longer."""
KNOWN_MAX = 4
"""Records that are kept here: the one that is being filled, and some that stragglers are in."""


class SettledBatches:
    """The marks of one share, as this process knows them.

    subject  of the share
    """

    def __init__(self, stream: KeyedStream, subject: str) -> None:
        self._stream = stream
        self._subject = subject
        self._marks: dict[str, int] = {}
        """subject -> bits"""
        self._revisions: dict[str, int] = {}

    def subjects(self, sequence: int | None = None) -> list[str]:
        """What `learn` needs the messages of: all that is known here, and this batch's."""
        if sequence is not None:
            subject = self._subject_of(sequence)
            self._marks[subject] = self._marks.pop(subject, 0)
        while len(self._marks) > KNOWN_MAX:
            oldest = next(iter(self._marks))
            del self._marks[oldest]
            self._revisions.pop(oldest, None)
        return list(self._marks)

    def learn(self, found: Collection[StoredMessage]) -> None:
        stored = {message.subject: message for message in found}
        for subject in self._marks:
            message = stored.get(subject)
            self._marks[subject] = _decode(message.data) if message is not None else 0
            self._revisions[subject] = message.sequence if message is not None else 0

    def knows(self, sequence: int) -> bool:
        """It was asked for."""
        return self._subject_of(sequence) in self._revisions

    def __contains__(self, sequence: int) -> bool:
        return bool(self._marks.get(self._subject_of(sequence), 0) >> (sequence % SPAN) & 1)

    async def mark(self, sequences: Iterable[int]) -> bool:
        """Returns when they are stored. True = the first of a record. Raises ReadFailed, StreamFull, StreamUnavailable."""
        bits: dict[str, int] = {}
        for sequence in sequences:
            subject = self._subject_of(sequence)
            bits[subject] = bits.get(subject, 0) | 1 << (sequence % SPAN)
        return any(await asyncio.gather(*(self._mark(subject, more) for subject, more in bits.items())))

    async def _mark(self, subject: str, more: int) -> bool:
        while True:
            revision = self._revisions.pop(subject, None)  # until it is known what is stored
            if revision is None:
                stored = await self._stream.find(subject)
                revision = stored.sequence if stored is not None else 0
                self._marks[subject] = _decode(stored.data) if stored is not None else 0
            marks = self._marks.get(subject, 0)
            try:
                self._revisions[subject] = await self._stream.put(
                    subject, _encode(marks | more), expected=revision, ttl_s=TTL_S
                )
            except Overtaken:
                continue
            self._marks[subject] = marks | more
            return not marks

    async def forget(self, below: int) -> None:
        """Records of nothing but batches below this sequence. Raises what `mark` does."""
        for stored in await self._stream.select((f"{self._subject}.*",)):
            if (_span_of(stored.subject) + 1) * SPAN <= below:
                try:
                    await self._stream.remove(stored.subject, expected=stored.sequence)
                except Overtaken:  # it comes when the next one is forgotten
                    continue

    def _subject_of(self, sequence: int) -> str:
        return f"{self._subject}.{sequence // SPAN}"


def _span_of(subject: str) -> int:
    return int(subject.rpartition(".")[2])


def _encode(marks: int) -> bytes:
    return marks.to_bytes((marks.bit_length() + 7) // 8, "little")


def _decode(data: bytes) -> int:
    return int.from_bytes(data, "little")

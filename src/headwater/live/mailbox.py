"""One watcher's buffer: bounded, drops the oldest, and says so in its place."""

from __future__ import annotations

import asyncio
from collections import deque

from headwater.errors import DomainError
from headwater.live.event import encode_missed

EVENTS_MAX = 1_000
"""At 1,000 events/s one second of a network that stands still."""
BYTES_MAX = 4 << 20
"""A device's message may have 256 KiB; 1,000 watchers must fit into memory all the same."""

_Missed = tuple[int | None]
"""A gap, as an entry among the events: how many, or None where nobody knows."""


class Mailbox:
    """Events wait here until the watcher's connection takes them. Putting never waits."""

    def __init__(self, events_max: int = EVENTS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._entries: deque[bytes | _Missed] = deque()
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._dropped: int | None = 0
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._closed: DomainError | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, event: bytes) -> None:
        self._entries.append(event)
        self._bytes += len(event)
        if len(self._entries) > self._events_max or self._bytes > self._bytes_max:
            self._drop_oldest()
        self._drained.clear()
        self._filled.set()

    def missed(self, count: int | None) -> None:
        """Something is missing at this place. Gaps that touch become one."""
        last = self._entries[-1] if self._entries else None
        if isinstance(last, tuple):
            self._entries[-1] = (_sum(last[0], count),)
        else:
            self._entries.append((count,))
        self._drained.clear()
        self._filled.set()

    def absorb(self, other: Mailbox) -> None:
        """What waited in another mailbox comes after what waits here."""
        if other._dropped != 0:
            self.missed(other._dropped)
        for entry in other._entries:
            if isinstance(entry, bytes):
                self.put(entry)
            else:
                self.missed(entry[0])

    def close(self, reason: DomainError) -> None:
        """What waits can still be taken; then `take` raises the reason."""
        self._closed = reason
        self._filled.set()

    async def take(self) -> list[bytes]:
        """Everything that waits, in order, at least one; raises the reason of `close` once nothing is left."""
        while not self._entries and self._dropped == 0:
            if self._closed is not None:
                raise self._closed
            self._filled.clear()
            await self._filled.wait()
        taken = []
        if self._dropped != 0:
            taken.append(encode_missed(self._dropped))
            self._dropped = 0
        taken += [entry if isinstance(entry, bytes) else encode_missed(entry[0]) for entry in self._entries]
        self._entries.clear()
        self._bytes = 0
        self._drained.set()
        return taken

    async def drained(self) -> None:
        """Returns when everything was taken; for a replay, which must not overflow what it fills."""
        await self._drained.wait()

    def _drop_oldest(self) -> None:
        while self._entries and (len(self._entries) > self._events_max or self._bytes > self._bytes_max):
            oldest = self._entries.popleft()
            if isinstance(oldest, bytes):
                self._bytes -= len(oldest)
                self._dropped = _sum(self._dropped, 1)
            else:
                self._dropped = _sum(self._dropped, oldest[0])


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other

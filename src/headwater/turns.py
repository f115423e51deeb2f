"""One after another, for each key: a client's connections, the writes of a topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Turn:
    """users  who has it and who waits for it: between the two the lock is free for a moment, and must not be forgotten"""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Turns(Generic[K]):
    """Keys that nobody uses are forgotten."""

    def __init__(self) -> None:
        self._turns: dict[K, _Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    @asynccontextmanager
    async def take(self, key: K) -> AsyncIterator[None]:
        """In the order of the calls."""
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

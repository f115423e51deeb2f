"""Passwords: Argon2id, off the event loop, a bounded number at once, and as slow for a stranger as for a friend."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from headwater.errors import Unavailable

# OWASP's second choice (19 MiB, t=2, p=1): 50 ms here; the library's default (64 MiB) takes 165 to 300 ms of a core.
MEMORY_KIB = 19_456
TIME_COST = 2
AT_ONCE_MAX = 2
"""Each takes a core and 19 MiB while it runs."""
WAITING_MAX = 64
"""Some three seconds' worth; who comes later is told to come again, so that a flood of logins cannot pile up."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """fresh_hash: to be stored, where the old one was made with other parameters"""

    right: bool
    fresh_hash: str | None = None


class Passwords:
    def __init__(self, *, time_cost: int = TIME_COST, memory_kib: int = MEMORY_KIB) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)
        self._waiting = 0
        self._stranger = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        """Raises Unavailable where too many are waiting."""
        async with _Turn(self):
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> Verdict:
        """stored: None = no such person, or one without a password; takes as long. Raises Unavailable."""
        async with _Turn(self):
            verdict = await asyncio.to_thread(self._verify, stored or self._stranger, password)
        return verdict if stored else Verdict(False)

    def _verify(self, stored: str, password: str) -> Verdict:
        try:
            self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return Verdict(False)
        if self._hasher.check_needs_rehash(stored):
            return Verdict(True, self._hasher.hash(password))
        return Verdict(True)


class _Turn:
    """One of the AT_ONCE_MAX places."""

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords

    async def __aenter__(self) -> None:
        if self._passwords._waiting >= WAITING_MAX:
            raise Unavailable("too many logins at once")
        self._passwords._waiting += 1
        try:
            await self._passwords._slots.acquire()
        finally:
            self._passwords._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._passwords._slots.release()

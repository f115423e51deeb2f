"""A clock that stands still until a test moves it."""

from __future__ import annotations

import time


class FakeClock:
    """Starts at the machine's time, because rows that PostgreSQL dates with now() are compared with it."""

    def __init__(self) -> None:
        self._now_us = time.time_ns() // 1000

    def now_us(self) -> int:
        return self._now_us

    def advance(self, seconds: float) -> None:
        self._now_us += int(seconds * 1_000_000)

"""Identifiers: UUIDv7, made here because PostgreSQL before 18 has no `uuidv7()`."""

from __future__ import annotations

import os
import time
from uuid import UUID


def uuid7() -> UUID:
    """Time-ordered id: 48 bits of milliseconds, 74 random bits. Source: RFC 9562, 5.7."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds << 80) | (0x7 << 76) | ((random >> 68) << 64) | (0b10 << 62) | (random & ((1 << 62) - 1))
    return UUID(int=value)

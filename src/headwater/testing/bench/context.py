"""What every scenario is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from headwater.testing.bench.options import Options


class BenchFailed(Exception):
    """It cannot be measured; the text says why."""


async def until(condition: Callable[[], Awaitable[bool]], within_s: float, *, every_s: float = 0.1) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            if await condition():
                return
            await asyncio.sleep(every_s)


@dataclass(frozen=True, slots=True)
class Bench:
    """directory  where homes are made
    tell       a part of the report
    say        a line for a person who waits
    versions   of what took part, as it becomes known
    """

    options: Options
    directory: Path
    tell: Callable[[str], None]
    say: Callable[[str], None]
    versions: dict[str, str] = field(default_factory=dict)

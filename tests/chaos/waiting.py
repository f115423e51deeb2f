"""Waiting for what happens in other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], within_s: float, explain: Callable[[], object]) -> None:
    """Fails with `explain()` after the time."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  # other processes: there is no event to wait for
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise AssertionError(f"not within {within_s} s: {explain()}") from error

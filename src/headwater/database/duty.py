"""Duties: periodic work that one process of all does at a time (roll-ups, retention, trimming).

The session that holds a duty's advisory lock does its work. When the holder dies, so does its session, and another process
takes the duty over at its next look.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog

from headwater.database.away import AWAY
from headwater.database.lane_session import PING_S, try_lock

log = structlog.get_logger(__name__)

LOOK_S = 3.0
"""How soon the duty of a dead process is taken over."""
RETRY_S_MAX = 30.0

Connect = Callable[[str], Awaitable[Any]]
"""Opens a session of headwater_writer under an application name."""


class Duty(Protocol):
    """name     unique
    every_s  from the end of one turn to the start of the next
    """

    name: str
    every_s: float

    async def perform(self, session: Any) -> bool:
        """One turn, on the session that holds the duty. True = there is more to do at once. May raise anything."""


async def serve(duty: Duty, connect: Connect, stop: asyncio.Event) -> None:
    """Hold the duty whenever nobody else does, until `stop`; a turn under way is finished."""
    retry_s = 1.0
    while not stop.is_set():
        try:
            session = await connect(f"headwater {duty.name}")
            try:
                if await try_lock(session, f"duty.{duty.name}", 0):
                    log.info("duty_taken", duty=duty.name)
                    while not stop.is_set():
                        more = await duty.perform(session)
                        retry_s = 1.0
                        if not more:
                            await _rest(session, duty.every_s, stop)
            finally:
                session.terminate()
            await _wait(stop, LOOK_S * random.uniform(0.8, 1.2))  # noqa: S311  # spreads processes, hides nothing
        except Exception as error:  # the top of a task: whatever it was, the duty goes on
            log.warning(
                "duty_fails", duty=duty.name, reason=f"{type(error).__name__}: {error}", exc_info=not isinstance(error, AWAY)
            )
            await _wait(stop, retry_s)
            retry_s = min(RETRY_S_MAX, retry_s * 2)


async def _rest(session: Any, seconds: float, stop: asyncio.Event) -> None:
    """Speaks up now and then, because the server ends silent sessions."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not stop.is_set() and (left := until - loop.time()) > 0:
        await _wait(stop, min(left, PING_S))
        await session.execute("SELECT 1")


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return

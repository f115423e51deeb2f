"""Work that may take hours, done in turns: a story that is told on where it stopped.

Written as an asynchronous generator that yields after every short transaction. What must outlive the process stands in the
database; where the story stopped does not, and a new session begins it anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

TURN_S = 2.0
"""A worker that is told to stop waits about so long, and for the statement under way."""
PAUSE_S_MAX = 1.0
"""It rests as long as it worked, so that it takes half of one connection's time from the store; but a stop waits for it."""

Story = AsyncGenerator[None, None]


class LongWork:
    """tell: begins the story, on the session that holds the duty"""

    def __init__(self, tell: Callable[[Any], Story]) -> None:
        self._tell = tell
        self._session: Any = None
        self._story: Story | None = None

    async def turn(self, session: Any) -> bool:
        """True = the story goes on. Raises what the story raises; then it begins anew."""
        clock = asyncio.get_running_loop().time
        story = await self._of(session)
        until = clock() + TURN_S
        while True:
            began = clock()
            try:
                await anext(story)
            except StopAsyncIteration:
                self._story = None
                return False
            except BaseException:
                self._story = None
                raise
            if clock() >= until:
                return True
            await asyncio.sleep(min(PAUSE_S_MAX, clock() - began))

    async def _of(self, session: Any) -> Story:
        if self._story is not None and self._session is not session:
            await self._story.aclose()
            self._story = None
        if self._story is None:
            self._session, self._story = session, self._tell(session)
        return self._story

"""Trimming UPLINK: what every consumer has done, and nobody can send again, leaves the stream.

Owns the one promise that lets the store commit without waiting for the disk (store/writer.py): nothing is purged before
PostgreSQL's write-ahead log holds, on disk, that it was done. The trimmer's own commit, which comes after the positions that
it read, waits for the disk, and with it for everything before.

What was stored a moment ago stays for `KEEP_S`, done or not: a nats-server that is killed finds the identifiers by which it
knows a repeated publish again in the messages that it still has.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from headwater.stream import subjects
from headwater.stream.position import stream_offset
from headwater.stream.publisher import ATTEMPT_S, GIVE_UP_S
from headwater.stream.topology import CONSUMERS, UPLINK_STREAM, Topology

log = structlog.get_logger(__name__)

CONSUMER = "trim"
KEEP_S = 2 * (GIVE_UP_S + ATTEMPT_S)
"""A publisher repeats for half of it."""
CROWDED = 0.5
"""Share of the stream's bytes from which on `KEEP_S` no longer counts: refusing devices would be worse than a duplicate
after a kill in the same moment."""


class TrimDuty:
    """A `database.duty.Duty`."""

    name = "trim"

    def __init__(
        self, jetstream: JetStreamContext, topology: Topology, *, every_s: float = 5.0, keep_s: float = KEEP_S
    ) -> None:
        self.every_s = every_s
        self._jetstream = jetstream
        self._topology = topology
        self._keep_s = keep_s
        self._seen: deque[tuple[float, int]] = deque()
        """(when, last sequence of the stream then), ascending"""

    async def perform(self, session: Any) -> bool:
        offset = await stream_offset(session, self._jetstream)
        info = await self._jetstream.stream_info(UPLINK_STREAM)
        state, bytes_max = info.state, info.config.max_bytes or 0
        crowded = bytes_max > 0 and state.bytes > CROWDED * bytes_max
        # In this order: what is stored from here on has a higher sequence than `last_seq`.
        aged = state.last_seq if crowded else self._aged(state.last_seq)
        if aged < state.first_seq:
            return False
        done = min(await self._lowest_pending(session, offset, state.last_seq + 1) - 1, aged)
        if done < state.first_seq:
            return False
        await self._remember(session, done + offset)
        await self._jetstream.purge_stream(UPLINK_STREAM, seq=done + 1)
        log.debug("stream_trimmed", up_to=done, messages=done - state.first_seq + 1)
        return False

    def _aged(self, last: int) -> int:
        """The last sequence of the stream `keep_s` ago, as far as this process knows; 0 = not known."""
        now = asyncio.get_running_loop().time()
        if self._seen and last < self._seen[-1][1]:
            self._seen.clear()  # made anew, or set back
        self._seen.append((now, last))
        aged = 0
        while self._seen and self._seen[0][0] <= now - self._keep_s:
            aged = self._seen.popleft()[1]
        if aged:
            self._seen.appendleft((now - self._keep_s, aged))
        return aged

    async def _lowest_pending(self, session: Any, offset: int, none: int) -> int:
        """The lowest sequence that some consumer has not done yet."""
        rows = await session.fetch("SELECT consumer, lane, sequence FROM ingest_position")
        positions = {(row["consumer"], row["lane"]): max(0, row["sequence"] - offset) for row in rows}
        pending = none
        for consumer in CONSUMERS:
            lanes = self._topology.lanes if consumer.reads == subjects.UP else self._topology.partitions
            for lane in range(lanes):
                after = positions.get((consumer.name, lane), 0)
                found = await self._next(f"{consumer.reads}.{lane}", after + 1) if after + 1 < pending else None
                pending = min(pending, found or pending)
        return pending

    async def _next(self, subject: str, sequence: int) -> int | None:
        try:
            # Not a direct get: a replica that lags behind would say that there is nothing.
            message = await self._jetstream.get_msg(UPLINK_STREAM, seq=sequence, subject=subject, next=True)
        except NotFoundError:
            return None
        return message.seq

    async def _remember(self, session: Any, sequence: int) -> None:
        """Commits to disk, this and everything that was committed before."""
        async with session.transaction():
            await session.execute("SET LOCAL synchronous_commit = on")
            await session.execute(
                """
                INSERT INTO ingest_position (consumer, lane, sequence) VALUES ($1, 0, $2)
                ON CONFLICT (consumer, lane) DO UPDATE SET sequence = excluded.sequence, updated_at = now()
                """,
                CONSUMER, sequence,
            )  # fmt: skip

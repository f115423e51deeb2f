"""Consumers of UPLINK: who reads which lane, and the loop that reads it.

Owns the sharing of lanes among workers and the life of a lane's session. What is done with the records is the work's, in
the transaction that moves the position.

Invariants: one session reads a lane at a time, and it is the one that writes. A session ends at the first error of any
kind and begins again from the durable position, so nothing a session believed outlives it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import nats.errors
import structlog
from nats.aio.client import Client

from headwater.database.away import AWAY
from headwater.database.lane_session import PING_S, lock_key, try_lock
from headwater.stream.position import PositionLost, read_position, stream_offset
from headwater.stream.reader import Delivery, OrderedReader
from headwater.stream.topology import Consumer

log = structlog.get_logger(__name__)

SHARE_INTERVAL_S = 1.0
"""How soon a lane of a dead worker is taken over, and a new worker gets its share."""
RETRY_S_MAX = 5.0
WAIT_S = 0.5
ROUND_BYTES_MAX = 3 << 20
"""Of one transaction: some 20,000 ordinary records."""

_EXPECTED = (*AWAY, nats.errors.Error, PositionLost)
"""What engines do when they are away; anything else deserves its traceback."""

Connect = Callable[[str], Awaitable[Any]]
"""Opens a session of headwater_writer under an application name."""


class LaneWork(Protocol):
    """What a consumer does for one lane, for as long as one session of it lives."""

    async def apply(self, deliveries: Sequence[Delivery], *, position: int, offset: int) -> int:
        """Do the first n of them and move the position to the n-th's sequence plus `offset`, in one transaction.

        Returns n; 0 where it must wait and asks to be called again. May raise anything: then nothing was done.
        """


MakeWork = Callable[[Any, int], LaneWork]
"""(session, lane) -> work"""


@dataclass(slots=True)
class LaneState:
    """For the metrics. position is a sequence of the stream."""

    position: int = 0
    errors: int = 0
    restarts: int = 0


@dataclass(slots=True)
class _Held:
    task: asyncio.Task[None]
    leave: asyncio.Event = field(default_factory=asyncio.Event)


class LaneConsumer:
    """One consumer's share of the lanes in this process.

    linger_s  how long a round gathers after its first message: fewer, larger transactions for a little more delay
    """

    def __init__(
        self, consumer: Consumer, lanes: int, *, client: Client, connect: Connect, make_work: MakeWork, linger_s: float
    ) -> None:
        self.consumer = consumer
        self.states: dict[int, LaneState] = {}
        self._lanes = lanes
        self._client = client
        self._connect = connect
        self._make_work = make_work
        self._linger_s = linger_s
        self._held: dict[int, _Held] = {}

    @property
    def held(self) -> frozenset[int]:
        return frozenset(self._held)

    async def run(self, stop: asyncio.Event) -> None:
        """Share the lanes until `stop`; then let every lane finish what it is writing."""
        retry_s = 0.1
        while not stop.is_set():
            try:
                session = await self._connect(f"headwater {self.consumer.name} member")
                try:
                    await session.fetchval("SELECT pg_advisory_lock_shared($1::int, 0)", self._member_key)
                    retry_s = 0.1
                    while not stop.is_set():
                        await self._share(session)
                        await _wait(stop, SHARE_INTERVAL_S * random.uniform(0.8, 1.2))  # noqa: S311  # spreads workers, hides nothing
                finally:
                    session.terminate()
            except Exception as error:  # the top of a task: whatever it was, the sharing goes on
                log.warning(
                    "consumer_waits", consumer=self.consumer.name, reason=_reason(error),
                    exc_info=not isinstance(error, _EXPECTED),
                )  # fmt: skip
                await _wait(stop, retry_s)
                retry_s = min(RETRY_S_MAX, retry_s * 2)
        await self._leave_all()

    @property
    def _member_key(self) -> int:
        return lock_key(f"{self.consumer.name}.members")

    async def _share(self, session: Any) -> None:
        for lane in [lane for lane, held in self._held.items() if held.task.done()]:
            self._held.pop(lane).task.result()
        rows = await session.fetch(
            """
            SELECT classid::bigint AS key, objid::int AS lane, count(*) AS holders FROM pg_locks
            WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid IN ($1::bigint::oid, $2::bigint::oid)
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            GROUP BY 1, 2
            """,
            self._member_key, lock_key(self.consumer.name),
        )  # fmt: skip
        members = max(1, sum(row["holders"] for row in rows if row["key"] == self._member_key))
        taken = {row["lane"] for row in rows if row["key"] != self._member_key} | self._held.keys()
        share = -(-self._lanes // members)
        staying = [lane for lane, held in self._held.items() if not held.leave.is_set()]
        for lane in staying[share:]:
            self._held[lane].leave.set()
        free = [lane for lane in range(self._lanes) if lane not in taken]
        random.shuffle(free)
        for lane in free[: max(0, share - len(self._held))]:
            leave = asyncio.Event()
            self._held[lane] = _Held(asyncio.create_task(self._hold(lane, leave)), leave)

    async def _leave_all(self) -> None:
        for held in self._held.values():
            held.leave.set()
        await asyncio.gather(*(held.task for held in self._held.values()))
        self._held.clear()

    async def _hold(self, lane: int, leave: asyncio.Event) -> None:
        """One lane, session after session, until told to leave or until another worker holds it."""
        state = self.states.setdefault(lane, LaneState())
        retry_s = 0.1
        while not leave.is_set():
            before = state.position
            try:
                if not await self._session(lane, leave, state):
                    return
            except Exception as error:  # the top of the lane's task: whatever it was, the lane goes on from what is durable
                state.errors += 1
                log.warning(
                    "lane_restarts", consumer=self.consumer.name, lane=lane, reason=_reason(error),
                    exc_info=not isinstance(error, _EXPECTED),
                )  # fmt: skip
                retry_s = 0.1 if state.position > before else min(RETRY_S_MAX, retry_s * 2)
                await _wait(leave, retry_s)

    async def _session(self, lane: int, leave: asyncio.Event, state: LaneState) -> bool:
        """False where another worker holds the lane."""
        async with AsyncExitStack() as stack:
            session = await self._connect(f"headwater {self.consumer.name} {lane}")
            stack.callback(session.terminate)
            if not await try_lock(session, self.consumer.name, lane):
                return False
            jetstream = self._client.jetstream()
            offset = await stream_offset(session, jetstream)
            position = await read_position(session, self.consumer.name, lane)
            state.position = max(0, position - offset)
            reader = await stack.enter_async_context(
                OrderedReader(self._client, f"{self.consumer.reads}.{lane}", after=state.position)
            )
            work = self._make_work(session, lane)
            log.info("lane_taken", consumer=self.consumer.name, lane=lane, position=position)
            spoke_at, restarts = asyncio.get_running_loop().time(), 0
            waiting: list[Delivery] = []
            while not leave.is_set():
                waiting = waiting or await self._gather(reader, leave)
                if reader.restarts != restarts:
                    # NATS was away: is it still the same stream?
                    restarts = state.restarts = reader.restarts
                    if await stream_offset(session, jetstream) != offset:
                        raise PositionLost("another stream")
                now = asyncio.get_running_loop().time()
                if waiting:
                    done = await work.apply(waiting, position=position, offset=offset)
                    if done:
                        state.position = waiting[done - 1].sequence
                        position = state.position + offset
                        del waiting[:done]
                    spoke_at = now
                elif now - spoke_at > PING_S:
                    await session.execute("SELECT 1")
                    spoke_at = now
                elif session.is_closed():
                    raise ConnectionError("the database ended the session")
            log.info("lane_left", consumer=self.consumer.name, lane=lane, position=position)
            return True

    async def _gather(self, reader: OrderedReader, leave: asyncio.Event) -> list[Delivery]:
        deliveries = await reader.take(bytes_max=ROUND_BYTES_MAX, wait_s=WAIT_S)
        size = sum(len(delivery.data) for delivery in deliveries)
        if deliveries and size < ROUND_BYTES_MAX and self._linger_s > 0:
            await _wait(leave, self._linger_s)
            deliveries += await reader.take(bytes_max=ROUND_BYTES_MAX - size, wait_s=0)
        return deliveries


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

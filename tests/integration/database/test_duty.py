"""Duties on a real PostgreSQL: one holder at a time, another one when it dies, and again after an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from tests.support.engines import DatabaseURLs
from tests.support.gateways import eventually

from headwater.database import duty as duties
from headwater.database.duty import serve
from headwater.database.lane_session import open_lane_session


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duties, "LOOK_S", 0.05)


@pytest.fixture
async def owner(database_urls: DatabaseURLs) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_urls.owner)
    yield connection
    await connection.close()


Turn = Callable[[str, Any], Awaitable[bool]]


@dataclass
class Counted:
    """A duty that knows, over all processes, how many do it at once."""

    turn: Turn
    turns: list[str] = field(default_factory=list)
    now: int = 0
    most: int = 0

    def of(self, process: str, name: str = "counting", every_s: float = 0.001) -> Duty:
        return Duty(name, every_s, process, self)


@dataclass
class Duty:
    name: str
    every_s: float
    process: str
    counted: Counted

    async def perform(self, session: Any) -> bool:
        counted = self.counted
        counted.now += 1
        counted.most = max(counted.most, counted.now)
        try:
            counted.turns.append(self.process)
            return await counted.turn(self.process, session)
        finally:
            counted.now -= 1


async def small_work(process: str, session: Any) -> bool:
    await session.fetchval("SELECT pg_sleep(0.002)")
    return False


@dataclass
class Process:
    sessions: list[Any] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    dead: bool = False

    async def terminate(self, owner: Any) -> None:
        pids = [session.get_server_pid() for session in self.sessions if not session.is_closed()]
        await owner.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", pids)


@asynccontextmanager
async def process(urls: DatabaseURLs, duty: Duty) -> AsyncIterator[Process]:
    it = Process()

    async def connect(application_name: str) -> Any:
        if it.dead:
            raise ConnectionError("this process is dead")
        it.sessions.append(await open_lane_session(urls.writer, application_name))
        return it.sessions[-1]

    serving = asyncio.create_task(serve(duty, connect, it.stop))
    try:
        yield it
    finally:
        it.stop.set()
        await serving
    assert all(session.is_closed() for session in it.sessions)


async def test_one_process_of_all_does_it(database_urls: DatabaseURLs) -> None:
    counted = Counted(small_work)
    async with (
        process(database_urls, counted.of("a")) as a,
        process(database_urls, counted.of("b")) as b,
        process(database_urls, counted.of("c")) as c,
    ):
        await eventually(lambda: len(counted.turns) > 20, "many turns")
        await eventually(lambda: min(len(one.sessions) for one in (a, b, c)) >= 1, "all have looked")
        looks = sum(len(one.sessions) for one in (a, b, c))
        await eventually(lambda: sum(len(one.sessions) for one in (a, b, c)) >= looks + 4, "the others look again")
        assert len(set(counted.turns)) == 1
    assert counted.most == 1


async def test_different_duties_are_done_side_by_side(database_urls: DatabaseURLs) -> None:
    met = asyncio.Barrier(2)

    async def meet(process: str, session: Any) -> bool:
        if not here.is_set():
            await met.wait()
            here.set()
        return False

    here, counted = asyncio.Event(), Counted(meet)
    async with (
        process(database_urls, counted.of("a", "one")),
        process(database_urls, counted.of("b", "other")),
        asyncio.timeout(20),
    ):
        await here.wait()


async def test_a_stopped_holder_finishes_its_turn_and_another_takes_over(database_urls: DatabaseURLs) -> None:
    begun, finish, finished = asyncio.Event(), asyncio.Event(), list[str]()

    async def long_work(process: str, session: Any) -> bool:
        if process == "leaves":
            begun.set()
            await finish.wait()
        finished.append(process)
        return False

    counted = Counted(long_work)
    async with process(database_urls, counted.of("leaves")) as leaves:
        await begun.wait()
        async with process(database_urls, counted.of("stays")) as stays:
            leaves.stop.set()
            await eventually(lambda: len(stays.sessions) >= 3, "the other has looked")
            assert counted.turns == ["leaves"]
            finish.set()
            await eventually(lambda: "stays" in finished, "the other takes over")
    assert finished[0] == "leaves"
    assert counted.turns.count("leaves") == 1
    assert counted.most == 1


async def test_the_duty_of_a_dead_process_is_taken_over(database_urls: DatabaseURLs, owner: Any) -> None:
    counted = Counted(small_work)
    async with process(database_urls, counted.of("dies")) as dies:
        await eventually(lambda: counted.turns, "it holds the duty")
        async with process(database_urls, counted.of("stays")):
            dies.dead = True
            await dies.terminate(owner)
            await eventually(lambda: "stays" in counted.turns, "the other takes over")
            first = counted.turns.index("stays")
            assert "dies" not in counted.turns[first:]


async def test_what_a_holder_does_after_its_session_has_ended_is_not_written(
    database_urls: DatabaseURLs, owner: Any
) -> None:
    """It was frozen in its turn. The session is the lock: who lost the one cannot write by the other."""
    await owner.execute("CREATE TABLE done (process text); GRANT INSERT ON done TO headwater_writer")
    frozen, thaw, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def write(process: str, session: Any) -> bool:
        try:
            if process == "frozen":
                frozen.set()
                await thaw.wait()
            await session.execute("INSERT INTO done VALUES ($1)", process)
        finally:
            if process == "frozen":
                ended.set()
        return False

    counted = Counted(write)
    async with process(database_urls, counted.of("frozen")) as it:
        await frozen.wait()
        it.dead = True
        await it.terminate(owner)
        async with process(database_urls, counted.of("other")):
            await eventually(lambda: "other" in counted.turns, "the other takes over")
            thaw.set()
            await ended.wait()
    assert {row["process"] for row in await owner.fetch("SELECT process FROM done")} == {"other"}


@pytest.mark.parametrize("error", [RuntimeError("a bug"), TimeoutError(), asyncpg.PostgresError("away")])
async def test_an_error_is_retried(database_urls: DatabaseURLs, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    pauses: list[float] = []
    waited = duties._wait

    async def quickly(stop: asyncio.Event, seconds: float) -> None:
        pauses.append(seconds)
        await waited(stop, min(seconds, 0.01))

    monkeypatch.setattr(duties, "_wait", quickly)

    async def fails_at_first(process: str, session: Any) -> bool:
        if len(counted.turns) <= 7:
            raise error
        return False

    counted = Counted(fails_at_first)
    async with process(database_urls, counted.of("only", every_s=0.001)) as it:
        await eventually(lambda: len(counted.turns) >= 10, "it goes on")
        assert len(it.sessions) == 8, "a session in which something failed is not used again"
    assert pauses[:7] == [1, 2, 4, 8, 16, 30, 30]


async def test_more_to_do_is_done_at_once(database_urls: DatabaseURLs) -> None:
    """The rest between turns would outlast the test."""

    async def five_times(process: str, session: Any) -> bool:
        return len(counted.turns) % 5 != 0

    counted = Counted(five_times)
    async with process(database_urls, counted.of("only", every_s=3_600.0)):
        await eventually(lambda: len(counted.turns) == 5, "all five")
    assert len(counted.turns) == 5


async def test_a_holder_that_rests_speaks_up_and_finds_that_it_has_lost(
    database_urls: DatabaseURLs, owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties, "PING_S", 0.02)
    counted = Counted(small_work)
    async with process(database_urls, counted.of("only", every_s=3_600.0)) as it:
        await eventually(lambda: len(counted.turns) == 1, "it has done its turn")
        await it.terminate(owner)
        await eventually(lambda: len(counted.turns) == 2, "it holds the duty again")
    assert len(it.sessions) == 2

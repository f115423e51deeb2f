"""Lane consumers on real engines: lanes are shared and taken over, and each message is applied once, whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from nats.aio.client import Client
from tests.integration.stream.conftest import TOPOLOGY
from tests.support.engines import DatabaseURLs
from tests.support.gateways import eventually
from tests.support.killable_nats import KillableNATS

from headwater.database.lane_session import open_lane_session
from headwater.stream import consumer as consuming
from headwater.stream import reader as reading
from headwater.stream import subjects
from headwater.stream.consumer import LaneConsumer
from headwater.stream.position import move_position
from headwater.stream.publisher import Publisher
from headwater.stream.reader import Delivery
from headwater.stream.topology import STORE, UPLINK_STREAM, ensure

ALL = frozenset(range(TOPOLOGY.lanes))

Interfere = Callable[[int, Sequence[Delivery]], Awaitable[None]]
"""Called between what the work has done and its commit."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "SHARE_INTERVAL_S", 0.05)
    monkeypatch.setattr(consuming, "WAIT_S", 0.05)
    monkeypatch.setattr(consuming, "RETRY_S_MAX", 0.2)
    monkeypatch.setattr(reading, "PAUSE_S", 0.05)


async def nothing_happens(lane: int, deliveries: Sequence[Delivery]) -> None:
    return


@dataclass
class Ledger:
    """Writes down what it applies, some at a time. Its table has no key: what is applied twice stands there twice."""

    session: Any
    lane: int
    interfere: Interfere
    at_a_time: int

    async def apply(self, deliveries: Sequence[Delivery], *, position: int, offset: int) -> int:
        taken = deliveries[: self.at_a_time]
        async with self.session.transaction():
            await move_position(self.session, STORE.name, self.lane, expected=position, to=taken[-1].sequence + offset)
            await self.session.executemany(
                "INSERT INTO applied (lane, sequence, body) VALUES ($1, $2, $3)",
                [(self.lane, one.sequence + offset, int(one.data)) for one in taken],
            )
            await self.interfere(self.lane, taken)
        return len(taken)


@dataclass
class Worker:
    """One process's consumer, and what it has opened."""

    lanes: LaneConsumer
    sessions: list[Any]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    dead: bool = False


@dataclass
class World:
    urls: DatabaseURLs
    owner: Any
    client: Client
    publisher: Publisher
    numbers: int = 0

    async def publish(self, count: int) -> None:
        """Numbers, each of them once, on lanes in turn."""
        numbers = range(self.numbers, self.numbers + count)
        self.numbers += count
        await asyncio.gather(*(self.publisher.publish(subjects.up(n % TOPOLOGY.lanes), str(n).encode()) for n in numbers))

    @asynccontextmanager
    async def worker(
        self, interfere: Interfere = nothing_happens, *, at_a_time: int = 5, linger_s: float = 0.0
    ) -> AsyncIterator[Worker]:
        sessions: list[Any] = []

        async def connect(application_name: str) -> Any:
            if worker.dead:
                raise ConnectionError("this worker is dead")
            sessions.append(await open_lane_session(self.urls.writer, application_name, synchronous_commit=False))
            return sessions[-1]

        lanes = LaneConsumer(
            STORE, TOPOLOGY.lanes, client=self.client, connect=connect,
            make_work=lambda session, lane: Ledger(session, lane, interfere, at_a_time), linger_s=linger_s,
        )  # fmt: skip
        worker = Worker(lanes, sessions)
        running = asyncio.create_task(lanes.run(worker.stop))
        try:
            yield worker
        finally:
            worker.stop.set()
            await running
        assert all(session.is_closed() for session in sessions)

    async def terminate(self, worker: Worker) -> None:
        """The server ends every session of the worker, as it does with those of a machine that vanished."""
        pids = [session.get_server_pid() for session in worker.sessions if not session.is_closed()]
        await self.owner.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", pids)

    async def applied(self) -> list[int]:
        return [row["body"] for row in await self.owner.fetch("SELECT body FROM applied ORDER BY id")]

    async def all_applied_once(self) -> None:
        async def enough() -> bool:
            return len(set(await self.applied())) == self.numbers

        await eventually(enough, "everything is applied", 30)
        applied = await self.applied()
        assert sorted(applied) == list(range(self.numbers))
        for lane in ALL:
            own = [number for number in applied if number % TOPOLOGY.lanes == lane]
            assert own == sorted(own), "a lane's order is the stream's"

    async def positions(self) -> dict[int, int]:
        rows = await self.owner.fetch("SELECT lane, sequence FROM ingest_position WHERE consumer = 'store'")
        return {row["lane"]: row["sequence"] for row in rows}


@pytest.fixture
async def world(database_urls: DatabaseURLs, owner: Any, client: Client) -> World:
    await owner.execute("CREATE TABLE applied (id serial, lane int, sequence bigint, body int)")
    await owner.execute("GRANT INSERT ON applied TO headwater_writer; GRANT USAGE ON applied_id_seq TO headwater_writer")
    return World(database_urls, owner, client, Publisher(client.jetstream()))


async def test_one_worker_reads_all_lanes(world: World) -> None:
    async with world.worker() as worker:
        await world.publish(100)
        await world.all_applied_once()
        assert worker.lanes.held == ALL
        assert [state.errors for state in worker.lanes.states.values()] == [0] * len(ALL)
        positions = await world.positions()
        assert {lane: state.position for lane, state in worker.lanes.states.items()} == positions
        assert max(positions.values()) == 100


async def test_a_round_gathers_what_comes_soon_after_its_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[list[int]] = []
    lingers, all_came, waited = asyncio.Event(), asyncio.Event(), consuming._wait

    async def note(lane: int, deliveries: Sequence[Delivery]) -> None:
        rounds.append([int(delivery.data) for delivery in deliveries])

    async def until_all_came(leave: asyncio.Event, seconds: float) -> None:
        if seconds != 1_000.0:
            await waited(leave, seconds)
            return
        lingers.set()
        await all_came.wait()

    monkeypatch.setattr(consuming, "_wait", until_all_came)
    async with world.worker(note, at_a_time=1_000, linger_s=1_000.0):
        await world.publish(1)
        await lingers.wait()
        await world.publish(40)

        async def delivered() -> bool:
            infos = await world.client.jetstream().consumers_info(UPLINK_STREAM)
            return len(infos) == TOPOLOGY.lanes and not any(info.num_pending for info in infos)

        await eventually(delivered, "everything is on its way to the readers")
        await world.client.flush()
        all_came.set()
        await world.all_applied_once()
    (of_the_first,) = (numbers for numbers in rounds if 0 in numbers)
    assert len(of_the_first) > 1


async def test_workers_share_the_lanes_and_a_stopped_one_leaves_its_own_to_the_other(world: World) -> None:
    async with world.worker() as stays:
        await eventually(lambda: stays.lanes.held == ALL, "the first has all")
        await world.publish(40)
        async with world.worker() as leaves:
            await eventually(lambda: len(leaves.lanes.held) == len(stays.lanes.held) == 2, "each has its half")
            assert stays.lanes.held | leaves.lanes.held == ALL
            await world.publish(40)
            await world.all_applied_once()
            await world.publish(40)
        assert leaves.lanes.held == frozenset()
        await eventually(lambda: stays.lanes.held == ALL, "the first has all again")
        await world.publish(40)
        await world.all_applied_once()
        for worker in (stays, leaves):
            assert sum(state.errors for state in worker.lanes.states.values()) == 0, "handed over, not lost"


async def test_more_workers_than_lanes_quarrel_about_none(world: World) -> None:
    async with world.worker() as a, world.worker() as b, world.worker() as c, world.worker() as d, world.worker() as e:
        workers = (a, b, c, d, e)
        await eventually(lambda: sorted(len(one.lanes.held) for one in workers) == [0, 1, 1, 1, 1], "one each")
        await world.publish(60)
        await world.all_applied_once()


async def test_the_lanes_of_a_killed_worker_are_taken_over(world: World) -> None:
    async with world.worker() as stays, world.worker() as dies:
        await eventually(lambda: len(dies.lanes.held) == len(stays.lanes.held) == 2, "each has its half")
        await world.publish(60)
        dies.dead = True
        await world.terminate(dies)
        await eventually(lambda: stays.lanes.held == ALL, "the other has all")
        await world.publish(60)
        await world.all_applied_once()


async def test_a_worker_that_loses_its_sessions_in_the_middle_of_its_work_has_done_nothing(world: World) -> None:
    """It was frozen before the commit. When it thaws, another worker has long done the same messages."""
    frozen, thaw = asyncio.Event(), asyncio.Event()

    async def freeze(lane: int, deliveries: Sequence[Delivery]) -> None:
        frozen.set()
        await thaw.wait()

    async with world.worker(freeze) as dies:
        await eventually(lambda: dies.lanes.held == ALL, "it has all")
        await world.publish(60)
        await frozen.wait()
        assert await world.applied() == []
        dies.dead = True
        await world.terminate(dies)
        async with world.worker() as takes_over:
            await eventually(lambda: takes_over.lanes.held == ALL, "the other has all")
            await world.all_applied_once()
            thaw.set()
            await eventually(
                lambda: any(state.errors for state in dies.lanes.states.values()), "the first finds that it has lost"
            )
            await world.publish(20)
            await world.all_applied_once()


async def test_a_worker_whose_membership_ends_becomes_a_member_again(world: World) -> None:
    """Without it, the others would count one less, and take its lanes while it holds them: in vain, for ever."""
    async with world.worker() as worker, world.worker() as other:
        await eventually(lambda: len(other.lanes.held) == len(worker.lanes.held) == 2, "each has its half")
        member = worker.sessions[0].get_server_pid()
        await world.owner.execute("SELECT pg_terminate_backend($1)", member)
        members = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'headwater store member' AND pid <> $1"

        async def again() -> bool:
            return bool(await world.owner.fetchval(members, member) == 2)

        await eventually(again, "two members")
        await world.publish(40)
        await world.all_applied_once()
        await eventually(lambda: len(other.lanes.held) == len(worker.lanes.held) == 2, "each has its half still")


@pytest.mark.parametrize("error", [asyncpg.InternalClientError("cannot switch to state 12"), RuntimeError("a bug")])
async def test_whatever_happens_to_the_sharing_a_worker_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """asyncpg has an error of its own for a session that ends between two of its steps, which no test can bring about."""
    share, shared = LaneConsumer._share, 0

    async def fails_at_times(self: LaneConsumer, session: Any) -> None:
        nonlocal shared
        shared += 1
        if shared in (1, 3):
            raise error
        await share(self, session)

    monkeypatch.setattr(LaneConsumer, "_share", fails_at_times)
    async with world.worker() as worker:
        await eventually(lambda: shared > 4, "it shares again")
        await eventually(lambda: worker.lanes.held == ALL, "it has all")
        await world.publish(40)
        await world.all_applied_once()


@pytest.mark.parametrize("seed", range(2))
async def test_work_that_raises_is_done_again_from_the_durable_position(world: World, seed: int) -> None:
    chance, seen, failed = random.Random(seed), Counter[bytes](), 0

    async def fail_often(lane: int, deliveries: Sequence[Delivery]) -> None:
        nonlocal failed
        seen.update(delivery.data for delivery in deliveries)
        if chance.random() < 0.3:
            failed += 1
            raise RuntimeError("this work has a bug")

    await world.publish(100)
    async with world.worker(fail_often) as worker:
        await world.all_applied_once()
        assert failed > 0
        assert sum(state.errors for state in worker.lanes.states.values()) == failed
        assert max(seen.values()) > 1
        assert {lane: state.position for lane, state in worker.lanes.states.items()} == await world.positions()


async def test_a_lane_that_fails_holds_up_no_other(world: World) -> None:
    well = asyncio.Event()

    async def lane_2_fails(lane: int, deliveries: Sequence[Delivery]) -> None:
        if lane == 2 and not well.is_set():
            raise RuntimeError("this work has a bug")

    async with world.worker(lane_2_fails) as worker:
        await world.publish(80)

        async def others_done() -> bool:
            return len(await world.applied()) == 60

        await eventually(others_done, "the other lanes are done")
        await eventually(lambda: worker.lanes.states[2].errors >= 2, "it tries again and again")
        assert (await world.positions())[2] == 0
        well.set()
        await world.all_applied_once()


async def test_work_that_must_wait_is_asked_again_with_the_same(world: World) -> None:
    asked: list[int] = []

    class Waits(Ledger):
        async def apply(self, deliveries: Sequence[Delivery], *, position: int, offset: int) -> int:
            asked.append(deliveries[0].sequence)
            if len(asked) % 3:
                await asyncio.sleep(0)
                return 0
            return await super().apply(deliveries, position=position, offset=offset)

    stop = asyncio.Event()
    lanes = LaneConsumer(
        STORE, 1, client=world.client, connect=lambda name: open_lane_session(world.urls.writer, name),
        make_work=lambda session, lane: Waits(session, lane, nothing_happens, 1), linger_s=0.0,
    )  # fmt: skip
    for number in range(3):
        await world.publisher.publish(subjects.up(0), str(number).encode())
    running = asyncio.create_task(lanes.run(stop))

    async def done() -> bool:
        return await world.applied() == [0, 1, 2]

    await eventually(done, "all three are done")
    stop.set()
    await running
    assert asked == [1, 1, 1, 2, 2, 2, 3, 3, 3]


async def test_nats_and_sessions_die_again_and_again(world: World, server: KillableNATS) -> None:
    chance = random.Random(1)

    async with world.worker(at_a_time=3) as one, world.worker(at_a_time=3) as two:
        for turn in range(6):
            await world.publish(40)
            if turn % 2:
                await world.terminate(chance.choice((one, two)))
            else:
                await server.start_again()
        await world.all_applied_once()


async def test_a_stream_made_anew_is_read_from_its_beginning(world: World) -> None:
    """While workers read: what it brings has known sequences, and is new."""
    async with world.worker() as worker:
        await world.publish(40)
        await world.all_applied_once()
        highest = max((await world.positions()).values())
        await world.client.jetstream().delete_stream(UPLINK_STREAM)
        await ensure(world.client.jetstream(), TOPOLOGY)
        await world.publish(20)
        await world.all_applied_once()
        assert max((await world.positions()).values()) > highest
        assert worker.lanes.held == ALL
        await world.publish(20)
        await world.all_applied_once()

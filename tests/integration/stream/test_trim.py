"""Trimming UPLINK on real engines: what may leave, what must stay, and what still works afterwards."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client
from tests.integration.stream.conftest import TOPOLOGY
from tests.support.killable_nats import KillableNATS

from headwater.ingest.ports import StreamFull
from headwater.stream import subjects, trim
from headwater.stream.position import move_position, read_position, stream_offset
from headwater.stream.publisher import Publisher
from headwater.stream.reader import OrderedReader
from headwater.stream.topology import CONSUMERS, PRESENCE, STORE, UPLINK_STREAM, Consumer, Topology, ensure
from headwater.stream.trim import KEEP_S, TrimDuty

LANES = [(consumer, lane) for consumer in CONSUMERS for lane in range(4)]


@pytest.fixture(autouse=True)
async def known(client: Client, session: Any) -> None:
    """Positions follow a stream that was seen before."""
    assert await stream_offset(session, client.jetstream()) == 0


async def done(session: Any, consumer: Consumer, lane: int, sequence: int) -> None:
    position = await read_position(session, consumer.name, lane)
    await move_position(session, consumer.name, lane, expected=position, to=sequence)


async def all_done(session: Any, client: Client) -> int:
    last = (await client.jetstream().stream_info(UPLINK_STREAM)).state.last_seq
    for consumer, lane in LANES:
        await done(session, consumer, lane, last)
    return last


async def first(client: Client) -> int:
    return (await client.jetstream().stream_info(UPLINK_STREAM)).state.first_seq


async def publish(client: Client, count: int) -> None:
    publisher = Publisher(client.jetstream())
    for _ in range(count):
        await publisher.publish(subjects.up(0), b"x")


@pytest.mark.parametrize("seed", range(3))
async def test_what_one_consumer_has_not_done_stays(client: Client, session: Any, seed: int) -> None:
    """Positions rise in any order, the stream grows meanwhile; the lowest message that is not done is always the first."""
    chance = random.Random(seed)
    publisher, duty = Publisher(client.jetstream()), TrimDuty(client.jetstream(), TOPOLOGY, keep_s=0)
    lane_of: dict[int, tuple[Consumer, int]] = {}
    positions = dict.fromkeys(LANES, 0)
    trimmed = 0
    for _ in range(8):
        for consumer, lane in chance.choices(LANES, k=10):
            lane_of[await publisher.publish(f"{consumer.reads}.{lane}", b"x")] = (consumer, lane)
        for who in chance.sample(LANES, 6):
            own = [sequence for sequence, whose in lane_of.items() if whose == who and sequence > positions[who]]
            # Mostly everything of it, so that the first of all moves.
            if own and (reached := own[-1] if chance.random() < 0.8 else chance.choice(own)) > positions[who]:
                positions[who] = reached
                await done(session, *who, reached)
        await duty.perform(session)
        pending = [sequence for sequence, whose in lane_of.items() if sequence > positions[whose]]
        trimmed = min(pending, default=max(lane_of) + 1)
        assert await first(client) == trimmed
    assert 1 < trimmed <= max(lane_of)
    assert await read_position(session, "trim", 0) == trimmed - 1


async def test_a_consumer_that_never_began_keeps_what_is_its(client: Client, session: Any) -> None:
    publisher, duty = Publisher(client.jetstream()), TrimDuty(client.jetstream(), TOPOLOGY, keep_s=0)
    await publish(client, 3)
    assert await publisher.publish(subjects.control(2), b"x") == 4
    await publish(client, 3)
    await done(session, STORE, 0, 7)
    await duty.perform(session)
    assert await first(client) == 4
    await done(session, PRESENCE, 2, 4)
    await duty.perform(session)
    assert await first(client) == 8


async def test_what_is_younger_than_keep_s_stays(client: Client, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1_000.0, time=lambda: clock.now)
    # The duty's clock alone: engines' time-outs need the real one.
    monkeypatch.setattr(trim, "asyncio", SimpleNamespace(get_running_loop=lambda: clock))
    duty = TrimDuty(client.jetstream(), TOPOLOGY, keep_s=100)
    await publish(client, 3)
    await all_done(session, client)
    await duty.perform(session)
    clock.now += 60
    await publish(client, 2)
    await all_done(session, client)
    await duty.perform(session)
    clock.now += 39.9
    await duty.perform(session)
    assert await first(client) == 1
    clock.now += 0.2
    await duty.perform(session)
    assert await first(client) == 4, "100 s after the first three were seen, and 40 after the others"
    clock.now += 59
    await duty.perform(session)
    assert await first(client) == 4
    clock.now += 1
    await duty.perform(session)
    assert await first(client) == 6


async def test_a_stream_set_back_is_not_taken_for_an_old_one(
    client: Client, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ages that were noted of a stream that is no more say nothing about its successor."""
    clock = SimpleNamespace(now=1_000.0, time=lambda: clock.now)
    monkeypatch.setattr(trim, "asyncio", SimpleNamespace(get_running_loop=lambda: clock))
    duty = TrimDuty(client.jetstream(), TOPOLOGY, keep_s=100)
    await publish(client, 5)
    await all_done(session, client)
    await duty.perform(session)
    await client.jetstream().delete_stream(UPLINK_STREAM)
    await ensure(client.jetstream(), TOPOLOGY)
    clock.now += 60
    await publish(client, 3)
    offset = await stream_offset(session, client.jetstream())
    await done(session, STORE, 0, offset + 3)
    await duty.perform(session)
    clock.now += 60
    await duty.perform(session)
    assert await first(client) == 1
    clock.now += 60
    await duty.perform(session)
    assert await first(client) == 4


async def test_a_crowded_stream_keeps_nothing_that_is_done(client: Client, session: Any) -> None:
    topology = Topology(uplink_bytes_max=400_000)
    await ensure(client.jetstream(), topology)
    publisher, duty = Publisher(client.jetstream()), TrimDuty(client.jetstream(), topology, keep_s=3_600)
    for _ in range(18):
        await publisher.publish(subjects.up(0), bytes(10_000))
    await done(session, STORE, 0, 15)
    await duty.perform(session)
    assert await first(client) == 1, "less than half full"
    for _ in range(4):
        await publisher.publish(subjects.up(0), bytes(10_000))
    await duty.perform(session)
    assert await first(client) == 16, "more than half full: what is done goes, what is not stays"


async def test_a_full_stream_takes_messages_again(client: Client, session: Any) -> None:
    topology = Topology(uplink_bytes_max=100_000)
    await ensure(client.jetstream(), topology)
    publisher, duty = Publisher(client.jetstream()), TrimDuty(client.jetstream(), topology)
    for _ in range(9):
        await publisher.publish(subjects.up(0), bytes(10_000))
    with pytest.raises(StreamFull):
        await publisher.publish(subjects.up(0), bytes(10_000))
    last = await all_done(session, client)
    await duty.perform(session)
    assert await publisher.publish(subjects.up(0), b"x") == last + 1


async def test_positions_and_readers_go_on_after_everything_was_purged(
    server: KillableNATS, client: Client, session: Any
) -> None:
    """Also when the server is killed then: a stream that counted from 1 again would give known sequences to new messages."""
    jetstream = client.jetstream()
    await publish(client, 5)
    assert await all_done(session, client) == 5
    await TrimDuty(jetstream, TOPOLOGY, keep_s=0).perform(session)
    async with OrderedReader(client, subjects.up(0), after=5) as reader:
        assert await reader.take(bytes_max=1, wait_s=0.05) == []
        for number in range(6, 9):
            assert (await jetstream.stream_info(UPLINK_STREAM)).state.messages == 0
            assert await stream_offset(session, jetstream) == 0
            await publish(client, 1)
            assert [one.sequence for one in await reader.take(bytes_max=1, wait_s=20.0)] == [number]
            await done(session, STORE, 0, number)
            await TrimDuty(jetstream, TOPOLOGY, keep_s=0).perform(session)
            await server.start_again()
    assert await session.fetchval("SELECT count(*) FROM uplink_stream") == 1
    # From far behind, as a session whose position is older than what is left.
    await publish(client, 1)
    async with OrderedReader(client, subjects.up(0), after=2) as reader:
        assert [one.sequence for one in await reader.take(bytes_max=1, wait_s=20.0)] == [9]


async def test_an_offset_does_not_reach_into_the_stream(client: Client, session: Any) -> None:
    """Positions of a stream made anew are above its sequences: the difference must not be purged."""
    await publish(client, 5)
    await all_done(session, client)
    await client.jetstream().delete_stream(UPLINK_STREAM)
    await ensure(client.jetstream(), TOPOLOGY)
    await publish(client, 4)
    offset = await stream_offset(session, client.jetstream())
    duty = TrimDuty(client.jetstream(), TOPOLOGY, keep_s=0)
    await duty.perform(session)
    assert await first(client) == 1
    await done(session, STORE, 0, offset + 2)
    await duty.perform(session)
    assert await first(client) == 3
    assert await read_position(session, "trim", 0) == offset + 2


@pytest.mark.parametrize(("keep_s", "stored"), [(KEEP_S, 1), (0.0, 2)], ids=["kept", "purged at once"])
async def test_a_repeated_publish_is_known_after_a_kill(
    server: KillableNATS, client: Client, session: Any, keep_s: float, stored: int
) -> None:
    """The second case is why the first exists: a server that was killed knows only the identifiers that it still stores."""
    publisher, duty = Publisher(client.jetstream()), TrimDuty(client.jetstream(), TOPOLOGY, keep_s=keep_s)
    sequence = await publisher.publish(subjects.up(0), b"x", message_id="once")
    await all_done(session, client)
    for _ in range(3):
        await duty.perform(session)
    await server.start_again()
    repeated = await publisher.publish(subjects.up(0), b"x", message_id="once")
    assert repeated == sequence + stored - 1
    assert (await client.jetstream().stream_info(UPLINK_STREAM)).state.last_seq == stored

"""Positions on real engines: who may move them, and what becomes of them when the stream is not what it was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nats.aio.client import Client
from tests.integration.stream.conftest import TOPOLOGY
from tests.support.engines import DatabaseURLs
from tests.support.gateways import eventually

from headwater.database.lane_session import open_lane_session
from headwater.stream import position as positions
from headwater.stream import subjects
from headwater.stream.position import PositionLost, move_position, read_position, stream_offset
from headwater.stream.publisher import Publisher
from headwater.stream.topology import UPLINK_STREAM, ensure


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single server has no followers to wait for."""
    monkeypatch.setattr(positions, "SET_BACK_PAUSE_S", 0.01)


async def publish(client: Client, count: int) -> None:
    publisher = Publisher(client.jetstream())
    for _ in range(count):
        await publisher.publish(subjects.up(0), b"x")


async def made_anew(client: Client, messages: int) -> None:
    """As after a lost disk."""
    await client.jetstream().delete_stream(UPLINK_STREAM)
    await ensure(client.jetstream(), TOPOLOGY)
    await publish(client, messages)


async def stand_at(session: Any, consumer: str, lane: int, sequence: int) -> None:
    await move_position(session, consumer, lane, expected=await read_position(session, consumer, lane), to=sequence)


# --- moving ---------------------------------------------------------------------------------------------------------


async def test_a_position_begins_at_nothing_and_moves(session: Any) -> None:
    assert await read_position(session, "store", 1) == 0
    await move_position(session, "store", 1, expected=0, to=7)
    await move_position(session, "store", 1, expected=7, to=9)
    assert await read_position(session, "store", 1) == 9
    assert await read_position(session, "store", 2) == 0
    assert await read_position(session, "presence", 1) == 0


@pytest.mark.parametrize("expected", [0, 6, 8])
async def test_who_believes_another_position_moves_nothing(session: Any, expected: int) -> None:
    await stand_at(session, "store", 0, 7)
    with pytest.raises(PositionLost):
        await move_position(session, "store", 0, expected=expected, to=20)
    assert await read_position(session, "store", 0) == 7


async def test_a_position_that_was_never_read_is_lost(session: Any) -> None:
    with pytest.raises(PositionLost):
        await move_position(session, "store", 0, expected=0, to=1)


@pytest.mark.parametrize("commits", [True, False])
async def test_who_comes_second_waits_for_the_first_and_then_finds_out(
    database_urls: DatabaseURLs, session: Any, owner: Any, commits: bool
) -> None:
    """The first still writes, though its lock is gone: the second must neither write beside it nor be refused in vain."""
    await read_position(session, "store", 0)
    other = await open_lane_session(database_urls.writer, "second")
    first = session.transaction()
    await first.start()
    await move_position(session, "store", 0, expected=0, to=5)
    second = asyncio.create_task(move_position(other, "store", 0, expected=0, to=3))
    await eventually(lambda: waits(owner, "second"), "the second waits")
    if commits:
        await first.commit()
        with pytest.raises(PositionLost):
            await second
        assert await read_position(other, "store", 0) == 5
    else:
        await first.rollback()
        await second
        assert await read_position(other, "store", 0) == 3
    other.terminate()


async def waits(owner: Any, application_name: str) -> bool:
    return bool(
        await owner.fetchval(
            "SELECT true FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'", application_name
        )
    )


# --- the stream -----------------------------------------------------------------------------------------------------


async def test_the_first_stream_has_no_offset_and_is_adopted_once(
    database_urls: DatabaseURLs, client: Client, owner: Any
) -> None:
    await publish(client, 3)
    sessions = [await open_lane_session(database_urls.writer, "test") for _ in range(6)]
    offsets = await asyncio.gather(*(stream_offset(one, client.jetstream()) for one in sessions))
    assert offsets == [0] * 6
    assert await owner.fetchval("SELECT count(*) FROM uplink_stream") == 1
    for one in sessions:
        one.terminate()


async def test_a_stream_made_anew_comes_behind_everything_there_was(
    database_urls: DatabaseURLs, client: Client, session: Any, owner: Any
) -> None:
    await stream_offset(session, client.jetstream())
    await publish(client, 8)
    await stand_at(session, "store", 0, 8)
    await stand_at(session, "store", 1, 3)
    await made_anew(client, 2)
    sessions = [await open_lane_session(database_urls.writer, "test") for _ in range(6)]
    assert await asyncio.gather(*(stream_offset(one, client.jetstream()) for one in sessions)) == [9] * 6
    assert await owner.fetchval("SELECT count(*) FROM uplink_stream") == 2
    assert await read_position(session, "store", 0) == 9, "nothing of the new one is done"
    assert await read_position(session, "store", 1) == 9
    await stand_at(session, "store", 0, 9 + 2)
    assert await stream_offset(session, client.jetstream()) == 9
    # And once more: offsets add up.
    await made_anew(client, 1)
    assert await stream_offset(session, client.jetstream()) == 12
    for one in sessions:
        one.terminate()


async def test_a_stream_made_anew_is_noticed_also_when_it_has_outgrown_the_positions(client: Client, session: Any) -> None:
    await stream_offset(session, client.jetstream())
    await publish(client, 2)
    await stand_at(session, "store", 0, 2)
    await made_anew(client, 6)
    assert await stream_offset(session, client.jetstream()) == 3


async def set_back(owner: Any, client: Client, by: int) -> None:
    """What a restored stream looks like from here: the same one, and positions beyond its end."""
    last = (await client.jetstream().stream_info(UPLINK_STREAM)).state.last_seq
    await owner.execute("UPDATE ingest_position SET sequence = $1 WHERE consumer = 'store' AND lane = 0", last + by)


async def test_a_stream_set_back_below_a_position_is_noticed(client: Client, session: Any, owner: Any) -> None:
    await publish(client, 10)
    await stream_offset(session, client.jetstream())
    await stand_at(session, "store", 0, 10)
    await stand_at(session, "store", 1, 4)
    await stand_at(session, "presence", 0, 0)
    await owner.execute("INSERT INTO ingest_position (consumer, lane, sequence) VALUES ('rollup', 0, 9)")
    await set_back(owner, client, 5)
    offset = await stream_offset(session, client.jetstream())
    assert offset == 6, "counting goes on behind 15: the stream's next is 11, and no position stays what it was"
    rows = await owner.fetch("SELECT consumer, lane, sequence FROM ingest_position")
    assert {(row["consumer"], row["lane"]): row["sequence"] for row in rows} == {
        ("store", 0): 16, ("store", 1): 6 + 4, ("presence", 0): 6, ("rollup", 0): 9,
    }  # fmt: skip
    assert await stream_offset(session, client.jetstream()) == 6
    assert await owner.fetchval("SELECT count(*) FROM uplink_stream") == 2


@pytest.mark.parametrize("lane", [0, 1])
@pytest.mark.parametrize("how", ["made anew", "set back"])
async def test_a_session_that_still_has_messages_of_the_old_stream_may_not_write_them(
    client: Client, session: Any, owner: Any, how: str, lane: int
) -> None:
    """Its position would reach into what the stream brings next, and the lane would skip that. Lane 0 is ahead of all."""
    await publish(client, 10)
    await stream_offset(session, client.jetstream())
    for stale, sequence in ((0, 10), (1, 4)):
        await stand_at(session, "store", stale, sequence)
    if how == "made anew":
        await made_anew(client, 0)
    else:
        await set_back(owner, client, 5)
    believed = await read_position(session, "store", lane)
    await stream_offset(session, client.jetstream())
    with pytest.raises(PositionLost):
        await move_position(session, "store", lane, expected=believed, to=believed + 8)


async def test_what_an_old_session_is_writing_while_a_stream_is_adopted_comes_before_it(
    database_urls: DatabaseURLs, client: Client, session: Any, owner: Any
) -> None:
    await publish(client, 10)
    await stream_offset(session, client.jetstream())
    await stand_at(session, "store", 0, 4)
    await made_anew(client, 1)
    writing = session.transaction()
    await writing.start()
    await move_position(session, "store", 0, expected=4, to=10)
    other = await open_lane_session(database_urls.writer, "other")
    adopting = asyncio.create_task(stream_offset(other, client.jetstream()))
    await eventually(lambda: waits(owner, "other"), "it waits for what is being written")
    await writing.commit()
    offset = await adopting
    assert offset > 10
    assert await read_position(session, "store", 0) == offset
    other.terminate()


async def test_a_stream_that_only_lags_is_waited_for(
    client: Client, session: Any, owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new leader that has not applied its log yet looks like a stream that was set back."""
    await publish(client, 3)
    await stream_offset(session, client.jetstream())
    await stand_at(session, "store", 0, 3)
    await set_back(owner, client, 2)
    slept = asyncio.sleep

    async def catches_up(seconds: float) -> None:
        await publish(client, 1)
        await slept(0)

    # The publisher's own pauses are another module's: only the looks of stream_offset come here.
    monkeypatch.setattr(positions.asyncio, "sleep", catches_up)
    assert await stream_offset(session, client.jetstream()) == 0
    monkeypatch.undo()
    assert await read_position(session, "store", 0) == 5
    assert (await client.jetstream().stream_info(UPLINK_STREAM)).state.last_seq == 5


async def test_a_session_that_looked_long_ago_does_not_set_the_others_back(
    database_urls: DatabaseURLs, client: Client, session: Any, owner: Any
) -> None:
    """It saw an empty stream, then waited; meanwhile others adopted the stream and have come far."""
    await owner.execute("SELECT pg_advisory_lock($1)", positions._STREAM_LOCK)
    late = await open_lane_session(database_urls.writer, "late")
    looking = asyncio.create_task(stream_offset(late, client.jetstream()))
    await eventually(lambda: waits(owner, "late"), "it waits to adopt what it saw")
    created = str((await client.jetstream().stream_info(UPLINK_STREAM)).created)
    await session.execute("INSERT INTO uplink_stream (created, sequence_offset) VALUES ($1, 0)", created)
    await publish(client, 5)
    await stand_at(session, "store", 0, 5)
    await owner.execute("SELECT pg_advisory_unlock($1)", positions._STREAM_LOCK)
    assert await looking == 0
    assert await read_position(session, "store", 0) == 5
    assert await owner.fetchval("SELECT count(*) FROM uplink_stream") == 1
    late.terminate()


async def test_a_session_that_saw_the_last_stream_does_not_adopt_it_again(
    database_urls: DatabaseURLs, client: Client, session: Any, owner: Any
) -> None:
    await owner.execute("SELECT pg_advisory_lock($1)", positions._STREAM_LOCK)
    late = await open_lane_session(database_urls.writer, "late")
    looking = asyncio.create_task(stream_offset(late, client.jetstream()))
    await eventually(lambda: waits(owner, "late"), "it waits to adopt what it saw")
    await made_anew(client, 5)
    created = str((await client.jetstream().stream_info(UPLINK_STREAM)).created)
    await session.execute("INSERT INTO uplink_stream (created, sequence_offset) VALUES ($1, 0)", created)
    await stand_at(session, "store", 0, 5)
    await owner.execute("SELECT pg_advisory_unlock($1)", positions._STREAM_LOCK)
    assert await looking == 0
    assert await owner.fetchval("SELECT array_agg(created) FROM uplink_stream") == [created]
    late.terminate()

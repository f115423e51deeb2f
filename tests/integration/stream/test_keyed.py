"""Streams with one message a subject: group commit, compare-and-set, removal, and more subjects than a question may name."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client
from tests.support.gateways import eventually
from tests.support.killable_nats import KillableNATS

from headwater.ids import uuid7
from headwater.ingest.ports import StreamUnavailable
from headwater.stream import keyed, subjects
from headwater.stream.direct_get import TOO_MANY
from headwater.stream.envelope import Message
from headwater.stream.keyed import KeyedStream, Overtaken
from headwater.stream.retained_store import RetainedStore
from headwater.stream.topology import RETAINED_STREAM, SESSION_STREAM

TENANT = uuid7()


def key(name: object) -> str:
    return subjects.session(TENANT, str(name))


@pytest.fixture
def stream(client: Client) -> KeyedStream:
    return KeyedStream(client, SESSION_STREAM)


async def test_what_is_put_in_one_moment_is_stored_together(client: Client, stream: KeyedStream) -> None:
    sequences = await asyncio.gather(*(stream.put(key(n), str(n).encode()) for n in range(600)))
    assert sorted(sequences) == list(range(1, 601)), "each has the sequence that it was told"
    for n in (0, 299, 599):
        found = await stream.find(key(n))
        assert found is not None
        assert (found.data, found.sequence) == (str(n).encode(), sequences[n])


async def test_puts_of_one_subject_keep_their_order(stream: KeyedStream) -> None:
    await asyncio.gather(*(stream.put(key(n % 3), str(n).encode()) for n in range(60)))
    stored = await stream.select(tuple(key(n) for n in range(3)))
    assert sorted(each.data for each in stored) == [b"57", b"58", b"59"]


async def test_a_put_names_what_it_replaces(stream: KeyedStream) -> None:
    first = await stream.put(key("a"), b"1", expected=0)
    second = await stream.put(key("a"), b"2", expected=first)
    with pytest.raises(Overtaken):
        await stream.put(key("a"), b"3", expected=first)
    with pytest.raises(Overtaken):
        await stream.put(key("a"), b"3", expected=0)
    found = await stream.find(key("a"))
    assert found is not None
    assert (found.data, found.sequence) == (b"2", second)


async def test_one_that_was_overtaken_takes_nobody_with_it(stream: KeyedStream) -> None:
    await stream.put(key("taken"), b"x")
    results = await asyncio.gather(
        stream.put(key("one"), b"1", expected=0),
        stream.put(key("taken"), b"2", expected=0),
        stream.put(key("other"), b"3", expected=0),
        return_exceptions=True,
    )
    assert isinstance(results[1], Overtaken)
    assert {type(results[0]), type(results[2])} == {int}


async def test_what_is_removed_is_gone_and_may_come_again(stream: KeyedStream) -> None:
    await stream.put(key("a"), b"1")
    await stream.remove(key("a"))
    stored = await stream.find(key("a"))
    assert stored is not None
    assert stored.data == b""
    assert await stream.select((key("a"),)) == []
    assert await stream.put(key("a"), b"2", expected=stored.sequence) > stored.sequence
    await stream.remove(key("a"))

    async def is_gone() -> bool:
        return await stream.find(key("a")) is None

    await eventually(is_gone, "the stream forgets it")


async def test_what_has_a_lifetime_ends(stream: KeyedStream) -> None:
    await asyncio.gather(stream.put(key("short"), b"x", ttl_s=1), stream.put(key("long"), b"y", ttl_s=600))

    async def short_is_gone() -> bool:
        return await stream.find(key("short")) is None

    await eventually(short_is_gone, "its time is over")
    assert (await stream.find(key("long"))) is not None


async def test_more_subjects_than_one_question_may_name(client: Client) -> None:
    retained = RetainedStore(client)
    count = TOO_MANY + 200
    await asyncio.gather(*(retained.keep(TENANT, Message(f"many/{n}", b"x", 0)) for n in range(count)))
    found, few, none = await asyncio.gather(
        retained.matching(TENANT, "many/+"), retained.matching(TENANT, "many/7"), retained.matching(TENANT, "none/#")
    )
    assert {message.topic for message in found} == {f"many/{n}" for n in range(count)}
    assert [message.topic for message in few] == ["many/7"]
    assert none == []
    scanned = [stored async for stored in KeyedStream(client, RETAINED_STREAM).scan(f"{subjects.RETAINED}.>")]
    assert len(scanned) == count


async def test_a_put_survives_a_kill_and_is_stored_once(client: Client, server: KillableNATS, stream: KeyedStream) -> None:
    await stream.put(key("a"), b"before", expected=0)
    server.kill()
    puts = [asyncio.create_task(stream.put(key(n), str(n).encode(), expected=0)) for n in range(50)]
    await asyncio.sleep(0.2)
    await server.start()
    sequences = await asyncio.gather(*puts)
    assert len(set(sequences)) == 50
    found = await stream.find(key("a"))
    assert found is not None
    assert found.data == b"before"


async def test_it_gives_up(
    client: Client, server: KillableNATS, stream: KeyedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed, "GIVE_UP_S", 0.5)
    server.kill()
    with pytest.raises(StreamUnavailable):
        await stream.put(key("a"), b"x")
    await server.start()

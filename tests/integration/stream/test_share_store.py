"""The record of a shared subscription, as several gateways change it."""

from __future__ import annotations

from nats.aio.client import Client

from headwater.ids import uuid7
from headwater.stream import subjects
from headwater.stream.keyed import KeyedStream
from headwater.stream.settled import SPAN
from headwater.stream.share_store import BATCHES_MAX, Noted, Receipt, ShareStore
from headwater.stream.topology import SESSION_STREAM

TENANT = uuid7()
NOBODYS = Noted(set(), set())


def store(client: Client) -> ShareStore:
    return ShareStore(KeyedStream(client, SESSION_STREAM), subjects.share(TENANT, "team", "a"), 60)


async def records(client: Client) -> int:
    share = subjects.share(TENANT, "team", "a")
    return len(await KeyedStream(client, SESSION_STREAM).select((f"{share}.*",)))


async def test_what_one_gateway_noted_is_not_the_others_to_give(client: Client) -> None:
    one, two = store(client), store(client)
    await two.read()
    assert await one.note(7, {0: Receipt(b"a", 1)}, ()) == Noted({0}, set())
    assert await two.note(7, {0: Receipt(b"b", 1), 1: Receipt(b"b", 2)}, ()) == Noted({1}, set())
    assert await one.note(7, {0: Receipt(b"a", 1)}, ()) == Noted({0}, set()), "a note that is repeated is its own"
    assert await one.taken(7) == {0, 1}
    assert (await store(client).read()).receipts_of(b"b") == [((7, 1), 2)]
    await two.take_back(7, (1,))
    assert (await one.read()).receipts_of(b"b") == []


async def test_a_settled_batch_is_nobodys_any_more(client: Client) -> None:
    one, two = store(client), store(client)
    await two.taken(7)
    await one.note(7, {0: Receipt(b"a", 1)}, ())
    await one.settle((7,))
    await one.note(8, {0: Receipt(b"a", 2)}, (7,))
    assert await two.note(7, {0: Receipt(b"b", 1)}, ()) == NOBODYS, "although it was looked at before"
    assert await two.taken(7) is None
    assert list((await two.read()).given) == [8]
    await one.drop((8,))
    assert not (await two.read()).given
    assert await two.taken(8) == set()


async def test_a_batch_stays_settled_however_many_come_after_it(client: Client) -> None:
    """NATS hands out again what it forgot when the time of the batch is over; a busy group has settled thousands by then."""
    one, two = store(client), store(client)
    await two.taken(9)
    await one.settle((9,))
    await one.settle(range(100, 100 + 20 * BATCHES_MAX))
    await two.settle((5, 40_000))
    for each in (one, two, store(client)):
        assert [await each.taken(sequence) for sequence in (9, 5, 10, 99, 100, 20_099, 20_100, 40_000)] == [
            None, None, set(), set(), None, None, set(), None,
        ]  # fmt: skip


async def test_marks_below_the_floor_are_not_kept(client: Client) -> None:
    one, two = store(client), store(client)
    assert await one.settle((SPAN - 1, SPAN + 1)), "the first of a record"
    assert await one.settle((2 * SPAN + 1,))
    assert not await two.settle((SPAN + 2,))
    assert await records(client) == 3
    await one.raise_floor(2 * SPAN)
    assert await records(client) == 1
    assert await two.taken(SPAN + 3) is None
    assert await two.note(SPAN + 3, {0: Receipt(b"a", 1)}, ()) == NOBODYS
    assert [await two.taken(sequence) for sequence in (2 * SPAN + 1, 2 * SPAN + 2)] == [None, set()]
    await two.raise_floor(SPAN)
    assert two.record.floor == 2 * SPAN, "a NATS that was killed says less than it did"
    assert not await one.settle((2 * SPAN + 2,))
    await two.settle((7,))
    assert await one.taken(7) is None


async def test_receipts_have_a_bound(client: Client) -> None:
    one = store(client)
    await one.note(1, {0: Receipt(b"a", 1)}, ())
    one.record.given |= {number: {0: Receipt(b"a", number)} for number in range(2, 2 + BATCHES_MAX)}
    await one.note(2 + BATCHES_MAX, {0: Receipt(b"a", 2 + BATCHES_MAX)}, ())
    assert list((await one.read()).given) == list(range(3, 3 + BATCHES_MAX))


async def test_sessions_are_enlisted_once(client: Client) -> None:
    one, two = store(client), store(client)
    for each in (one, two, one):
        await each.enlist(b"a")
    await two.enlist(b"b")
    await one.dismiss((b"a",))
    assert list((await two.read()).sessions) == [b"b"]


async def test_a_gateway_that_was_taken_for_dead_notes_nothing_for_clients_that_another_has(client: Client) -> None:
    frozen, heir = store(client), store(client)
    await frozen.enlist(b"a")
    await frozen.note(7, {0: Receipt(b"a", 4), 1: Receipt(b"b", 1)}, ())
    assert await heir.take_over(b"a", 1_004) == [((7, 0), 4)]
    assert await frozen.note(8, {0: Receipt(b"a", 5), 1: Receipt(b"b", 2)}, ()) == Noted({1}, {0})
    assert await frozen.note(9, {0: Receipt(number=5)}, ()) == Noted({0}, set()), "one without a session moves nowhere"
    assert await heir.note(8, {0: Receipt(b"a", 1_005)}, ()) == Noted({0}, set())
    record = await frozen.read()
    assert record.newest_of(b"a") == 1_005
    assert record.newest_of(b"c") == 0
    await frozen.enlist(b"a")
    assert frozen.record.sessions[b"a"] == 1_004

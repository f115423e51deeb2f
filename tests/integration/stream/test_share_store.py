"""The record of a shared subscription, as several gateways change it."""

from __future__ import annotations

from nats.aio.client import Client

from headwater.ids import uuid7
from headwater.stream import subjects
from headwater.stream.keyed import KeyedStream
from headwater.stream.share_store import BATCHES_MAX, Receipt, ShareStore
from headwater.stream.topology import SESSION_STREAM

TENANT = uuid7()


def store(client: Client) -> ShareStore:
    return ShareStore(KeyedStream(client, SESSION_STREAM), subjects.share(TENANT, "team", "a"), 60)


async def test_what_one_gateway_noted_is_not_the_others_to_give(client: Client) -> None:
    one, two = store(client), store(client)
    await two.read()
    assert await one.note(7, {0: Receipt(b"a", 1)}, ()) == {0}
    assert await two.note(7, {0: Receipt(b"b", 1), 1: Receipt(b"b", 2)}, ()) == {1}
    assert await one.note(7, {0: Receipt(b"a", 1)}, ()) == {0}, "a note that is repeated is its own"
    assert (await store(client).read()).receipts_of(b"b") == [((7, 1), 2)]
    await two.take_back(7, (1,))
    assert (await one.read()).receipts_of(b"b") == []


async def test_a_settled_batch_is_nobodys_any_more(client: Client) -> None:
    one, two = store(client), store(client)
    await one.note(7, {0: Receipt(b"a", 1)}, ())
    await one.note(8, {0: Receipt(b"a", 2)}, (7,))
    assert await two.note(7, {0: Receipt(b"b", 1)}, ()) == set()
    record = await two.read()
    assert (list(record.given), record.settled) == ([8], [7])


async def test_a_record_has_a_bound(client: Client) -> None:
    one = store(client)
    await one.note(1, {0: Receipt(b"a", 1)}, range(100, 100 + 2 * BATCHES_MAX))
    assert one.record.settled == list(range(100 + BATCHES_MAX, 100 + 2 * BATCHES_MAX))


async def test_sessions_are_enlisted_once(client: Client) -> None:
    one, two = store(client), store(client)
    for each in (one, two, one):
        await each.enlist(b"a")
    await two.enlist(b"b")
    await one.dismiss((b"a",))
    assert (await two.read()).sessions == [b"b"]

"""The ordered reader against a real nats-server: in order, no gap and nothing twice, whatever happens to its consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from nats.aio.client import Client
from tests.support.gateways import eventually
from tests.support.killable_nats import KillableNATS

from headwater.stream import publisher as publishing
from headwater.stream import reader as reading
from headwater.stream import subjects
from headwater.stream.publisher import Publisher
from headwater.stream.reader import Delivery, OrderedReader
from headwater.stream.topology import UPLINK_STREAM

LANE = subjects.up(0)
OTHER = subjects.up(1)


def payload(number: int, size: int = 20) -> bytes:
    return str(number).encode().ljust(size)


async def publish(client: Client, numbers: Iterable[int], *, size: int = 20) -> dict[int, int]:
    """To the lane, with as much for another lane in between. Sequence in the stream -> number."""
    jetstream, stored = client.jetstream(), {}
    for number in numbers:
        _, ack = await asyncio.gather(jetstream.publish(OTHER, b"not ours"), jetstream.publish(LANE, payload(number, size)))
        stored[ack.seq] = number
    return stored


async def read(reader: OrderedReader, until: int, *, bytes_max: int = 1 << 20) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(30):
        while reader.position < until:
            found += await reader.take(bytes_max=bytes_max, wait_s=1.0)
    return found


def numbered(deliveries: Iterable[Delivery]) -> list[tuple[int, int]]:
    return [(delivery.sequence, int(delivery.data)) for delivery in deliveries]


async def consumers(client: Client) -> list[str]:
    return [info.name for info in await client.jetstream().consumers_info(UPLINK_STREAM)]


async def test_a_lane_is_read_whole_and_in_order_from_any_position(client: Client) -> None:
    stored = await publish(client, range(60))
    last = max(stored)
    for after in (0, 1, 2, 59, last - 2, last - 1):
        # Few a pull: the order must hold across pulls too.
        async with OrderedReader(client, LANE, after=after, messages_max=8) as reader:
            found = numbered(await read(reader, last))
            assert found == [(sequence, number) for sequence, number in stored.items() if sequence > after]
            assert await reader.take(bytes_max=1, wait_s=0.05) == []
            assert reader.restarts == 0


async def test_what_comes_later_is_read_as_it_comes(client: Client) -> None:
    async with OrderedReader(client, LANE, after=0) as reader:
        assert await reader.take(bytes_max=1, wait_s=0.05) == []
        for number in range(5):
            stored = await publish(client, [number])
            assert numbered(await read(reader, max(stored))) == list(stored.items())


async def test_what_is_given_ends_at_the_callers_bound(client: Client) -> None:
    stored = await publish(client, range(10), size=100)
    async with OrderedReader(client, LANE, after=0) as reader:
        given = [await reader.take(bytes_max=250, wait_s=5.0)]
        while reader.position < max(stored):
            given.append(await reader.take(bytes_max=250, wait_s=5.0))
    assert max(len(one) for one in given) == 3, "the one that reaches the bound is the last"
    assert numbered(delivery for one in given for delivery in one) == list(stored.items())


async def test_a_reader_that_is_not_emptied_pulls_no_further_than_its_bounds(client: Client) -> None:
    await publish(client, range(60))
    async with OrderedReader(client, LANE, after=0, messages_max=8) as reader:
        await reader.take(bytes_max=1, wait_s=5.0)
        (name,) = await consumers(client)
        for _ in range(3):
            await reader.take(bytes_max=1, wait_s=5.0)
        info = await client.jetstream().consumer_info(UPLINK_STREAM, name)
        assert info.delivered is not None
        assert info.delivered.consumer_seq <= 4 + 8


async def test_a_consumer_that_is_deleted_is_made_again_behind_what_was_received(client: Client) -> None:
    stored = await publish(client, range(60))
    found: list[Delivery] = []
    async with OrderedReader(client, LANE, after=0, messages_max=8) as reader:
        deleted = set()
        async with asyncio.timeout(30):
            while reader.position < max(stored):
                found += await reader.take(bytes_max=60, wait_s=1.0)
                for name in set(await consumers(client)) - deleted:
                    await client.jetstream().delete_consumer(UPLINK_STREAM, name)
                    deleted.add(name)
        assert reader.restarts > 3
        # Now while it waits for what there is not yet.
        assert await reader.take(bytes_max=1, wait_s=0.05) == []
        for name in await consumers(client):
            await client.jetstream().delete_consumer(UPLINK_STREAM, name)
        later = await publish(client, range(60, 65))
        found += await read(reader, max(later))
    assert numbered(found) == list((stored | later).items())


async def test_a_consumer_that_fell_silent_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted, and the server's word on it lost: nothing but the missing heart-beat tells."""
    monkeypatch.setattr(reading, "HEARTBEAT_S", 0.1)
    heard = OrderedReader._on_status

    def deaf(self: OrderedReader, message: reading.Msg) -> None:
        if "deleted" not in (message.headers or {}).get("Description", "").lower():
            heard(self, message)

    monkeypatch.setattr(OrderedReader, "_on_status", deaf)
    async with OrderedReader(client, LANE, after=0) as reader:
        assert await reader.take(bytes_max=1, wait_s=0.05) == []
        (name,) = await consumers(client)
        await client.jetstream().delete_consumer(UPLINK_STREAM, name)
        stored = await publish(client, range(3))
        assert numbered(await read(reader, max(stored))) == list(stored.items())
        assert reader.restarts == 1


async def test_a_reader_leaves_no_consumer_behind(client: Client) -> None:
    async with OrderedReader(client, LANE, after=0) as reader:
        await reader.take(bytes_max=1, wait_s=0.05)
        assert len(await consumers(client)) == 1

    async def gone() -> bool:
        return not await consumers(client)

    await eventually(gone, "the consumer is deleted")


async def test_nats_is_killed_and_started_again_while_it_is_read(
    server: KillableNATS, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "ATTEMPT_S", 0.5)
    monkeypatch.setattr(publishing, "RETRY_S", 0.02)
    monkeypatch.setattr(reading, "PAUSE_S", 0.02)
    stored: dict[int, int] = {}

    async def fill() -> None:
        async with server.client() as own:
            publisher = Publisher(own.jetstream())
            for number in range(300):
                stored[await publisher.publish(LANE, payload(number))] = number

    filling = asyncio.create_task(fill())
    found: list[Delivery] = []
    async with OrderedReader(client, LANE, after=0, messages_max=16) as reader:
        async with asyncio.timeout(60):
            for until in (50, 120, 200):
                found += await read(reader, until, bytes_max=100)
                server.kill()
                found += await reader.take(bytes_max=100, wait_s=0.05)
                await server.start()
            await filling
        found += await read(reader, max(stored))
        assert reader.restarts >= 3
    assert numbered(found) == [(number + 1, number) for number in range(300)]
    assert sorted(stored) == [sequence for sequence, _ in numbered(found)]


async def test_messages_larger_than_a_pull_are_read_too(client: Client) -> None:
    """Each alone; the small ones around them keep their places."""
    stored: dict[int, int] = {}
    for number, size in enumerate((10, 5_000, 10, 10, 5_000, 6_000, 900, 900, 5_000, 10)):
        stored |= await publish(client, [number], size=size)
    async with OrderedReader(client, LANE, after=0, bytes_max=1_000) as reader:
        found = await read(reader, max(stored))
        assert reader.restarts == 0
    assert numbered(found) == list(stored.items())
    assert {len(delivery.data) for delivery in found} == {10, 900, 5_000, 6_000}

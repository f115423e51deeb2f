"""Group commit against a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client

from headwater.errors import DomainError
from headwater.ingest.ports import StreamFull
from headwater.stream import batcher as batching
from headwater.stream import subjects
from headwater.stream.batcher import BACKLOG_MAX, BYTES_MAX, IN_FLIGHT_MAX, RECORDS_MAX, Batcher
from headwater.stream.envelope import Kind, Record, decode_batch
from headwater.stream.publisher import Publisher
from headwater.stream.topology import UPLINK_STREAM, Topology, ensure


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    connection = await nats.connect(nats_url)
    yield connection
    await connection.close()


def record(sequence: int, size: int = 10) -> Record:
    return Record(b"t" * 16, b"d" * 16, Kind.TELEMETRY, sequence, sequence, 1, sequence, {"x": "y" * size})


class Waiter:
    def __init__(self, log: list[tuple[str, list[int]]]) -> None:
        self.log = log

    def stored(self, token: list[int]) -> None:
        self.log.append(("stored", token))

    def refused(self, token: list[int], error: DomainError) -> None:
        self.log.append((error.code, token))


async def stored_batches(client: Client) -> list[bytes]:
    jetstream = client.jetstream()
    info = await jetstream.stream_info(UPLINK_STREAM)
    return [(await jetstream.get_msg(UPLINK_STREAM, number)).data or b"" for number in range(1, info.state.last_seq + 1)]


async def stored_sequences(client: Client) -> list[int]:
    return [one.sequence for batch in await stored_batches(client) for one in decode_batch(batch)]


async def test_what_comes_in_one_turn_is_one_message_and_everything_is_acknowledged_in_order(client: Client) -> None:
    await ensure(client.jetstream(), Topology())
    batcher = Batcher(Publisher(client.jetstream()), subjects.up(0))
    log: list[tuple[str, list[int]]] = []
    for turn in range(20):
        for number in range(10):
            batch = batcher.put([record(10 * turn + number)])
        batch.waiters.append((Waiter(log), [turn]))
        await asyncio.sleep(0)
    await batcher.drain()
    assert [token[0] for _, token in log] == list(range(20))
    assert {word for word, _ in log} == {"stored"}
    assert await stored_sequences(client) == list(range(200))
    assert batcher.batches_total < 20, "batches did not gather while others were under way"


async def test_a_batch_never_outgrows_what_nats_accepts(client: Client) -> None:
    await ensure(client.jetstream(), Topology())
    batcher = Batcher(Publisher(client.jetstream()), subjects.up(0))
    await asyncio.gather(*(batcher.add([record(n)]) for n in range(3 * RECORDS_MAX)))
    assert batcher.batches_total >= 3
    assert batcher.stored_total == 3 * RECORDS_MAX
    assert batcher.backlog == 0


async def test_a_full_stream_refuses_and_keeps_what_it_has(client: Client) -> None:
    await ensure(client.jetstream(), Topology(uplink_bytes_max=200_000))
    batcher = Batcher(Publisher(client.jetstream()), subjects.up(0))
    kept, refused = 0, 0
    for number in range(40):
        try:
            await batcher.add([record(number, size=20_000)])
            kept += 1
        except StreamFull:
            refused += 1
    assert kept > 0
    assert refused > 0
    assert await stored_sequences(client) == list(range(kept))


async def test_nothing_is_stored_at_once(client: Client) -> None:
    await ensure(client.jetstream(), Topology())
    batcher = Batcher(Publisher(client.jetstream()), subjects.up(0))
    async with asyncio.timeout(10):
        await batcher.add([])
        await batcher.drain()
    assert await stored_sequences(client) == []


async def test_a_submission_larger_than_a_batch_is_stored_whole(client: Client) -> None:
    await ensure(client.jetstream(), Topology())
    batcher = Batcher(Publisher(client.jetstream()), subjects.up(0))
    await batcher.add([record(n) for n in range(2 * RECORDS_MAX + 5)])
    assert await stored_sequences(client) == list(range(2 * RECORDS_MAX + 5))
    assert batcher.batches_total == 3


class Watched(Publisher):
    """Counts how many are under way at once."""

    now = most = 0

    async def publish(self, subject: str, payload: bytes, *, message_id: str | None = None) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().publish(subject, payload, message_id=message_id)
        finally:
            self.now -= 1


@pytest.mark.parametrize("allowed", [1, IN_FLIGHT_MAX])
async def test_however_much_comes_no_more_batches_are_under_way_than_allowed(client: Client, allowed: int) -> None:
    await ensure(client.jetstream(), Topology())
    publisher = Watched(client.jetstream())
    batcher = Batcher(publisher, subjects.control(0), in_flight_max=allowed)
    await asyncio.gather(*(batcher.add([record(n)]) for n in range(6 * RECORDS_MAX)))
    assert publisher.most == allowed
    assert await stored_sequences(client) == list(range(6 * RECORDS_MAX))


async def test_a_submission_of_large_records_goes_in_messages_that_nats_takes(client: Client) -> None:
    await ensure(client.jetstream(), Topology())
    batcher = Batcher(Publisher(client.jetstream()), subjects.up(0))
    size = 60_000
    first, second = batcher.add([record(0)]), batcher.add([record(n, size) for n in range(1, 41)])
    await asyncio.gather(first, second)
    assert await stored_sequences(client) == list(range(41))
    assert max(map(len, await stored_batches(client))) < BYTES_MAX + 2 * size


async def test_what_waits_tells_the_callers_to_stop(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await ensure(client.jetstream(), Topology())
    batcher = Batcher(Publisher(client.jetstream()), subjects.up(0))
    many = [batcher.add([record(n)]) for n in range(BACKLOG_MAX + 2 * RECORDS_MAX)]
    assert batcher.full
    await asyncio.gather(*many)
    assert not batcher.full
    assert batcher.backlog == 0

    monkeypatch.setattr(batching, "BACKLOG_BYTES_MAX", 4 * BYTES_MAX)
    large = [batcher.add([record(n, BYTES_MAX // 4)]) for n in range(24)]
    assert batcher.full, "few records, but large ones"
    await asyncio.gather(*large)
    assert not batcher.full


async def test_a_waiter_that_fails_keeps_nobody_else_waiting(client: Client) -> None:
    class Broken:
        def stored(self, token: list[int]) -> None:
            raise RuntimeError("this connection is in a bad state")

        def refused(self, token: list[int], error: DomainError) -> None:
            raise AssertionError

    await ensure(client.jetstream(), Topology())
    batcher = Batcher(Publisher(client.jetstream()), subjects.up(0))
    batch = batcher.put([record(1)])
    batch.waiters.append((Broken(), []))
    log: list[tuple[str, list[int]]] = []
    batch.waiters.append((Waiter(log), [1]))
    async with asyncio.timeout(10):
        await batcher.add([record(2)])
        await batcher.drain()
    assert log == [("stored", [1])]

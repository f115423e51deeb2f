"""Group commit against a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client

from headwater.errors import DomainError
from headwater.ingest.ports import StreamFull
from headwater.stream import subjects
from headwater.stream.batcher import RECORDS_MAX, Batcher
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


async def stored_sequences(client: Client) -> list[int]:
    jetstream = client.jetstream()
    info = await jetstream.stream_info(UPLINK_STREAM)
    found = []
    for sequence in range(1, info.state.last_seq + 1):
        message = await jetstream.get_msg(UPLINK_STREAM, sequence)
        assert message.data is not None
        found += [r.sequence for r in decode_batch(message.data)]
    return found


async def test_what_comes_in_one_turn_is_one_message_and_everything_is_acknowledged_in_order(client: Client) -> None:
    await ensure(client.jetstream(), Topology())
    batcher = Batcher(Publisher(client.jetstream()), subjects.up(0))
    log: list[tuple[str, list[int]]] = []
    for turn in range(20):
        for number in range(10):
            batcher.append(batcher.batch_for(1), record(10 * turn + number))
        batcher.open.waiters.append((Waiter(log), [turn]))
        batcher.wake()
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


async def test_a_submission_larger_than_a_batch_is_stored_whole(client: Client) -> None:
    await ensure(client.jetstream(), Topology())
    batcher = Batcher(Publisher(client.jetstream()), subjects.up(0))
    await batcher.add([record(n) for n in range(2 * RECORDS_MAX + 5)])
    assert await stored_sequences(client) == list(range(2 * RECORDS_MAX + 5))
    assert batcher.batches_total == 3

"""What the store's writer cannot use, as it lies in the dead letters. The presence consumer's: test_presence.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from tests.support.engines import DatabaseURLs
from tests.support.gateways import add_device
from tests.support.tenants import TenantFactory

from headwater.clock import SystemClock
from headwater.database.lane_session import open_lane_session
from headwater.database.session import open_pool
from headwater.store.dead_letters import LETTER_BYTES_MAX, PLATFORM, RECORD_CONTENT_TYPE
from headwater.store.partitions import PartitionKeeper
from headwater.store.writer import StoreCounts, StoreParts, StoreWork
from headwater.store.writer_devices import KnownDevices
from headwater.stream import subjects
from headwater.stream.envelope import DeadLetter, Kind, Record, decode_batch, decode_dead_letter, encode_batch
from headwater.stream.position import read_position
from headwater.stream.reader import Delivery

Letters = dict[tuple[str, str], DeadLetter]
"""By subject and message id."""


class OneLane:
    async def lowest_pending(self, lane: int) -> int | None:
        return None


@pytest.fixture
def letters() -> Letters:
    return {}


@pytest.fixture
async def work(database_urls: DatabaseURLs, letters: Letters) -> AsyncIterator[StoreWork]:
    async def keep(subject: str, payload: bytes, message_id: str) -> object:
        letters[subject, message_id] = decode_dead_letter(payload)
        return None

    pool = await open_pool(database_urls.writer, size_max=1, application_name="test")
    session = await open_lane_session(database_urls.writer, "test")
    await read_position(session, "store", 3)
    parts = StoreParts(KnownDevices(), PartitionKeeper(pool, SystemClock()), OneLane(), keep, StoreCounts())
    yield StoreWork(session, 3, parts)
    session.terminate()
    pool.terminate()


async def test_letters_say_whose_they_are_where_they_stood_and_what_they_hold(
    work: StoreWork, letters: Letters, database_urls: DatabaseURLs, tenant_factory: TenantFactory
) -> None:
    device = await add_device(database_urls.owner, await tenant_factory())
    now = SystemClock().now_us()

    def record(kind: int, tenant: UUID = device.tenant_id) -> Record:
        return Record(tenant.bytes, device.id.bytes, kind, now, now, 1, 1, {"t": 1.5})

    unknown, nobodys = record(77), record(Kind.TELEMETRY)
    nobodys.tenant = b"short"
    huge = b"garbage" * LETTER_BYTES_MAX
    batches = [encode_batch([record(Kind.TELEMETRY), unknown, nobodys]), huge]
    deliveries = [Delivery(sequence, batch) for sequence, batch in enumerate(batches, 8)]
    assert await work.apply(deliveries, position=0, offset=100) == 2

    tenants, platforms = subjects.dead(device.tenant_id), subjects.dead(PLATFORM)
    assert {place: letter.code for place, letter in letters.items()} == {
        (tenants, "store-3-108-1"): "record.unknown_kind",
        (platforms, "store-3-108-2"): "record.not_storable",
        (platforms, "store-3-9"): "record.undecodable",
    }
    refused, cut = letters[tenants, "store-3-108-1"], letters[platforms, "store-3-9"]
    assert decode_batch(refused.payload) == [unknown]
    assert (refused.device, refused.source, refused.topic) == (device.id.bytes, "store", "hw.up.3")
    assert (refused.content_type, refused.received_at) == (RECORD_CONTENT_TYPE, now)
    assert cut.payload == huge[:LETTER_BYTES_MAX]

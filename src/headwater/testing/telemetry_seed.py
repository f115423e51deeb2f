"""A tenant's telemetry of days, stored in a minute: what queries are measured on.

It goes the way of real records from the stream on, through the store's own writer, so its rows, latest values, positions
and ledgers are those of production; the roll-ups find it where they find everything. Only the stream is left out: sequences
continue behind what the database has seen.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from headwater.clock import SystemClock
from headwater.database.lane_session import open_lane_session
from headwater.database.session import Database, open_pool
from headwater.ids import uuid7
from headwater.store.partitions import PartitionKeeper
from headwater.store.writer import CONSUMER, StoreCounts, StoreParts, StoreWork
from headwater.store.writer_devices import KnownDevices
from headwater.stream.envelope import Kind, Record, encode_batch
from headwater.stream.position import read_position
from headwater.stream.reader import Delivery

METRICS = ("temperature", "humidity", "voltage", "packets", "door_open")
"""three floats, an integer, a boolean"""
BATCH_RECORDS = 500
"""As a busy gateway's group commit."""
ROUND_BATCHES = 16
"""Of one transaction."""


class URLs(Protocol):
    """of one database: the plain role's and the writer's"""

    @property
    def app(self) -> str: ...
    @property
    def writer(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Seeded:
    """start_us, end_us: all times of observation lie in [start, end). points: single values."""

    devices: list[UUID]
    messages: int
    points: int
    start_us: int
    end_us: int


async def seed(
    urls: URLs, tenant_id: UUID, devices: int, messages: int, *, start_us: int, end_us: int, lane: int = 0
) -> Seeded:
    """Make devices and store `messages` messages of theirs, evenly over time, each with METRICS.

    The tenant must have a profile. Raises ValueError where a device would have no message.
    """
    if not 0 < devices <= messages or start_us >= end_us:
        raise ValueError("at least one message for each device, in a range that is not empty")
    ids = await _make_devices(urls.app, tenant_id, devices)
    session = await open_lane_session(urls.writer, "headwater seed", synchronous_commit=False)
    keeper = await open_pool(urls.writer, size_max=1, application_name="headwater seed partitions")
    try:
        work = StoreWork(session, lane, _parts(keeper))
        position = await read_position(session, CONSUMER, lane)
        # Behind every lane: a sequence of the stream is never given twice.
        sequence = int(await session.fetchval("SELECT max(sequence) FROM ingest_position"))
        batches = _batches(tenant_id, ids, messages, start_us, end_us)
        while pieces := list(itertools.islice(batches, ROUND_BATCHES)):
            waiting = [Delivery(sequence + place, piece) for place, piece in enumerate(pieces, 1)]
            sequence += len(pieces)
            while waiting:
                done = await work.apply(waiting, position=position, offset=0)
                position = waiting[done - 1].sequence
                del waiting[:done]
    finally:
        session.terminate()
        keeper.terminate()
    return Seeded(ids, messages, messages * len(METRICS), start_us, end_us)


def _batches(tenant_id: UUID, devices: list[UUID], messages: int, start_us: int, end_us: int) -> Iterator[bytes]:
    """In the order of time, every device in its turn."""
    rng = random.Random(7)  # noqa: S311  # the same telemetry each time, so that runs can be compared
    tenant, ids = tenant_id.bytes, [device.bytes for device in devices]
    records: list[Record] = []
    for number in range(messages):
        at = start_us + (end_us - start_us) * number // messages
        body: dict[str, Any] = {
            "temperature": round(20 + 5 * math.sin(at / 1.4e10) + rng.random(), 2),
            "humidity": round(50 + 20 * rng.random(), 1),
            "voltage": round(3.2 + 0.4 * rng.random(), 3),
            "packets": number // len(ids),
            "door_open": rng.random() < 0.1,
        }
        records.append(Record(tenant, ids[number % len(ids)], Kind.TELEMETRY, at, at, 1, number, body))
        if len(records) == BATCH_RECORDS:
            yield encode_batch(records)
            records.clear()
    if records:
        yield encode_batch(records)


async def _make_devices(url: str, tenant_id: UUID, count: int) -> list[UUID]:
    ids = sorted(uuid7() for _ in range(count))
    pool = await open_pool(url, size_max=1, application_name="headwater seed devices")
    try:
        async with Database(pool).tenant_session(tenant_id) as connection:
            profile = await connection.fetchval("SELECT id FROM profile ORDER BY name LIMIT 1")
            await connection.execute(
                "INSERT INTO device (id, tenant_id, external_id, profile_id)"
                " SELECT id, $2, 'seed-' || id, $3 FROM unnest($1::uuid[]) AS made(id)",
                ids, tenant_id, profile,
            )  # fmt: skip
    finally:
        pool.terminate()
    return ids


def _parts(keeper: Any) -> StoreParts:
    return StoreParts(KnownDevices(), PartitionKeeper(keeper, SystemClock()), _OneLane(), _refuse, StoreCounts())


class _OneLane:
    """No record here is a repetition, so no other lane is waited for."""

    async def lowest_pending(self, lane: int) -> int | None:
        return None


async def _refuse(subject: str, payload: bytes, message_id: str) -> object:
    raise ValueError(f"the store refused a record of the seed: {message_id}")

"""A gateway that died leaves wills and sessions behind; a worker publishes the first and closes the others, once."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import pytest
from nats.aio.client import Client

from headwater.ids import uuid7
from headwater.stream import subjects
from headwater.stream.direct_get import read_from
from headwater.stream.envelope import (
    DeadLetter,
    Flag,
    Kind,
    Message,
    Record,
    decode_batch,
    decode_dead_letter,
)
from headwater.stream.message_log import MessageLog
from headwater.stream.publisher import CorePublisher, Publisher
from headwater.stream.retained_store import RetainedStore
from headwater.stream.session_reaper import LOOKS, SessionReaper
from headwater.stream.session_store import SessionRecord, SessionStore, StoredWill
from headwater.stream.topology import DEAD_STREAM, UPLINK_STREAM, Topology
from headwater.stream.uplink import StreamUplink

TENANT = uuid7()


class Rows:
    """Which gateways have a row."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    async def add(self, gateway: UUID) -> None:
        await self._owner.execute("INSERT INTO gateway_instance (id, name) VALUES ($1, 'one')", gateway)

    async def remove(self, gateway: UUID) -> None:
        await self._owner.execute("DELETE FROM gateway_instance WHERE id = $1", gateway)


@pytest.fixture
def rows(owner: Any) -> Rows:
    return Rows(owner)


@pytest.fixture
def store(client: Client) -> SessionStore:
    return SessionStore(client)


def reaper_of(client: Client, store: SessionStore) -> SessionReaper:
    publisher = Publisher(client.jetstream())
    uplink = StreamUplink(publisher, Topology(), 0)
    return SessionReaper(store, publisher, CorePublisher(client), RetainedStore(client), uplink)


def record_of(owner: UUID, client_id: str, **fields: Any) -> SessionRecord:
    given: dict[str, Any] = {"connected": True, "expiry_s": 600} | fields
    return SessionRecord(TENANT.bytes, client_id, uuid7().bytes, owner.bytes, **given)


def will(topic: str, **fields: Any) -> StoredWill:
    return StoredWill(Message(topic, b"gone", 1, retain=fields.pop("retain", False)), **fields)


async def published(client: Client) -> list[Message]:
    return [message for batch in await MessageLog(client).read(TENANT, 1, 100) for message in batch.messages]


async def test_wills_of_a_dead_gateway(client: Client, store: SessionStore, rows: Rows, session: Any) -> None:
    dead, alive = uuid7(), uuid7()
    await rows.add(dead)
    await rows.add(alive)
    await store.save(record_of(dead, "now", will=will("w/now", retain=True), expiry_s=0), 0)
    await store.save(record_of(dead, "later", will=will("w/later", delay_s=600)), 0)
    await store.save(record_of(dead, "silent"), 0)
    await store.save(record_of(alive, "elsewhere", will=will("w/elsewhere")), 0)
    reaper = reaper_of(client, store)
    await reaper.perform(session)
    await rows.remove(dead)
    for _ in range(LOOKS - 1):
        await reaper.perform(session)
    assert await published(client) == [], "it may only be frozen"
    await reaper.perform(session)
    await reaper.perform(session)
    assert [message.topic for message in await published(client)] == ["w/now"]
    retained = await RetainedStore(client).find(TENANT, "w/now")
    assert retained is not None
    assert retained.payload == b"gone"
    assert (await store.find(TENANT, "now")).record is None
    connected, behind = {}, {}
    for client_id in ("later", "silent", "elsewhere"):
        record = (await store.find(TENANT, client_id)).record
        assert record is not None
        connected[client_id], behind[client_id] = record.connected, record.is_behind
    assert connected == {"later": False, "silent": False, "elsewhere": True}
    assert behind == {"later": True, "silent": True, "elsewhere": False}


async def stored(client: Client, subject: str) -> bytes:
    """The only message of the subject."""
    (message,) = await read_from(client, UPLINK_STREAM if subject == subjects.up(0) else DEAD_STREAM, subject, 1, 10)
    return message.data


async def test_wills_on_topics_of_a_devices_own_data(client: Client, store: SessionStore, session: Any) -> None:
    before = time.time_ns() // 1000
    device = uuid7().bytes
    records = [
        Record(TENANT.bytes, device, Kind.TELEMETRY, observed_at, 0, 0, place, {"level": 1.0})
        for place, observed_at in enumerate((0, 17))
    ]
    letter = DeadLetter(device, "mqtt", "d/x/telemetry", "payload.malformed", "no", 0, b"x")
    await store.save(record_of(uuid7(), "good", will=will("d/x/telemetry", records=records)), 0)
    await store.save(record_of(uuid7(), "bad", will=will("d/x/telemetry", letter=letter)), 0)
    reaper = reaper_of(client, store)
    for _ in range(LOOKS):
        await reaper.perform(session)
    assert reaper.wills_total == 2
    own, given = decode_batch(await stored(client, subjects.up(0)))
    assert own.observed_at == own.received_at >= before
    assert (given.observed_at, given.flags, given.body) == (17, Flag.RESENT, {"level": 1.0})
    assert own.epoch == given.epoch >= before
    kept = decode_dead_letter(await stored(client, subjects.dead(TENANT)))
    assert (kept.code, kept.payload) == (letter.code, letter.payload)
    assert kept.received_at >= before
    assert await published(client) == []


async def test_a_will_that_is_due_survives_the_worker_too(client: Client, store: SessionStore, session: Any) -> None:
    await store.save(record_of(uuid7(), "later", connected=False, will=will("w"), will_at=1), 0)
    for _ in range(2):
        reaper = reaper_of(client, store)
        for _ in range(LOOKS + 1):
            await reaper.perform(session)
        assert [message.topic for message in await published(client)] == ["w"]


async def test_a_client_that_came_back_keeps_its_will(client: Client, store: SessionStore, rows: Rows, session: Any) -> None:
    alive = uuid7()
    await rows.add(alive)
    revision = await store.save(record_of(uuid7(), "back", will=will("w", delay_s=1)), 0)
    reaper = reaper_of(client, store)
    for _ in range(LOOKS):
        await reaper.perform(session)
    found = await store.find(TENANT, "back")
    assert found.revision > revision
    await store.save(record_of(alive, "back"), found.revision)
    await asyncio.sleep(1.1)  # the delay
    await reaper.perform(session)
    assert await published(client) == []

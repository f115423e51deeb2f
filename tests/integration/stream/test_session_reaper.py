"""A gateway that died leaves wills and sessions behind; a worker publishes the first and closes the others, once."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from nats.aio.client import Client

from headwater.ids import uuid7
from headwater.stream.envelope import Message
from headwater.stream.message_log import MessageLog
from headwater.stream.publisher import CorePublisher, Publisher
from headwater.stream.retained_store import RetainedStore
from headwater.stream.session_reaper import LOOKS, SessionReaper
from headwater.stream.session_store import SessionRecord, SessionStore, StoredWill

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
    return SessionReaper(store, Publisher(client.jetstream()), CorePublisher(client), RetainedStore(client))


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

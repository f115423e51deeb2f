"""Timelines on real engines: from the stream to rows, to whom they are shown, and how they go again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import nats
import pytest
from nats.aio.client import Client
from tests.integration.store.fleet_model import clock_at
from tests.support.engines import DatabaseURLs
from tests.support.gateways import Device, add_device, eventually
from tests.support.tenants import TenantFactory

from headwater.clock import to_us
from headwater.database.session import Database, open_pool
from headwater.ids import uuid7
from headwater.store import timeline as module
from headwater.store.removal import RemovalDuty
from headwater.store.timeline import TimelineCounts, TimelineWriter
from headwater.store.timeline_query import Place, TimelineFilter, Timelines
from headwater.store.timeline_upkeep import TimelineDuty
from headwater.stream import subjects, work_queue
from headwater.stream.publisher import Publisher
from headwater.stream.timeline import Event, TimelineEntry, encode_entries
from headwater.stream.topology import TIMELINE_STREAM, Topology, ensure
from headwater.stream.work_queue import WorkQueue
from headwater.tenancy.scope import TenantScope, system_scope

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


@dataclass
class World:
    urls: DatabaseURLs
    owner: Any
    pool: Any
    client: Client
    publisher: Publisher
    timelines: Timelines
    tenants: TenantFactory
    counts: TimelineCounts = field(default_factory=TimelineCounts)

    async def device(self, external_id: str = "", tenant: UUID | None = None) -> Device:
        return await add_device(self.urls.owner, tenant or await self.tenants(), external_id)

    def writer(self, **options: Any) -> TimelineWriter:
        queue = WorkQueue(self.client, stream=TIMELINE_STREAM, subject=subjects.TIMELINE, name="timeline")
        return TimelineWriter(queue, self.pool, self.counts, **options)

    async def say(self, *entries: TimelineEntry) -> None:
        await self.publisher.publish(subjects.TIMELINE, encode_entries(list(entries)))

    async def waiting(self) -> int:
        return (await self.client.jetstream().stream_info(TIMELINE_STREAM)).state.messages

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        running = asyncio.create_task(self.writer().run(stop))
        yield
        stop.set()
        await running

    async def done(self) -> None:
        async def empty() -> bool:
            return await self.waiting() == 0

        await eventually(empty, "everything written down")

    async def rows(self, table: str = "device_timeline") -> list[Any]:
        found: list[Any] = await self.owner.fetch(f"SELECT * FROM {table} ORDER BY at, id")
        return found

    async def shown(self, device: Device, **wanted: Any) -> list[str]:
        scope = system_scope(device.tenant_id, "test")
        return [one.summary for one in await self.timelines.of_device(scope, device.id, TimelineFilter(**wanted), None, 100)]


@pytest.fixture
async def world(
    database_urls: DatabaseURLs, nats_url: str, database: Database, tenant_factory: TenantFactory
) -> AsyncIterator[World]:
    owner = await asyncpg.connect(database_urls.owner, server_settings={"search_path": "headwater", "timezone": "UTC"})
    pool = await open_pool(database_urls.writer, size_max=2, application_name="test")
    operator = await open_pool(database_urls.operator, size_max=1, application_name="test")
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    await ensure(jetstream, Topology(uplink_bytes_max=1 << 26, dead_bytes_max=1 << 26))
    yield World(
        database_urls, owner, pool, client, Publisher(jetstream), Timelines(database, operator), tenant_factory
    )  # fmt: skip
    await client.close()
    pool.terminate()
    operator.terminate()
    await owner.close()


def happening(device: Device | None, /, event: Event = Event.CONNECTED, seconds: float = 0, **fields: Any) -> TimelineEntry:
    of = {} if device is None else {"tenant": device.tenant_id.bytes, "device": device.id.bytes}
    at = to_us(NOW + timedelta(seconds=seconds))
    return TimelineEntry(**{"id": uuid7().bytes, "at": at, "event": event.value} | of | fields)


def attempt(**fields: Any) -> TimelineEntry:
    return happening(None, Event.AUTHENTICATION_FAILED, code="device.refused", address="203.0.113.7", **fields)


async def test_entries_become_a_device_s_timeline_newest_first(world: World) -> None:
    device = await world.device()
    async with world.working():
        await world.say(
            happening(device, protocol="mqtt/5", address="203.0.113.7"),
            happening(device, Event.TOPIC_DENIED, 1, detail="a/b", count=1_234),
        )
        await world.say(happening(device, Event.DISCONNECTED, 2, code="keep_alive_timeout", detail="nothing for 90 s"))
        await world.done()
    assert await world.shown(device) == [
        "Disconnected: silent for longer than its keep-alive allows (nothing for 90 s)",
        "Topic denied: a/b (1,234 times)",
        "Connected over MQTT 5, from 203.0.113.7",
    ]
    assert await world.shown(device, event="topic.") == ["Topic denied: a/b (1,234 times)"]
    assert len(await world.shown(device, start=NOW + timedelta(seconds=1), end=NOW + timedelta(seconds=2))) == 1
    assert (world.counts.entries, world.counts.dropped, world.counts.strangers, world.counts.bad) == (3, 0, 0, 0)


async def test_each_entry_is_written_once_however_often_it_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies between its commit and the acknowledgement, and several workers at once."""
    monkeypatch.setattr(work_queue, "ACK_WAIT_S", 0.2)
    device = await world.device()
    entries = [happening(device, seconds=n) for n in range(20)]
    for entry in entries:
        await world.say(entry)
    dying = WorkQueue(world.client, stream=TIMELINE_STREAM, subject=subjects.TIMELINE, name="timeline")
    await dying.open()
    taken = await dying.take(messages_max=5, wait_s=5)
    await world.writer().write(list(world.writer()._read(taken)))
    await dying.close()
    assert len(await world.rows()) == len(taken) > 0
    async with world.working(), world.working():
        await world.done()
    assert [row["id"].bytes for row in await world.rows()] == [entry.id for entry in entries]


async def test_pages_are_total(world: World) -> None:
    device = await world.device()
    await world.writer().write([happening(device, seconds=n // 3) for n in range(10)])
    scope = system_scope(device.tenant_id, "test")
    place: Place | None = None
    seen: list[Any] = []
    while True:
        page = await world.timelines.of_device(scope, device.id, TimelineFilter(), place, 3)
        seen += page[:3]
        if len(page) <= 3:
            break
        place = Place(page[2].at, page[2].id)
    assert [one.id for one in seen] == [row["id"] for row in reversed(await world.rows())]


async def test_whom_an_attempt_means(world: World) -> None:
    device = await world.device("thermometer-1")
    other = await world.device("thermometer-2")
    claims: dict[str, dict[str, Any]] = {
        "credential": {"credential": device.credential_id.bytes, "name": str(other.id), "client_id": "thermometer-2"},
        "user_name": {"credential": uuid7().bytes, "name": str(device.id), "client_id": "thermometer-2"},
        "client_id": {"name": "nobody", "client_id": "thermometer-1"},
    }
    await world.writer().write([attempt(seconds=n, **claim) for n, claim in enumerate(claims.values())])
    rows = await world.rows()
    assert [(row["device_id"], row["tenant_id"], row["identified_by"], row["failed"]) for row in rows] == [
        (device.id, device.tenant_id, by, True) for by in claims
    ]
    scope = system_scope(device.tenant_id, "test")
    assert len(await world.timelines.failed(scope, TimelineFilter(), None, 10)) == 3
    assert await world.timelines.failed(system_scope(other.tenant_id, "test"), TimelineFilter(), None, 10) == []
    assert await world.rows("stranger_attempt") == []


async def test_an_external_id_that_two_tenants_have_tells_neither(world: World) -> None:
    for _ in range(2):
        await world.device("sensor-1")
    await world.writer().write([attempt(client_id="sensor-1"), attempt(name="sensor-1")])
    assert await world.rows() == []
    assert len(await world.rows("stranger_attempt")) == 2


async def test_strangers_are_for_the_operator_by_address(world: World) -> None:
    refused = {"code": "tls.unknown_ca", "detail": "the certificate is not trusted", "listener": "mqtts"}
    await world.writer().write([
        happening(None, Event.REFUSED, address="203.0.113.7", **refused),
        happening(None, Event.REFUSED, 1, address="2001:db8::1", **refused),
        attempt(name="nobody", client_id="c"),
    ])  # fmt: skip
    found = await world.timelines.of_strangers(TimelineFilter(address="203.0.113.7"), None, 10)
    assert {(one.event, one.address) for one in found} == {
        ("connection.refused_before_authentication", "203.0.113.7"), ("authentication.failed", "203.0.113.7"),
    }  # fmt: skip
    assert len(await world.timelines.of_strangers(TimelineFilter(event="connection."), None, 10)) == 2


async def test_a_group_sees_its_devices_only(world: World) -> None:
    tenant = await world.tenants()
    near, far = await world.device(tenant=tenant), await world.device(tenant=tenant)
    group = uuid7()
    await world.owner.execute(
        "INSERT INTO device_group (id, tenant_id, name, kind) VALUES ($1, $2, 'g', 'static')", group, tenant
    )
    await world.owner.execute(
        "INSERT INTO device_group_member (tenant_id, group_id, device_id) VALUES ($1, $2, $3)", tenant, group, near.id
    )
    await world.writer().write([happening(one, Event.AUTHENTICATION_FAILED) for one in (near, far)])
    scope = TenantScope(tenant, "token:x", frozenset({"device:read"}), group_id=group)
    found = await world.timelines.failed(scope, TimelineFilter(), None, 10)
    assert [one.device_id for one in found] == [near.id]


async def test_a_device_keeps_its_newest_entries(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEVICE_ROWS_MAX", 10)
    noisy, quiet = await world.device(), await world.device()
    writer = world.writer(trim_one_in=1)
    await writer.write([happening(quiet)])
    for start in range(0, 50, 5):
        await writer.write([happening(noisy, seconds=n) for n in range(start, start + 5)])
    kept = [row["at"] for row in await world.rows() if row["device_id"] == noisy.id]
    assert kept == [NOW + timedelta(seconds=n) for n in range(40, 50)]
    assert len(await world.shown(quiet)) == 1


async def test_old_entries_go_and_strangers_have_a_number(world: World) -> None:
    device = await world.device()
    clock = clock_at(NOW + timedelta(days=30))
    days = (-1, -0.001, 0.001, 1)
    await world.writer().write([happening(device, seconds=day * 86_400) for day in days])
    await world.writer().write([attempt(), *(attempt(at=to_us(NOW + timedelta(days=1, seconds=n))) for n in range(5))])
    async with world.pool.acquire() as session:
        assert await TimelineDuty(clock, strangers_max=3).perform(session) is False
    assert [row["at"] >= NOW for row in await world.rows()] == [True, True]
    assert [row["at"].second for row in await world.rows("stranger_attempt")] == [2, 3, 4]


async def test_a_deleted_device_takes_its_timeline_along(world: World, database: Database) -> None:
    tenant = await world.tenants()
    gone, stays = await world.device(tenant=tenant), await world.device(tenant=tenant)
    await world.writer().write([happening(one) for one in (gone, stays)])
    await world.owner.execute("DELETE FROM device WHERE id = $1", gone.id)
    # What was on its way then is dropped.
    await world.writer().write([happening(gone)])
    duty = RemovalDuty(clock_at(datetime.now(UTC)))
    async with world.pool.acquire() as session:
        while await duty.perform(session):
            pass
    assert [row["device_id"] for row in await world.rows()] == [stays.id]
    assert world.counts.dropped == 1


async def test_what_cannot_be_read_costs_nobody_else_anything(world: World) -> None:
    device = await world.device()
    bad: Sequence[TimelineEntry] = (
        happening(device, id=b"short"),
        happening(device, at=1 << 62),
        happening(device, count=0),
        happening(device, device=b""),
        happening(device, gateway=b"x"),
    )
    async with world.working():
        await world.publisher.publish(subjects.TIMELINE, b"garbage")
        await world.say(*bad, happening(device, detail="a\0b\n", client_id="x" * 1_000))
        await world.done()
    [row] = await world.rows()
    assert (row["detail"], len(row["client_id"])) == ("a\ufffdb\n", module.TEXT_LENGTH_MAX)
    assert world.counts.bad == len(bad) + 1

"""Presence on real engines: the consumer behind a stream, the reaper, and a gateway that freezes, thaws and dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import nats
import nats.js.errors
import pytest
from nats.aio.client import Client
from tests.support.clock import FakeClock
from tests.support.engines import DatabaseURLs
from tests.support.gateways import Device, Gateway, add_device, eventually
from tests.support.tenants import TenantFactory

from headwater.app.engines.ports import free_port
from headwater.database.lane_session import open_lane_session
from headwater.database.session import Database
from headwater.device.devices import DeviceService
from headwater.device.presence import ALIVE_S, HEARTBEAT_S, Ended
from headwater.ids import uuid7
from headwater.store import presence_reaper
from headwater.store.columns import TIME_MAX_US
from headwater.store.dead_letters import PLATFORM
from headwater.store.presence import PresenceCounts, PresenceParts, PresenceWork
from headwater.store.presence_reaper import PresenceReaper
from headwater.store.presence_state import merge, read
from headwater.store.writer_attributes import merge_attributes
from headwater.store.writer_batch import Attributes, Leaf
from headwater.store.writer_devices import activate
from headwater.stream import subjects
from headwater.stream.consumer import LaneConsumer
from headwater.stream.envelope import DeadLetter, Kind, Record, decode_batch, decode_dead_letter, encode_batch
from headwater.stream.position import PositionLost
from headwater.stream.publisher import Publisher
from headwater.stream.reader import Delivery
from headwater.stream.topology import DEAD_STREAM, PRESENCE, UPLINK_STREAM, Topology, ensure
from headwater.stream.uplink import StreamUplink
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.scope import ALL_PERMISSIONS, TenantScope

TOPOLOGY = Topology()


@dataclass
class World:
    """An installation without a gateway: what one would say is said by the test."""

    urls: DatabaseURLs
    owner: Any
    client: Client
    publisher: Publisher
    uplink: StreamUplink
    tenants: TenantFactory
    counts: PresenceCounts = field(default_factory=PresenceCounts)
    gateway: UUID = field(default_factory=uuid7)

    async def device(self, tenant: UUID | None = None) -> Device:
        return await add_device(self.urls.owner, tenant or await self.tenants())

    async def say(self, *records: Record) -> None:
        await asyncio.gather(*map(self.uplink.control, records))

    async def row(self, device: Device) -> dict[str, Any]:
        found = await self.owner.fetchrow(
            "SELECT connected, epoch, sequence, reason, gateway_id, protocol, version FROM device_state"
            " WHERE device_id = $1",
            device.id,
        )
        return dict(found) if found else {}

    async def shown(self, device: Device, **wanted: object) -> dict[str, Any]:
        """The row, once it is like that."""

        async def like_that() -> dict[str, Any] | None:
            row = await self.row(device)
            return row if row and all(row[name] == value for name, value in wanted.items()) else None

        return await eventually(like_that, f"{wanted}, but {await self.row(device)}")

    async def caught_up(self) -> None:
        """The consumer has done everything that is in the stream now."""
        jetstream = self.client.jetstream()
        wanted = {}
        for partition in range(TOPOLOGY.partitions):
            with contextlib.suppress(nats.js.errors.NotFoundError):
                wanted[partition] = (await jetstream.get_last_msg(UPLINK_STREAM, subjects.control(partition))).seq

        async def done() -> bool:
            rows = await self.owner.fetch("SELECT lane, sequence FROM ingest_position WHERE consumer = 'presence'")
            positions = {row["lane"]: row["sequence"] for row in rows}
            return all(positions.get(partition, 0) >= sequence for partition, sequence in wanted.items())

        await eventually(done, "the consumer's positions")

    async def said(self) -> list[Record]:
        """Everything on hw.ctl, in order."""
        jetstream = self.client.jetstream()
        found = []
        for sequence in range(1, (await jetstream.stream_info(UPLINK_STREAM)).state.last_seq + 1):
            message = await jetstream.get_msg(UPLINK_STREAM, sequence)
            if (message.subject or "").startswith(subjects.CONTROL):
                with contextlib.suppress(ValueError):
                    found += decode_batch(message.data or b"")
        return found

    async def dead_letters(self) -> list[DeadLetter]:
        jetstream = self.client.jetstream()
        last = (await jetstream.stream_info(DEAD_STREAM)).state.last_seq
        messages = [await jetstream.get_msg(DEAD_STREAM, sequence) for sequence in range(1, last + 1)]
        assert {message.subject for message in messages} <= {subjects.dead(PLATFORM)}
        return [decode_dead_letter(message.data or b"") for message in messages]

    def parts(self) -> PresenceParts:
        async def publish_dead(subject: str, payload: bytes, message_id: str) -> object:
            return await self.publisher.publish(subject, payload, message_id=message_id)

        return PresenceParts(publish_dead, self.counts)

    async def gateway_row(self, gateway: UUID) -> None:
        """A heart-beat."""
        await self.owner.execute(
            "INSERT INTO gateway_instance (id, name) VALUES ($1, 'g') ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()",
            gateway,
        )

    async def gateways(self) -> set[UUID]:
        return {row["id"] for row in await self.owner.fetch("SELECT id FROM gateway_instance")}


def came(device: Device, gateway: UUID, epoch: int = 1, sequence: int = 0) -> Record:
    return _record(device, Kind.CONNECTED, epoch, sequence, {"gateway": gateway.hex, "protocol": "mqtt/5", "address": "a:1"})


def left(device: Device, gateway: UUID, epoch: int = 1, sequence: int = 1) -> Record:
    body = {"gateway": gateway.hex, "reason": "closed by the device"}
    return _record(device, Kind.DISCONNECTED, epoch, sequence, body)


def _record(device: Device, kind: int, epoch: int, sequence: int, body: dict[str, Any]) -> Record:
    now_us = time.time_ns() // 1000
    return Record(device.tenant_id.bytes, device.id.bytes, kind, now_us, now_us, epoch, sequence, body)


@pytest.fixture
async def world(database_urls: DatabaseURLs, nats_url: str, tenant_factory: TenantFactory) -> AsyncIterator[World]:
    client = await nats.connect(nats_url)
    await ensure(client.jetstream(), TOPOLOGY)
    publisher = Publisher(client.jetstream())
    owner = await asyncpg.connect(database_urls.owner, server_settings={"timezone": "UTC"})
    yield World(database_urls, owner, client, publisher, StreamUplink(publisher, TOPOLOGY, 0), tenant_factory)
    await owner.close()
    await client.close()


@pytest.fixture
async def consumer(world: World) -> AsyncIterator[LaneConsumer]:
    """As a worker runs it."""
    parts, stop = world.parts(), asyncio.Event()
    lanes = LaneConsumer(
        PRESENCE, TOPOLOGY.partitions, client=world.client,
        connect=partial(open_lane_session, world.urls.writer, synchronous_commit=False),
        make_work=lambda session, partition: PresenceWork(session, partition, parts), linger_s=0.0,
    )  # fmt: skip
    running = asyncio.create_task(lanes.run(stop))
    yield lanes
    stop.set()
    await running
    assert [state.errors for state in lanes.states.values()] == [0] * len(lanes.states)


@pytest.fixture
async def session(database_urls: DatabaseURLs) -> AsyncIterator[Any]:
    """A worker's."""
    connection = await open_lane_session(database_urls.writer, "test")
    yield connection
    connection.terminate()


# --- the consumer ---------------------------------------------------------------------------------------------------


async def test_a_device_comes_and_goes(world: World, consumer: LaneConsumer) -> None:
    device = await world.device()
    await world.say(came(device, world.gateway))
    row = await world.shown(device, connected=True)
    assert (row["epoch"], row["gateway_id"], row["protocol"], row["reason"]) == (1, world.gateway, "mqtt/5", "")
    assert await world.owner.fetchval("SELECT status FROM device WHERE id = $1", device.id) == "active"
    await world.say(left(device, world.gateway, sequence=7))
    row = await world.shown(device, connected=False)
    assert (row["epoch"], row["sequence"], row["reason"]) == (1, 7, "closed by the device")


async def test_the_last_word_of_an_older_connection_comes_too_late(world: World, consumer: LaneConsumer) -> None:
    device = await world.device()
    await world.say(came(device, world.gateway, epoch=5), left(device, world.gateway, epoch=4, sequence=99))
    await world.caught_up()
    assert (await world.row(device))["connected"] is True


async def test_thousands_in_any_order_end_as_each_device_ended(world: World, consumer: LaneConsumer) -> None:
    tenant = await world.tenants()
    devices = [await world.device(tenant) for _ in range(20)]
    order = random.Random(7)
    script, connected = [], {}
    for epoch in range(1, 40):
        for device in devices:
            script.append(came(device, world.gateway, epoch))
            connected[device.id] = True
            if order.random() < 0.5:
                script.append(left(device, world.gateway, epoch, order.randrange(1, 1000)))
                connected[device.id] = False
    await world.say(*script)
    await world.caught_up()
    rows = await world.owner.fetch("SELECT device_id, connected FROM device_state")
    assert {row["device_id"]: row["connected"] for row in rows} == connected


async def test_what_is_read_again_changes_nothing(world: World, session: Any) -> None:
    device = await world.device()
    deliveries = [
        Delivery(1, encode_batch([came(device, world.gateway)])),
        Delivery(2, encode_batch([left(device, world.gateway)])),
        Delivery(4, encode_batch([came(device, world.gateway, epoch=2)])),
    ]
    await session.execute("INSERT INTO ingest_position (consumer, lane) VALUES ('presence', 0)")
    work = PresenceWork(session, 0, world.parts())
    assert await work.apply(deliveries, position=0, offset=0) == 3
    before = await world.row(device)
    assert (before["connected"], before["epoch"]) == (True, 2)
    with pytest.raises(PositionLost):
        await work.apply(deliveries, position=0, offset=0)
    # A stream that was made anew may bring it all again, behind an offset.
    assert await work.apply(deliveries[:2], position=4, offset=10) == 2
    assert await world.row(device) == before
    assert await session.fetchval("SELECT sequence FROM ingest_position WHERE consumer = 'presence'") == 12


async def test_a_device_that_is_gone_or_anothers_leaves_no_row(world: World, consumer: LaneConsumer) -> None:
    gone, theirs, present = await world.device(), await world.device(), await world.device()
    await world.owner.execute("DELETE FROM device WHERE id = $1", gone.id)
    await world.owner.execute("INSERT INTO device_state (tenant_id, device_id) VALUES ($1, $2)", theirs.tenant_id, theirs.id)
    false = came(theirs, world.gateway)
    false.tenant = present.tenant_id.bytes
    await world.say(came(gone, world.gateway), false, came(present, world.gateway))
    await world.shown(present, connected=True)
    await world.caught_up()
    assert await world.row(gone) == {}
    assert (await world.row(theirs))["connected"] is False
    assert world.counts.dropped == 2
    assert await world.dead_letters() == []


async def test_a_device_that_is_deleted_meanwhile_is_dropped(world: World, session: Any) -> None:
    going, staying = await world.device(), await world.device()
    await session.execute("INSERT INTO ingest_position (consumer, lane) VALUES ('presence', 0)")
    batch = [Delivery(1, encode_batch([came(going, world.gateway), came(staying, world.gateway)]))]
    deletion = world.owner.transaction()
    await deletion.start()
    await world.owner.execute("DELETE FROM device WHERE id = $1", going.id)
    applied = asyncio.create_task(PresenceWork(session, 0, world.parts()).apply(batch, position=0, offset=0))
    await waiting_for_a_lock(world.urls, session)
    await deletion.commit()
    assert await applied == 1
    assert await world.row(going) == {}
    assert (await world.row(staying))["connected"] is True
    assert await world.dead_letters() == []


async def test_what_cannot_be_read_goes_to_the_platform_and_stops_nobody(world: World, consumer: LaneConsumer) -> None:
    device = await world.device()
    subject = subjects.control(subjects.partition_of(device.id.bytes, TOPOLOGY.partitions))
    no_gateway, another_time = came(device, world.gateway, 8), came(device, world.gateway, 9)
    no_gateway.body, another_time.observed_at = {}, TIME_MAX_US + 1
    undecodable = (
        b"", b"garbage", b"\x92\x02\x90", b"\x92\x01\xdd\xff\xff\xff\xff",
        encode_batch([came(device, world.gateway)])[:-3],
        encode_batch([_record(device, Kind.CONNECTED, 1, 0, {"a": 0})])[:-2] + b"\x91" * 100_000 + b"\x00\x00",
    )  # fmt: skip
    for payload in undecodable:
        await world.publisher.publish(subject, payload)
    mixed = [_record(device, 77, 3, 3, {"answer": 42}), no_gateway, came(device, world.gateway, 2), another_time]
    await world.publisher.publish(subject, encode_batch(mixed))
    row = await world.shown(device, connected=True)
    assert row["epoch"] == 2
    codes = [letter.code for letter in await world.dead_letters()]
    assert codes == ["record.undecodable"] * len(undecodable) + ["record.not_storable"] * 2
    assert world.counts.dead_letters == len(codes)


async def test_a_row_that_the_database_refuses_for_good_is_left_out(world: World, consumer: LaneConsumer) -> None:
    tenant = await world.tenants()
    devices = [await world.device(tenant) for _ in range(9)]
    refused = devices[5]
    await world.owner.execute(
        f"ALTER TABLE device_state ADD CONSTRAINT dislike CHECK (NOT connected OR device_id <> '{refused.id}')"
    )
    await world.say(*(came(device, world.gateway) for device in devices))
    for device in devices:
        if device is not refused:
            await world.shown(device, connected=True)
    await world.caught_up()
    (letter,) = await world.dead_letters()
    assert (letter.device, letter.code, letter.source) == (refused.id.bytes, "record.refused_by_database", "presence")
    assert decode_batch(letter.payload) == [r for r in await world.said() if r.device == refused.id.bytes]


# --- beside the store's writer --------------------------------------------------------------------------------------


async def waiting_for_a_lock(urls: DatabaseURLs, session: Any) -> None:
    """Through a connection of its own, because the others are busy."""
    process = session.get_server_pid()
    watcher: Any = await asyncpg.connect(urls.owner)
    try:
        await eventually(
            lambda: watcher.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", process), "a lock waited for"
        )
    finally:
        await watcher.close()


async def test_a_device_becomes_active_beside_a_row_of_it_that_is_being_made(world: World, session: Any) -> None:
    """The store holds one row and wants the device; the presence made the device's row and wants the other."""
    tenant = await world.tenants()
    first, second = sorted([await world.device(tenant), await world.device(tenant)], key=lambda d: d.id)
    store = await open_lane_session(world.urls.writer, "test")
    known = {second.id.bytes: Attributes(tenant.bytes, {"a": Leaf((1, 1, 1), 1)})}
    await merge_attributes(store, known)
    writing = store.transaction()
    await writing.start()
    await merge_attributes(store, known)
    words = [read(came(device, world.gateway)) for device in (first, second)]

    async def presence() -> None:
        async with session.transaction():
            await merge(session, words)

    merging = asyncio.create_task(presence())
    await waiting_for_a_lock(world.urls, session)
    await activate(store, {first.id.bytes})
    await writing.commit()
    await merging
    store.terminate()
    assert (await world.row(first))["connected"] is True
    assert (await world.row(second))["connected"] is True


async def test_both_write_the_same_rows_in_the_same_order(world: World, session: Any) -> None:
    tenant = await world.tenants()
    made = await world.owner.fetch(
        "INSERT INTO device (id, tenant_id, external_id, profile_id)"
        " SELECT gen_random_uuid(), $1, i::text, p.id FROM generate_series(1, 300) i, profile p WHERE p.tenant_id = $1"
        " RETURNING id",
        tenant,
    )
    devices = [Device(row["id"], tenant, "", row["id"], "") for row in made]
    store = await open_lane_session(world.urls.writer, "test")
    order = random.Random(3)
    # A table this small would be read from its beginning, which is an order, too.
    await session.execute("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off")

    async def attributes() -> None:
        for number in range(1, 60):
            chosen = order.sample(devices, 250)
            leaves = {d.id.bytes: Attributes(tenant.bytes, {"n": Leaf((number, 1, 1), number)}) for d in chosen}
            async with store.transaction():
                await merge_attributes(store, leaves)

    async def presence() -> None:
        for epoch in range(1, 60):
            chosen = order.sample(devices, 250)
            async with session.transaction():
                await merge(session, [read(came(device, world.gateway, epoch)) for device in chosen])

    await asyncio.gather(attributes(), presence())  # a deadlock would be an error of one of them
    store.terminate()


# --- the reaper -----------------------------------------------------------------------------------------------------


class Watch:
    """A worker that has the duty, and its clock."""

    def __init__(self, world: World, session: Any) -> None:
        self.clock = FakeClock()
        self.reaper = PresenceReaper(world.uplink, self.clock)
        self.session = session

    async def look(self, times: int = 1, *, apart_s: float = HEARTBEAT_S) -> None:
        for _ in range(times):
            while await self.reaper.perform(self.session):
                pass
            self.clock.advance(apart_s)


LOOKS = round(ALIVE_S / HEARTBEAT_S)
"""The first says what there is; after as many more a silent gateway is lost."""


@pytest.fixture
def watch(world: World, session: Any) -> Watch:
    return Watch(world, session)


async def test_a_dead_gateways_devices_are_told_closed_and_its_row_goes(
    world: World, consumer: LaneConsumer, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_reaper, "PAGE_DEVICES", 3)
    tenant, dead, alive = await world.tenants(), uuid7(), uuid7()
    lost = [await world.device(tenant) for _ in range(7)]
    safe, returned = await world.device(tenant), await world.device(tenant)
    for gateway in (dead, alive):
        await world.gateway_row(gateway)
    await world.say(
        *(came(device, dead, epoch=4, sequence=20) for device in lost),
        came(safe, alive), came(returned, dead, epoch=4), came(returned, alive, epoch=5),
    )  # fmt: skip
    await world.caught_up()
    for _ in range(LOOKS):
        await watch.look()
        await world.gateway_row(alive)
    assert all([(await world.row(device))["connected"] for device in lost])
    assert await world.gateways() == {dead, alive}
    await watch.look()
    rows = [await world.row(device) for device in lost]
    assert {(row["connected"], row["reason"], row["epoch"], row["sequence"]) for row in rows} == {
        (False, Ended.GATEWAY_LOST, 4, 21)
    }
    assert await world.gateways() == {alive}
    assert (await world.row(safe))["connected"] is True
    assert (await world.row(returned))["connected"] is True
    # In the stream once each, for watchers; and the consumer, who meets it later, has nothing to do.
    await world.caught_up()
    said = [record for record in await world.said() if record.kind == Kind.DISCONNECTED]
    assert sorted(record.device for record in said) == sorted(device.id.bytes for device in lost)
    assert [await world.row(device) for device in lost] == rows
    told = await world.owner.fetch("SELECT device_id, event, code, gateway_id FROM device_timeline")
    assert sorted(told) == sorted((device.id, "disconnected", Ended.GATEWAY_LOST, dead) for device in lost)
    await world.gateway_row(alive)
    await watch.look(LOOKS)
    assert [record for record in await world.said() if record.kind == Kind.DISCONNECTED] == said


async def test_devices_of_a_gateway_without_a_row_are_told_closed_but_not_at_once(
    world: World, consumer: LaneConsumer, watch: Watch
) -> None:
    """It may have taken its row away a moment ago, and its last words are on their way to the consumer."""
    device = await world.device()
    await world.say(came(device, world.gateway))
    await world.shown(device, connected=True)
    await watch.look(LOOKS)
    assert (await world.row(device))["connected"] is True
    await watch.look()
    assert (await world.row(device))["reason"] == Ended.GATEWAY_LOST


async def test_a_gateway_that_beats_at_the_last_moment_is_not_lost(
    world: World, consumer: LaneConsumer, watch: Watch
) -> None:
    device = await world.device()
    await world.gateway_row(world.gateway)
    await world.say(came(device, world.gateway))
    await world.shown(device, connected=True)
    await watch.look(LOOKS)
    beat = world.owner.transaction()
    await beat.start()
    await world.gateway_row(world.gateway)
    looking = asyncio.create_task(watch.look())
    await waiting_for_a_lock(world.urls, watch.session)
    await beat.commit()
    await looking
    assert (await world.row(device))["connected"] is True
    assert await world.gateways() == {world.gateway}


async def test_silence_that_nobody_watched_does_not_count(world: World, watch: Watch) -> None:
    """Everybody was frozen, or the database was away: gateways could not have spoken either."""
    await world.gateway_row(world.gateway)
    await watch.look(LOOKS - 1, apart_s=1000)
    await watch.look(apart_s=0)
    assert await world.gateways() == {world.gateway}
    other = await open_lane_session(world.urls.writer, "test")
    watch.session = other
    await watch.look(LOOKS)
    assert await world.gateways() == {world.gateway}
    await watch.look()
    assert await world.gateways() == set()
    other.terminate()


async def test_a_stream_that_takes_nothing_is_asked_again(world: World, consumer: LaneConsumer, watch: Watch) -> None:
    device = await world.device()
    await world.gateway_row(world.gateway)
    await world.say(came(device, world.gateway))
    await world.shown(device, connected=True)
    await ensure(world.client.jetstream(), replace(TOPOLOGY, uplink_bytes_max=1))
    await watch.look(LOOKS + 1)
    assert (await world.row(device))["connected"] is True
    await ensure(world.client.jetstream(), TOPOLOGY)
    await watch.look()
    assert (await world.row(device))["reason"] == Ended.GATEWAY_LOST


# --- a gateway that is a process ------------------------------------------------------------------------------------


@asynccontextmanager
async def gateway_process(urls: DatabaseURLs, nats_url: str) -> AsyncIterator[tuple[Gateway, Any]]:
    ports, address = Gateway(free_port(), free_port()), urlsplit(nats_url)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")} | {
        "HEADWATER_DATABASE_URL": urls.app,
        "HEADWATER_NATS_URL": f"nats://127.0.0.1:{address.port}",
        "HEADWATER_NATS_USER": address.username or "",
        "HEADWATER_NATS_PASSWORD": address.password or "",
        "HEADWATER_GATEWAY_MQTT_PORT": str(ports.mqtt_port),
        "HEADWATER_GATEWAY_WS_PORT": "0",
        "HEADWATER_GATEWAY_HTTP_PORT": str(ports.http_port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headwater", "run", "gateway", env=environment, stderr=asyncio.subprocess.DEVNULL
    )

    async def answers() -> bool:
        assert process.returncode is None
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", ports.mqtt_port)
            writer.close()
            return True
        return False

    try:
        await eventually(answers, "the gateway's port", 30)
        yield ports, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_gateway_freezes_thaws_and_is_killed(
    world: World, consumer: LaneConsumer, watch: Watch, database: Database, nats_url: str
) -> None:
    device, silent = await world.device(), await world.device()
    scope = TenantScope(device.tenant_id, "system:test", ALL_PERMISSIONS)
    devices = DeviceService(database, NoEvents(), AuditTrail())

    async def found(q: str) -> list[UUID]:
        return [found.id for found in (await devices.list(scope, q=q)).devices]

    async with (
        gateway_process(world.urls, nats_url) as (gateway, process),
        gateway.client(device, version=5, reconnect=False) as publisher,
        gateway.client(silent, version=5, reconnect=False),
    ):
        await publisher.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)
        epoch = (await world.shown(device, connected=True))["epoch"]
        await world.shown(silent, connected=True)
        assert await found('connected = true and protocol = "mqtt/5"') == [device.id]

        process.send_signal(signal.SIGSTOP)
        await watch.look(LOOKS + 1)
        assert (await world.row(device))["reason"] == (await world.row(silent))["reason"] == Ended.GATEWAY_LOST
        assert await found(f'connected = false and reason = "{Ended.GATEWAY_LOST}"') == [device.id]
        shown = await devices.get(scope, device.id)
        assert (shown.presence.connected, shown.presence.reason) == (False, Ended.GATEWAY_LOST)
        assert shown.presence.changed_at is not None
        assert shown.presence.last_seen_at is not None
        assert shown.presence.last_seen_at < shown.presence.changed_at

        process.send_signal(signal.SIGCONT)
        row = await world.shown(device, connected=True)
        assert (row["epoch"], row["reason"]) == (epoch, "")
        await world.shown(silent, connected=True)

        process.kill()
        await process.wait()
        await watch.look(LOOKS + 1)
        assert (await world.row(device))["reason"] == Ended.GATEWAY_LOST
        assert (await world.row(silent))["connected"] is False
        assert await world.gateways() == set()


class NoEvents:
    async def publish(self, tenant_id: UUID, noun: str, identifier: UUID, event: str) -> None:
        """Nobody listens."""

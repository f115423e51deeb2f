"""The hub against a real nats-server: what gateways publish reaches whoever watches, and nobody else."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import nats
import pytest
from tests.support.live import DEADLINE_S, LiveGateway, until

from headwater.errors import Forbidden
from headwater.live import watch
from headwater.live.errors import HubClosed, TooManyWatchers
from headwater.live.event import EventId, EventKind, parse_id
from headwater.live.hub import Hub
from headwater.live.mailbox import EVENTS_MAX
from headwater.live.ports import Wanted
from headwater.live.selection import Subscriber
from headwater.stream import subjects
from headwater.stream.topology import Topology, ensure
from headwater.tenancy.scope import PERMISSIONS, Role, TenantScope

TENANT, OTHER = UUID(int=1), UUID(int=2)
PUMP, VALVE, FAN = UUID(int=3), UUID(int=4), UUID(int=5)
GROUP = UUID(int=6)
ALL = tuple(EventKind)


def viewer(tenant: UUID = TENANT, group: UUID | None = None) -> TenantScope:
    return TenantScope(tenant, "person:x", PERMISSIONS[Role.VIEWER], group)


class Groups:
    """The registry, as far as the hub asks it: one group per tenant, changed by the test."""

    def __init__(self) -> None:
        self.members = {PUMP.bytes}

    async def find(self, scope: TenantScope, wanted: Wanted) -> frozenset[bytes] | None:
        named = None if wanted.devices is None else frozenset(d.bytes for d in wanted.devices)
        if scope.group_id is None and wanted.group_id is None:
            return named
        return frozenset(self.members) if named is None else frozenset(self.members) & named


@pytest.fixture
async def connect(nats_url: str) -> AsyncIterator[Callable[[], Awaitable[nats.NATS]]]:
    opened = []

    async def connection() -> nats.NATS:
        opened.append(await nats.connect(nats_url, reconnect_time_wait=0.05, max_reconnect_attempts=-1))
        return opened[-1]

    await ensure((await connection()).jetstream(), Topology())
    yield connection
    for one in opened:
        await one.close()


@pytest.fixture
def groups() -> Groups:
    return Groups()


@pytest.fixture
async def hub(connect: Callable[[], Awaitable[nats.NATS]], groups: Groups) -> AsyncIterator[Hub]:
    hub = Hub(await connect(), groups, Topology())
    await hub.open()
    yield hub
    await hub.close()


@pytest.fixture
async def gateway(connect: Callable[[], Awaitable[nats.NATS]]) -> AsyncIterator[LiveGateway]:
    async with LiveGateway(await connect()) as gateway:
        yield gateway


async def join(hub: Hub, wanted: Wanted | None = None, *, scope: TenantScope | None = None, **options) -> Subscriber:
    return await hub.attach(scope or viewer(), wanted or Wanted(), ALL, None, **{"clients_max": 100} | options)


def stores(gateway: LiveGateway, *devices: UUID, tenant: UUID = TENANT, body: dict | None = None) -> None:
    gateway.stores(*devices, tenant=tenant, body=body)


async def take(subscriber: Subscriber, count: int) -> list[dict]:
    """The next `count` events; more than that is a failure of the test that asks."""
    events: list[dict] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(events) < count:
            events += [json.loads(event) for event in await subscriber.mailbox.take()]
    assert len(events) == count, events
    return events


async def test_everybody_sees_what_concerns_them_and_no_other_tenant(hub: Hub, gateway: LiveGateway) -> None:
    everybody = await join(hub)
    pump = await join(hub, Wanted(devices=frozenset({PUMP})))
    stranger = await join(hub, scope=viewer(OTHER))
    stranger_by_id = await join(hub, Wanted(devices=frozenset({PUMP})), scope=viewer(OTHER))
    await gateway.wants(TENANT, VALVE)
    await gateway.wants(OTHER, VALVE)
    stores(gateway, PUMP, VALVE)
    stores(gateway, FAN, tenant=OTHER)
    assert [e["device_id"] for e in await take(everybody, 2)] == [str(PUMP), str(VALVE)]
    assert [e["device_id"] for e in await take(pump, 1)] == [str(PUMP)]
    assert [e["device_id"] for e in await take(stranger, 1)] == [str(FAN)]
    assert len(stranger_by_id.mailbox) == 0


async def test_nothing_is_copied_unless_watched(hub: Hub, gateway: LiveGateway) -> None:
    subscription = await gateway.connection.subscribe(f"{subjects.LIVE}.*")
    pump = await join(hub, Wanted(devices=frozenset({PUMP})))
    await gateway.wants(TENANT, PUMP)
    stores(gateway, VALVE, VALVE, tenant=TENANT)
    stores(gateway, PUMP, tenant=OTHER)
    stores(gateway, PUMP)
    await take(pump, 1)
    await gateway.connection.flush()
    assert subscription.pending_msgs == 1


async def test_a_gateway_that_starts_later_learns_what_is_watched_at_once(hub: Hub, connect) -> None:
    await join(hub)
    async with LiveGateway(await connect()) as late:
        asked_at = time.monotonic()
        await late.wants(TENANT, PUMP)
        assert time.monotonic() - asked_at < watch.ANNOUNCE_S / 2


async def test_resume_replays_what_came_in_between(hub: Hub, gateway: LiveGateway) -> None:
    first = await join(hub, Wanted(devices=frozenset({PUMP, VALVE})))
    await gateway.wants(TENANT, PUMP)
    stores(gateway, PUMP, VALVE, PUMP)
    seen = await take(first, 3)
    await hub.detach(first)
    for _ in range(200):
        stores(gateway, VALVE, FAN)
        await asyncio.sleep(0)
    last_id = parse_id(seen[1]["id"])
    again = await join(hub, Wanted(devices=frozenset({PUMP, VALVE})), last_id=last_id)
    stores(gateway, PUMP, body={"last": True})
    events = await take(again, 1 + 200 + 1)
    assert events[0] == seen[2]
    assert [e["values"] for e in events[-1:]] == [{"last": True}]
    ids = [parse_id(e["id"]) for e in events]
    assert ids == sorted(set(ids))


async def test_resume_at_the_place_of_attaching(hub: Hub, gateway: LiveGateway) -> None:
    early = await join(hub)
    await gateway.wants(TENANT, PUMP)
    stores(gateway, PUMP)
    await take(early, 1)
    quiet = await join(hub, Wanted(devices=frozenset({PUMP})))
    place = hub.position(TENANT)
    await hub.detach(quiet)
    stores(gateway, PUMP)
    await take(early, 1)
    resumed = await join(hub, Wanted(devices=frozenset({PUMP})), last_id=place)
    assert [e["values"] for e in await take(resumed, 1)] == [{"n": 2}]


async def test_resume_from_what_is_gone_says_so(hub: Hub, gateway: LiveGateway) -> None:
    watcher = await join(hub)
    await gateway.wants(TENANT, PUMP)
    stores(gateway, PUMP)
    await take(watcher, 1)
    for last_id in (EventId(1, 0), EventId(2**62, 0)):
        resumed = await join(hub, last_id=last_id)
        missed = (await take(resumed, 1 if last_id.sequence > 1 else 2))[0]
        assert missed == {"type": "missed", "count": None}


async def test_overflow_is_said_and_slows_nobody(hub: Hub, gateway: LiveGateway) -> None:
    slow, quick = await join(hub), await join(hub)
    await gateway.wants(TENANT, PUMP)
    for _ in range(3):
        stores(gateway, *[PUMP] * (EVENTS_MAX // 2))
        assert len(await take(quick, EVENTS_MAX // 2)) == EVENTS_MAX // 2
    events = await take(slow, EVENTS_MAX + 1)
    assert events[0] == {"type": "missed", "count": EVENTS_MAX // 2}
    assert events[-1]["values"] == {"n": gateway.sequence}


async def test_a_slow_watcher_gets_its_whole_replay(hub: Hub, gateway: LiveGateway) -> None:
    watcher = await join(hub)
    await gateway.wants(TENANT, PUMP)
    stores(gateway, PUMP)
    (seen,) = await take(watcher, 1)
    for _ in range(3 * EVENTS_MAX // 10):
        stores(gateway, *[PUMP] * 10)
        await take(watcher, 10)
    resumed = await join(hub, last_id=parse_id(seen["id"]))
    assert all(e["type"] == "telemetry" for e in await take(resumed, 3 * EVENTS_MAX))


async def test_a_group_scope_follows_its_group(hub: Hub, gateway: LiveGateway, groups: Groups) -> None:
    scoped = await join(hub, scope=viewer(group=GROUP))
    by_id = await join(hub, Wanted(devices=frozenset({VALVE})), scope=viewer(group=GROUP))
    await gateway.wants(TENANT, PUMP)
    stores(gateway, PUMP, VALVE)
    assert [e["device_id"] for e in await take(scoped, 1)] == [str(PUMP)]
    assert len(by_id.mailbox) == 0
    groups.members = {VALVE.bytes}
    await gateway.connection.publish(subjects.registry(TENANT, "device", VALVE), b"")
    await gateway.wants(TENANT, VALVE)
    stores(gateway, PUMP, VALVE)
    assert [e["device_id"] for e in await take(scoped, 1)] == [str(VALVE)]
    assert [e["device_id"] for e in await take(by_id, 1)] == [str(VALVE)]


async def test_the_quota_counts_watchers_of_all_servers(hub: Hub, connect, groups: Groups) -> None:
    other = Hub(await connect(), groups, Topology())
    await other.open()
    first = await join(hub, clients_max=2)
    await join(hub, clients_max=2)
    with pytest.raises(TooManyWatchers):
        await join(hub, clients_max=2)
    await join(hub, scope=viewer(OTHER), clients_max=2)
    await until(lambda: other._watchers(TENANT) == 2)
    with pytest.raises(TooManyWatchers):
        await join(other, clients_max=2)
    await hub.detach(first)
    await join(hub, clients_max=2)
    await other.close()


async def test_watching_needs_the_right_to_read_telemetry(hub: Hub) -> None:
    with pytest.raises(Forbidden):
        await join(hub, scope=TenantScope(TENANT, "token:x", frozenset({"device:read"})))


async def test_closing_says_goodbye(hub: Hub, gateway: LiveGateway) -> None:
    watcher = await join(hub)
    await hub.close()
    with pytest.raises(HubClosed):
        await watcher.mailbox.take()
    with pytest.raises(HubClosed):
        await join(hub)


async def test_a_lost_live_stream_is_made_anew_and_said(hub: Hub, gateway: LiveGateway) -> None:
    watcher = await join(hub)
    await gateway.wants(TENANT, PUMP)
    stores(gateway, PUMP)
    (before,) = await take(watcher, 1)
    # As a restart of a single server does, for a stream in memory.
    await gateway.connection.jetstream().delete_stream("LIVE")
    await hub._look_after_stream()
    stores(gateway, PUMP)
    missed, after = await take(watcher, 2)
    assert missed == {"type": "missed", "count": None}
    assert parse_id(after["id"]) > parse_id(before["id"])


async def test_a_gateway_that_had_to_drop_says_so(hub: Hub, gateway: LiveGateway) -> None:
    watcher = await join(hub)
    await gateway.wants(TENANT, PUMP)
    gateway.feed._dropped(TENANT.bytes)
    stores(gateway, PUMP)
    assert [e["type"] for e in await take(watcher, 2)] == ["missed", "telemetry"]

"""Devices on a real database: their life, their pages, and who may see them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.clock import to_datetime
from headwater.device.device import DevicePatch, NewDevice, Status
from headwater.device.errors import DeviceDecommissioned, DeviceInvalid, FilterInvalid
from headwater.device.profile import ProfileDefinition
from headwater.device.sort import parse_sort
from headwater.device.visibility import devices_in_group, devices_matching, require_device, visible_devices
from headwater.errors import Conflict, Forbidden, NotFound, ReferenceUnknown, VersionConflict
from headwater.ids import uuid7
from headwater.tenancy.errors import GroupScoped, TenantQuotaReached
from headwater.tenancy.scope import TenantScope

from .conftest import Registry


async def set_state(urls: DatabaseURLs, tenant_id: UUID, device_id: UUID, **columns: Any) -> None:
    """As the workers write it."""
    connection: Any = await asyncpg.connect(urls.writer)
    try:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=str)
        names = ", ".join(columns)
        places = ", ".join(f"${n + 3}" for n in range(len(columns)))
        await connection.execute(
            f"INSERT INTO headwater.device_state (tenant_id, device_id, {names}) VALUES ($1, $2, {places})",
            tenant_id, device_id, *columns.values(),
        )  # fmt: skip
    finally:
        await connection.close()


async def test_life(registry: Registry, scope: TenantScope) -> None:
    device = await registry.make(scope, "pump-1", labels={"site": "north"}, attributes={"floor": 3, "gone": None})
    assert (device.status, device.profile, device.version) == (Status.REGISTERED, "default", 1)
    assert device.attributes == {"floor": 3}
    assert device.presence.connected is False

    patch = DevicePatch(name="Pump", labels={"site": None, "line": "4"}, attributes={"floor": 4, "a": {"b": 1}})
    device = await registry.devices.update(scope, device.id, patch, version=1)
    assert (device.name, device.labels, device.attributes) == ("Pump", {"line": "4"}, {"floor": 4, "a": {"b": 1}})
    assert device.version == 2
    assert (await registry.devices.update(scope, device.id, patch)).version == 2  # nothing new in it
    with pytest.raises(VersionConflict):
        await registry.devices.update(scope, device.id, DevicePatch(name="x"), version=1)

    assert (await registry.devices.suspend(scope, device.id)).status is Status.SUSPENDED
    assert (await registry.devices.suspend(scope, device.id)).version == 3
    assert (await registry.devices.resume(scope, device.id)).status is Status.REGISTERED
    issued = await registry.credentials.issue(scope, device.id)
    assert (await registry.devices.decommission(scope, device.id)).status is Status.DECOMMISSIONED
    (credential,) = await registry.credentials.list(scope, device.id)
    assert credential.id == issued.id
    assert credential.revoked_at is not None
    for step in (registry.devices.suspend, registry.devices.resume):
        with pytest.raises(DeviceDecommissioned):
            await step(scope, device.id)
    with pytest.raises(DeviceDecommissioned):
        await registry.devices.update(scope, device.id, DevicePatch(name="x"))
    with pytest.raises(DeviceDecommissioned):
        await registry.credentials.issue(scope, device.id)

    await registry.devices.delete(scope, device.id)
    with pytest.raises(NotFound):
        await registry.devices.get(scope, device.id)
    assert [event for _, _, event in registry.events.seen] == [
        "changed",
        "suspended",
        "resumed",
        "decommissioned",
        "deleted",
    ]
    async with registry.database.tenant_session(scope.tenant_id) as connection:
        actions = [row["action"] for row in await connection.fetch("SELECT action FROM audit_entry ORDER BY id")]
        assert await connection.fetchval("SELECT devices FROM tenant_usage") == 0
    assert actions == [
        "device:create", "device:update", "device:suspend", "device:resume", "credential:issue", "device:decommission",
        "device:delete",
    ]  # fmt: skip


async def test_resume_of_a_device_that_was_in_contact(
    registry: Registry, scope: TenantScope, database_urls: DatabaseURLs
) -> None:
    device = await registry.make(scope, "a")
    await set_state(database_urls, scope.tenant_id, device.id, epoch=7)
    await registry.devices.suspend(scope, device.id)
    assert (await registry.devices.resume(scope, device.id)).status is Status.ACTIVE


async def test_presence_and_reported(registry: Registry, scope: TenantScope, database_urls: DatabaseURLs) -> None:
    device = await registry.make(scope, "a")
    await registry.make(scope, "b")
    reported = '{"fw": {"value": "1.2", "observed_at": 1700000000000000}, "n": {"value": {"x": 5}}}'
    seen = to_datetime(1_700_000_000_000_000)
    await set_state(
        database_urls, scope.tenant_id, device.id,
        connected=True, protocol="mqtt5", reported=reported, last_seen_at=seen, changed_at=seen,
    )  # fmt: skip
    device = await registry.devices.get(scope, device.id)
    assert device.presence.connected
    assert device.presence.last_seen_at == seen
    assert device.reported["fw"].value == "1.2"
    assert device.reported["fw"].observed_at == seen
    for q in ('reported.fw = "1.2"', 'reported.fw like "1.*"', "reported.n.x > 4", "connected = true", "reported.fw exists",
              'last_seen_at > "2023-01-01"', "protocol = mqtt5", "connection_changed_at exists"):  # fmt: skip
        assert await registry.names(scope, q) == ["a"], q
        assert await registry.names(scope, f"not ({q})") == ["b"], q


async def test_connected_last_seen_and_fresh_data_are_three_things(
    registry: Registry, scope: TenantScope, database_urls: DatabaseURLs
) -> None:
    """A connected device that is silent, a disconnected one whose data is fresh, and one that its profile expects seldom."""
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    await registry.profiles.create(scope, "seldom", ProfileDefinition(data_fresh_s=3 * 3600))
    silent, sender = await registry.make(scope, "silent"), await registry.make(scope, "sender")
    seldom = await registry.make(scope, "seldom", profile="seldom")
    await set_state(
        database_urls, scope.tenant_id, silent.id, connected=True, connection_version=3, last_seen_at=now - 5 * hour,
        client_id="c-1", protocol="mqtt/5", address="203.0.113.7:1",
    )  # fmt: skip
    await set_state(
        database_urls, scope.tenant_id, sender.id, connected=False, connection_version=4, reason="keep_alive_timeout",
        detail="no packet for 90 s", last_seen_at=now - hour,
    )  # fmt: skip
    ages = {silent.id: 5 * hour, sender.id: hour / 60, seldom.id: 2 * hour}
    owner = await asyncpg.connect(database_urls.owner)
    await owner.executemany(
        "INSERT INTO headwater.telemetry_latest"
        " (tenant_id, device_id, metric_set, observed_at, received_at, epoch, record, metrics, numbers)"
        " VALUES ($1, $2, '', $3, $3, 1, 1, '{}', '{}')",
        [(scope.tenant_id, device, now - age) for device, age in ages.items()],
    )
    await owner.close()
    first, second = [(await registry.devices.get(scope, one.id)).presence for one in (silent, sender)]
    assert (first.connected, first.connection_version, first.data_fresh, first.data_at) == (True, 3, False, now - 5 * hour)
    assert (first.client_id, first.protocol, first.address) == ("c-1", "mqtt/5", "203.0.113.7:1")
    assert (second.connected, second.reason, second.detail) == (False, "keep_alive_timeout", "no packet for 90 s")
    assert (second.data_fresh, second.last_seen_at) == (True, now - hour / 60)
    for q, found in {
        "data_fresh = true": ["sender", "seldom"],
        "connected = true and data_fresh = false": ["silent"],
        "connection_version > 3": ["sender"],
        "reason = keep_alive_timeout": ["sender"],
        'client_id = "c-1" and address like "203.0.113.*"': ["silent"],
        f'data_at > "{(now - 3 * hour).isoformat()}"': ["sender", "seldom"],
    }.items():
        assert await registry.names(scope, q) == found, q


async def test_filters_find_and_their_opposites_find_the_rest(registry: Registry, scope: TenantScope) -> None:
    await registry.make(
        scope, "a", name="Pump 1%", labels={"site": "north"}, attributes={"floor": 3, "tags": ["x"], "t": "m"}
    )
    await registry.make(scope, "b", labels={"site": "south", "o'k": "1"}, attributes={"floor": "3", "on": True})
    await registry.make(scope, "c", attributes={"floor": 10.5, "deep": {"er": {"n": 1}}})
    for q, expected in {
        "labels.site = north": "a",
        "labels.site in (north, south)": "ab",
        "labels.site != north": "bc",
        "labels.site exists": "ab",
        'labels.site >= "o"': "b",
        'labels.site like "N*TH"': "a",
        'labels."o\'k" = "1"': "b",
        "attributes.floor = 3": "a",
        'attributes.floor = "3"': "b",
        "attributes.floor >= 3": "ac",
        "attributes.floor < 1e3": "ac",
        'attributes.t > "a"': "a",
        "attributes.on = true": "b",
        "attributes.deep.er.n in (1, 2)": "c",
        "attributes.tags exists": "a",
        "attributes.tags = x": "",
        'name like "pump ?%"': "a",
        'name like "pump_*"': "",
        "external_id in (a, c) and not external_id = c": "a",
        "profile = default": "abc",
        "status in (registered, active)": "abc",
        "version = 1 and connected = false": "abc",
        'created_at > "2020-01-01T00:00:00+02:00"': "abc",
        "last_seen_at exists or reported.x exists": "",
        '(external_id = a or external_id = b) and (labels.site = south or name = "no")': "b",
    }.items():
        assert "".join(sorted(await registry.names(scope, q))) == expected, q
        assert "".join(sorted(await registry.names(scope, f"not ({q})"))) == "".join(sorted(set("abc") - set(expected))), q


async def test_injection_stays_a_value(registry: Registry, scope: TenantScope) -> None:
    await registry.make(scope, "a")
    for evil in ("'; DROP TABLE device; --", "$1", "') OR TRUE --", "\\", "{}", "%", "a' OR 'a'='a"):
        text = evil.replace("\\", "\\\\")
        for q in (
            f'name = "{text}"', f'labels."{text}" = "{text}"', f'attributes."{text}".x > "{text}"', f'name like "{text}_"',
            f'reported."{text}" exists',
        ):  # fmt: skip
            assert await registry.names(scope, q) == [], q
        with pytest.raises(FilterInvalid):
            await registry.names(scope, f"name = a {evil} x")
        await registry.devices.list(scope, sort=parse_sort(f'-attributes."{text}"'))
    assert await registry.names(scope) == ["a"]


SORTS = ("id", "external_id", "name", "profile", "status", "version", "created_at", "connected", "last_seen_at", "labels.x",
         "attributes.v", "attributes.o.p", "reported.r", "protocol", "connection_version", "data_at",
         "data_fresh")  # fmt: skip


@pytest.mark.parametrize("direction", ["", "-"])
async def test_pages_are_total_under_ties_and_nulls(
    registry: Registry, scope: TenantScope, database_urls: DatabaseURLs, direction: str
) -> None:
    values: list[Any] = [None, 1, 1, 2.5, "a", "a", "b" * 300, True, False, [1], {"p": 2}, -7, None]
    for n, value in enumerate(values):
        device = await registry.make(
            scope,
            f"d{n:02}",
            name="ab"[n % 2],
            labels={"x": str(n % 3)} if n % 2 else {},
            attributes={"v": value, "o": {"p": n % 4}},
        )
        if n % 3 == 0:
            seen = to_datetime(1_700_000_000_000_000 + n % 2)
            await set_state(
                database_urls, scope.tenant_id, device.id, connected=True, protocol="mqtt", last_seen_at=seen,
                reported=f'{{"r": {{"value": {n % 2}}}}}',
            )  # fmt: skip
    for key in SORTS:
        sort = parse_sort(direction + key)
        whole = await registry.names(scope, sort=sort)
        assert sorted(whole) == [f"d{n:02}" for n in range(len(values))], key
        for size in (1, 3):
            paged: list[str] = []
            after = None
            while True:
                page = await registry.devices.list(scope, sort=sort, after=after, limit=size)
                paged += [device.external_id for device in page.devices]
                after = page.next
                if after is None:
                    break
            assert paged == whole, (key, size)
    by_value = await registry.names(scope, sort=parse_sort(direction + "attributes.v"))
    assert set(by_value[-4:]) == {"d00", "d12", "d09", "d10"}, "absent and unordered values come last in both directions"


async def test_refusals_of_new_devices(registry: Registry, scope: TenantScope) -> None:
    await registry.make(scope, "taken")
    with pytest.raises(Conflict):
        await registry.make(scope, "taken")
    for fields, field in (
        ({"external_id": "a/b"}, "external_id"), ({"external_id": " a"}, "external_id"),
        ({"external_id": "a\n"}, "external_id"),
        ({"external_id": "x" * 201}, "external_id"), ({"external_id": "a", "name": "\0"}, "name"),
        ({"external_id": "a", "labels": {str(n): "x" for n in range(65)}}, "labels"),
        ({"external_id": "a", "attributes": {"x": "y" * 20_000}}, "attributes"),
        ({"external_id": "a", "attributes": {"x": {"\0": 1}}}, "attributes.x"),
    ):  # fmt: skip
        with pytest.raises(DeviceInvalid) as caught:
            await registry.devices.create(scope, NewDevice(**fields))  # type: ignore[arg-type]  # test data
        assert caught.value.field == field
    with pytest.raises(ReferenceUnknown) as unknown:
        await registry.make(scope, "a", profile="none")
    assert unknown.value.field == "profile"


async def test_quota_holds_under_a_race(registry: Registry, tenant_factory: TenantFactory) -> None:
    scope = TenantScope(await tenant_factory(quotas={"devices_max": 5}), "system:test", registry_permissions())
    tries = await asyncio.gather(*(registry.make(scope, f"d{n}") for n in range(12)), return_exceptions=True)
    assert sum(isinstance(t, TenantQuotaReached) for t in tries) == 7
    assert len(await registry.names(scope)) == 5


def registry_permissions() -> frozenset[str]:
    return frozenset({"device:read", "device:write", "device:delete"})


async def test_permissions(registry: Registry, scope: TenantScope) -> None:
    device = await registry.make(scope, "a")
    reader = replace(scope, permissions=frozenset({"device:read"}))
    assert (await registry.devices.get(reader, device.id)).id == device.id
    for call in (
        registry.devices.suspend(reader, device.id), registry.devices.resume(reader, device.id),
        registry.devices.decommission(reader, device.id), registry.devices.delete(reader, device.id),
        registry.devices.update(reader, device.id, DevicePatch(name="x")), registry.make(reader, "b"),
        registry.credentials.issue(reader, device.id), registry.credentials.revoke(reader, device.id, device.id),
    ):  # fmt: skip
        with pytest.raises(Forbidden):
            await call
    with pytest.raises(Forbidden):
        await registry.devices.get(replace(scope, permissions=frozenset()), device.id)


async def test_another_tenant_sees_and_changes_nothing(
    registry: Registry, scope: TenantScope, stranger: TenantScope
) -> None:
    device = await registry.make(scope, "mine")
    issued = await registry.credentials.issue(scope, device.id)
    group = await registry.groups.create(scope, "mine")
    await registry.make(stranger, "mine")  # external ids are the tenant's own
    assert len(await registry.names(stranger)) == 1
    for call in (
        registry.devices.get(stranger, device.id), registry.devices.suspend(stranger, device.id),
        registry.devices.delete(stranger, device.id), registry.devices.update(stranger, device.id, DevicePatch(name="x")),
        registry.credentials.list(stranger, device.id), registry.credentials.revoke(stranger, device.id, issued.id),
        registry.groups.get(stranger, group.id), registry.groups.delete(stranger, group.id),
        registry.groups.add_members(stranger, group.id, [device.id]),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await call
    own = await registry.groups.create(stranger, "own")
    changed = await registry.groups.add_members(stranger, own.id, [device.id])
    assert (changed.changed, changed.unknown) == (0, [device.id])


async def test_groups(registry: Registry, scope: TenantScope) -> None:
    ids = sorted([(await registry.make(scope, f"d{n}")).id for n in range(5)])  # two of one millisecond have no order
    for n, device_id in enumerate(ids):
        await registry.devices.update(scope, device_id, DevicePatch(labels={"parity": "odd" if n % 2 else "even"}))
    static = await registry.groups.create(scope, "picked")
    nobody = uuid7()
    changed = await registry.groups.add_members(scope, static.id, [ids[0], ids[1], nobody, ids[1]])
    assert (changed.changed, changed.unknown) == (2, [nobody])
    assert (await registry.groups.add_members(scope, static.id, [ids[1], ids[2]])).changed == 1
    assert (await registry.groups.remove_members(scope, static.id, [ids[0], ids[4]])).changed == 1
    odd = await registry.groups.create(scope, "odd", query="labels.parity = odd")
    async with registry.database.tenant_session(scope.tenant_id) as connection:
        assert await devices_in_group(connection, static.id) == [ids[1], ids[2]]
        assert await devices_in_group(connection, odd.id) == [ids[1], ids[3]]
        assert await devices_in_group(connection, nobody) == []
        assert await devices_matching(connection, scope, "labels.parity = even") == [ids[0], ids[2], ids[4]]
    first = await registry.devices.list(scope, group_id=static.id, limit=1)
    assert [d.id for d in first.devices] == [ids[1]]
    rest = await registry.devices.list(scope, group_id=static.id, limit=1, after=first.next)
    assert ([d.id for d in rest.devices], rest.next) == ([ids[2]], None)
    with pytest.raises(Conflict):
        await registry.groups.add_members(scope, odd.id, ids)
    with pytest.raises(FilterInvalid):
        await registry.groups.create(scope, "bad", query="labels.parity ~ odd")
    with pytest.raises(FilterInvalid):
        await registry.groups.update(scope, odd.id, query="nofield = 3")
    with pytest.raises(Conflict):
        await registry.groups.create(scope, "odd")
    with pytest.raises(VersionConflict):
        await registry.groups.update(scope, odd.id, name="x", version=9)
    renamed = await registry.groups.update(
        scope, odd.id, query="labels.parity in (odd, strange)", description="d", version=1
    )
    assert (renamed.name, renamed.version) == ("odd", 2)
    assert [g.name for g in await registry.groups.list(scope)] == ["odd", "picked"]
    await registry.groups.delete(scope, static.id)
    assert [g.name for g in await registry.groups.list(scope)] == ["odd"]


@pytest.mark.parametrize("kind", ["static", "query"])
async def test_a_scope_of_one_group_sees_its_devices_only(registry: Registry, scope: TenantScope, kind: str) -> None:
    inside = await registry.make(scope, "in", labels={"g": "1"})
    outside = await registry.make(scope, "out")
    group = await registry.groups.create(scope, "g", query=None if kind == "static" else 'labels.g = "1"')
    if kind == "static":
        await registry.groups.add_members(scope, group.id, [inside.id])
    other = await registry.groups.create(scope, "other")
    credential = await registry.credentials.issue(scope, outside.id)
    narrow = replace(scope, group_id=group.id)
    assert await registry.names(narrow) == ["in"]
    assert await registry.names(narrow, 'external_id = out or external_id = "in"') == ["in"]
    assert await registry.names(narrow, group_id=other.id) == []
    async with registry.database.tenant_session(scope.tenant_id) as connection:
        assert await visible_devices(connection, narrow, [inside.id, outside.id]) == {inside.id}
        assert await devices_matching(connection, narrow, "external_id exists") == [inside.id]
        with pytest.raises(NotFound):
            await require_device(connection, narrow, outside.id)
    for call in (
        registry.devices.get(narrow, outside.id), registry.devices.suspend(narrow, outside.id),
        registry.devices.resume(narrow, outside.id), registry.devices.decommission(narrow, outside.id),
        registry.devices.delete(narrow, outside.id), registry.devices.update(narrow, outside.id, DevicePatch(name="x")),
        registry.credentials.issue(narrow, outside.id), registry.credentials.list(narrow, outside.id),
        registry.credentials.revoke(narrow, outside.id, credential.id), registry.groups.get(narrow, other.id),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await call
    for refused in (
        registry.make(narrow, "new"), registry.groups.create(narrow, "x"),
        registry.groups.update(narrow, group.id, name="x"),
        registry.groups.add_members(narrow, group.id, [outside.id]), registry.groups.delete(narrow, group.id),
        registry.profiles.create(narrow, "p", (await registry.profiles.list(scope))[0].definition),
        registry.devices.update(narrow, inside.id, DevicePatch(external_id="x")),
    ):  # fmt: skip
        with pytest.raises(GroupScoped):
            await refused
    assert [g.id for g in await registry.groups.list(narrow)] == [group.id]
    updated = await registry.devices.update(narrow, inside.id, DevicePatch(labels={"g": "2"}))
    assert updated.labels == {"g": "2"}
    assert await registry.names(narrow) == (["in"] if kind == "static" else [])

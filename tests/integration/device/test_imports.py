"""Bulk import and export on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest
from tests.support.tenants import TenantFactory

from headwater.device.device import Status
from headwater.device.errors import ImportInvalid
from headwater.device.imports import (
    CHUNK_LINES,
    FileFormat,
    ImportCredentials,
    ImportMode,
    ImportOptions,
    LineResult,
    Outcome,
)
from headwater.device.profile import ProfileDefinition
from headwater.errors import Forbidden
from headwater.tenancy.errors import GroupScoped
from headwater.tenancy.scope import ALL_PERMISSIONS, TenantScope

from .conftest import Registry


async def body(data: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


async def run(registry: Registry, scope: TenantScope, data: bytes, **options: object) -> list[LineResult]:
    wanted = ImportOptions(**options)  # type: ignore[arg-type]  # test data
    return [result async for result in registry.imports.run(scope, body(data), wanted)]


async def export(registry: Registry, scope: TenantScope, form: FileFormat, **options: str) -> bytes:
    return b"".join([chunk async for chunk in registry.exports.run(scope, form, **options)])  # type: ignore[arg-type]  # test data


def outcomes(results: list[LineResult]) -> list[str]:
    return [f"{result.line}:{result.outcome}" for result in results]


async def test_bad_lines_cost_themselves_only(registry: Registry, scope: TenantScope) -> None:
    data = (
        b"external_id,profile,status,attributes.n\n"
        b"a,,,1\n"
        b"b,nope,,2\n"
        b",,,3\n"
        b"c,default,suspended,4\n"
        b"d,,broken,5\n"
        b"a,,,6\n"
        b"e,,decommissioned,7\n"
    )
    results = await run(registry, scope, data, credentials=ImportCredentials.NEW)
    assert outcomes(results) == ["2:created", "3:bad", "4:bad", "5:created", "6:bad", "7:exists", "8:created"]
    assert [(r.column, r.code) for r in results if r.outcome is Outcome.BAD] == [
        ("profile", "device.invalid"), ("external_id", "device.invalid"), ("status", "device.invalid"),
    ]  # fmt: skip
    assert [bool(r.password) for r in results] == [True, False, False, True, False, False, False]
    assert results[0].password not in repr(results[0])
    page = await registry.devices.list(scope)
    assert [(d.external_id, d.status.value, d.attributes) for d in page.devices] == [
        ("a", "registered", {"n": 1}), ("c", "suspended", {"n": 4}), ("e", "decommissioned", {"n": 7}),
    ]  # fmt: skip
    assert page.devices[0].id == results[0].id


async def test_modes(registry: Registry, scope: TenantScope) -> None:
    await run(registry, scope, b"external_id,labels.x,attributes.n\na,1,1\nb,1,1\n")
    data = b"external_id,labels.y,attributes.n,name\na,2,,A\nc,2,5,\n"
    assert outcomes(await run(registry, scope, data, mode=ImportMode.CREATE)) == ["2:exists", "3:created"]
    await registry.devices.delete(scope, (await registry.devices.list(scope, q="external_id = c")).devices[0].id)
    updated = await run(registry, scope, data, mode=ImportMode.UPDATE)
    assert outcomes(updated) == ["2:updated", "3:bad"]
    assert updated[1].code == "device.not_found"
    assert outcomes(await run(registry, scope, data, mode=ImportMode.UPSERT)) == ["2:unchanged", "3:created"]
    (device,) = (await registry.devices.list(scope, q="external_id = a")).devices
    assert (device.name, device.labels, device.attributes, device.version) == ("A", {"x": "1", "y": "2"}, {"n": 1}, 2)
    patch = b'{"external_id": "a", "labels": {"x": null}, "attributes": {"n": null, "m": {"k": [1]}}}\n'
    await run(registry, scope, patch, mode=ImportMode.UPSERT, format=FileFormat.NDJSON)
    device = await registry.devices.get(scope, device.id)
    assert (device.labels, device.attributes) == ({"y": "2"}, {"m": {"k": [1]}})


async def test_status_by_file(registry: Registry, scope: TenantScope) -> None:
    await run(registry, scope, b"external_id,status\na,active\nb,suspended\nc,decommissioned\n")
    registry.events.seen.clear()
    data = b"external_id,status,name\na,suspended,\nb,active,\nc,active,\nc,decommissioned,\nc,,new\na,decommissioned,\n"
    results = await run(registry, scope, data, mode=ImportMode.UPSERT, credentials=ImportCredentials.ROTATE)
    assert outcomes(results) == ["2:updated", "3:updated", "4:bad", "5:unchanged", "6:bad", "7:bad"]
    assert [bool(r.password) for r in results] == [True, True, False, False, False, False]
    devices = (await registry.devices.list(scope)).devices
    assert [d.status for d in devices] == [Status.SUSPENDED, Status.REGISTERED, Status.DECOMMISSIONED]
    assert [event for _, _, event in registry.events.seen] == ["suspended", "resumed"]


async def test_same_device_twice_finds_what_the_first_left(registry: Registry, scope: TenantScope) -> None:
    data = b"external_id,attributes.n\n" + b"".join(b"a,%d\n" % n for n in range(5))
    results = await run(registry, scope, data, mode=ImportMode.UPSERT)
    assert outcomes(results) == ["2:created", "3:updated", "4:updated", "5:updated", "6:updated"]
    (device,) = (await registry.devices.list(scope)).devices
    assert device.attributes == {"n": 4}


async def test_rotation_is_bounded(registry: Registry, scope: TenantScope) -> None:
    for _ in range(12):
        await run(registry, scope, b"external_id\na\n", credentials=ImportCredentials.ROTATE)
    (device,) = (await registry.devices.list(scope)).devices
    credentials = await registry.credentials.list(scope, device.id)
    assert [c.revoked_at is None for c in credentials] == [True] * 10 + [False] * 2
    assert [noun for noun, _, _ in registry.events.seen] == ["credential"] * 2


async def test_quota_cuts_the_file(registry: Registry, tenant_factory: TenantFactory) -> None:
    scope = TenantScope(await tenant_factory(quotas={"devices_max": CHUNK_LINES + 3}), "system:test", ALL_PERMISSIONS)
    data = b"external_id\n" + b"".join(b"d%d\n" % n for n in range(CHUNK_LINES + 10))
    results = await run(registry, scope, data)
    bad = [r for r in results if r.outcome is Outcome.BAD]
    assert len(bad) == 7
    assert {r.code for r in bad} == {"tenant.quota_reached"}
    assert len(results) == CHUNK_LINES + 10


async def test_two_imports_of_one_file_at_once(registry: Registry, scope: TenantScope) -> None:
    rows = [b"d%d,%d\n" % (n, n) for n in range(1500)]
    first, second = b"external_id,attributes.n\n" + b"".join(rows), b"external_id,attributes.n\n" + b"".join(rows[::-1])
    both = await asyncio.gather(*(run(registry, scope, data, mode=ImportMode.UPSERT) for data in (first, second)))
    made = [r for results in both for r in results if r.outcome is Outcome.CREATED]
    assert len(made) == 1500
    assert not [r for results in both for r in results if r.outcome is Outcome.BAD]


async def test_who_may(registry: Registry, scope: TenantScope) -> None:
    data = b"external_id\na\n"
    with pytest.raises(Forbidden):
        await run(registry, replace(scope, permissions=frozenset({"device:read"})), data)
    with pytest.raises(Forbidden):
        await run(registry, replace(scope, permissions=frozenset({"device:write"})), data, credentials=ImportCredentials.NEW)
    with pytest.raises(ImportInvalid):
        await run(registry, scope, b"")


async def test_a_scope_of_one_group_changes_its_devices_only(registry: Registry, scope: TenantScope) -> None:
    await run(registry, scope, b"external_id,labels.g\nin,1\nout,2\n")
    group = await registry.groups.create(scope, "g", query='labels.g = "1"')
    narrow = replace(scope, group_id=group.id)
    with pytest.raises(GroupScoped):
        await run(registry, narrow, b"external_id\nin\n")
    results = await run(registry, narrow, b"external_id,name\nin,N\nout,N\n", mode=ImportMode.UPDATE)
    assert outcomes(results) == ["2:updated", "3:bad"]
    assert [d.name for d in (await registry.devices.list(scope)).devices] == ["N", ""]
    assert (await export(registry, narrow, FileFormat.NDJSON)).count(b"\n") == 1


@pytest.mark.parametrize("form", list(FileFormat))
async def test_export_reads_back_in_another_tenant(
    registry: Registry, scope: TenantScope, stranger: TenantScope, form: FileFormat
) -> None:
    await registry.profiles.create(scope, "p=1", ProfileDefinition())
    await registry.profiles.create(stranger, "p=1", ProfileDefinition())
    hard = [
        {"external_id": "=cmd", "name": '"quoted",\nand broken', "labels": {"a b": "+1", "c": "'"}},
        {"external_id": "'x", "name": "-", "profile": "p=1", "status": "suspended"},
        {"external_id": "ü-1", "attributes": {"n": "5", "m": 5, "f": 2.5, "t": "true", "e": "", "o": {"k": [None, "="]}}},
        {"external_id": "d", "attributes": {"s": "=HYPERLINK()", "neg": -3, "big": 2**53}},
    ]
    lines = b"\n".join(msgspec.json.encode(one) for one in hard)
    results = await run(registry, scope, lines, format=FileFormat.NDJSON)
    assert {r.outcome for r in results} == {Outcome.CREATED}, results
    data = await export(registry, scope, form)
    if form is FileFormat.CSV:
        assert not any(cell.startswith((b"=", b"+", b"@")) for line in data.splitlines() for cell in line.split(b","))
    results = await run(registry, stranger, data, format=form)
    assert {r.outcome for r in results} == {Outcome.CREATED}, results

    async def contents(of: TenantScope) -> list[object]:
        return [
            (d.external_id, d.name, d.profile, d.status, d.labels, d.attributes)
            for d in (await registry.devices.list(of)).devices
        ]

    assert await contents(scope) == await contents(stranger)
    assert (await export(registry, scope, form, q="status = suspended")).count(b"suspended") == 1

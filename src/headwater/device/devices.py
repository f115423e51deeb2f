"""Devices: made, found, changed, and led through their life. Refuses every step of a decommissioned device but deleting.

Each call honours the scope's group. A change is told to the gateways after its commit; they look again by themselves too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from headwater.database.session import Database
from headwater.device.device import (
    Device,
    DevicePatch,
    NewDevice,
    Status,
    check_external_id,
    check_name,
    check_text,
    merge_attributes,
    merge_labels,
)
from headwater.device.errors import DeviceDecommissioned
from headwater.device.filter import find_filter
from headwater.device.filter_sql import Parameters, compile_filter
from headwater.device.ports import Audit, RegistryEvents
from headwater.device.postgres import QUOTA_RETRY_S, DevicePage, fetch_page, find_device, lock_device, lock_usage
from headwater.device.sort import BY_ID, Order, Position, Sort
from headwater.device.visibility import (
    device_not_found,
    group_condition,
    require_group,
    require_whole_tenant,
    restriction,
)
from headwater.errors import Conflict, ReferenceUnknown, VersionConflict
from headwater.ids import uuid7
from headwater.tenancy.errors import TenantQuotaReached
from headwater.tenancy.scope import TenantScope


@dataclass(frozen=True, slots=True)
class DeviceService:
    database: Database
    events: RegistryEvents
    audit: Audit

    async def list(
        self,
        scope: TenantScope,
        *,
        q: str = "",
        sort: Sort = BY_ID,
        after: Position | None = None,
        limit: int = 100,
        group_id: UUID | None = None,
        known_group: bool = False,
    ) -> DevicePage:
        """Raises FilterInvalid and PositionInvalid.

        group_id     narrows to a group, beside what the scope allows
        known_group  raise NotFound where the group does not exist for the scope, instead of finding nothing
        """
        scope.require("device:read")
        parameters = Parameters()
        wanted = find_filter(q)
        conditions = [] if wanted is None else [compile_filter(wanted, parameters)]
        order = Order(sort, parameters)
        async with self.database.tenant_session(scope.tenant_id) as connection:
            conditions.append(await restriction(connection, scope, parameters))
            if known_group:
                await require_group(connection, scope, group_id)
            if group_id is not None:
                conditions.append(await group_condition(connection, group_id, parameters))
            condition = " AND ".join(f"({c})" for c in conditions)
            return await fetch_page(connection, parameters, condition, order, after=after, limit=limit)

    async def get(self, scope: TenantScope, device_id: UUID) -> Device:
        scope.require("device:read")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            return await _get(connection, scope, device_id)

    async def create(self, scope: TenantScope, new: NewDevice) -> Device:
        scope.require("device:write")
        require_whole_tenant(scope, "make devices")
        new.check()
        attributes = merge_attributes({}, new.attributes)
        device_id = uuid7()
        async with self.database.tenant_session(scope.tenant_id) as connection:
            quotas, devices = await lock_usage(connection, scope.tenant_id)
            if devices >= (limit := quotas.devices_max):
                detail = f"the tenant's quota is {limit} devices"
                raise TenantQuotaReached(detail, retry_after_s=QUOTA_RETRY_S, quota="devices_max", limit=limit)
            profile_id = await profile_named(connection, new.profile)
            try:
                await connection.execute(
                    "INSERT INTO device (id, tenant_id, external_id, name, profile_id, labels, attributes)"
                    " VALUES ($1, $2, $3, $4, $5, $6, $7)",
                    device_id, scope.tenant_id, new.external_id, new.name, profile_id, new.labels, attributes,
                )  # fmt: skip
            except asyncpg.UniqueViolationError as error:
                raise _external_id_taken(new.external_id) from error
            await self._record(connection, scope, "create", device_id, {"external_id": new.external_id})
            return await _get(connection, scope, device_id)

    async def update(self, scope: TenantScope, device_id: UUID, patch: DevicePatch, *, version: int | None = None) -> Device:
        """`version`: the one that the caller has seen. A patch that changes nothing raises no version."""
        scope.require("device:write")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            old = await _lock(connection, scope, device_id, version)
            if old["status"] == Status.DECOMMISSIONED:
                raise _decommissioned()
            changed = await _changes(connection, scope, old, patch)
            if changed:
                new = {**old, **changed}
                try:
                    await connection.execute(
                        "UPDATE device SET external_id = $2, name = $3, profile_id = $4, labels = $5, attributes = $6,"
                        " version = version + 1, updated_at = now() WHERE id = $1",
                        device_id, new["external_id"], new["name"], new["profile_id"], new["labels"], new["attributes"],
                    )  # fmt: skip
                except asyncpg.UniqueViolationError as error:
                    raise _external_id_taken(new["external_id"]) from error
                await self._record(connection, scope, "update", device_id, {"fields": sorted(changed)})
            device = await _get(connection, scope, device_id, leaving=True)
        if changed:
            await self.events.publish(scope.tenant_id, "device", device_id, "changed")
        return device

    async def suspend(self, scope: TenantScope, device_id: UUID, *, version: int | None = None) -> Device:
        """Its connections end and it may not come back until it is resumed."""
        scope.require("device:write")
        return await self._move(scope, device_id, version, "suspended", lambda _: Status.SUSPENDED)

    async def resume(self, scope: TenantScope, device_id: UUID, *, version: int | None = None) -> Device:
        """To active where it has ever been in contact, else to registered."""
        scope.require("device:write")
        return await self._move(scope, device_id, version, "resumed", _resumed)

    async def decommission(self, scope: TenantScope, device_id: UUID, *, version: int | None = None) -> Device:
        """For good: all credentials are revoked, connections end; what it said stays."""
        scope.require("device:delete")
        return await self._move(scope, device_id, version, "decommissioned", lambda _: Status.DECOMMISSIONED)

    async def delete(self, scope: TenantScope, device_id: UUID, *, version: int | None = None) -> None:
        """With its credentials, memberships and state. Its telemetry goes with the maintenance."""
        scope.require("device:delete")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            old = await _lock(connection, scope, device_id, version)
            await connection.execute("DELETE FROM device WHERE id = $1", device_id)
            await self._record(connection, scope, "delete", device_id, {"external_id": old["external_id"]})
        await self.events.publish(scope.tenant_id, "device", device_id, "deleted")

    async def _move(
        self, scope: TenantScope, device_id: UUID, version: int | None, event: str, target: Callable[[Any], Status]
    ) -> Device:
        async with self.database.tenant_session(scope.tenant_id) as connection:
            old = await _lock(connection, scope, device_id, version)
            status = target(old)
            if old["status"] == Status.DECOMMISSIONED and status != Status.DECOMMISSIONED:
                raise _decommissioned()
            moved = old["status"] != status
            if moved:
                await connection.execute(
                    "UPDATE device SET status = $2, version = version + 1, updated_at = now() WHERE id = $1",
                    device_id, status,
                )  # fmt: skip
                if status is Status.DECOMMISSIONED:
                    await connection.execute(
                        "UPDATE device_credential SET revoked_at = now() WHERE device_id = $1 AND revoked_at IS NULL",
                        device_id,
                    )
                await self._record(connection, scope, _VERB[event], device_id, {"from": old["status"], "to": status})
            device = await _get(connection, scope, device_id, leaving=True)
        if moved:
            await self.events.publish(scope.tenant_id, "device", device_id, event)
        return device

    async def _record(
        self, connection: Any, scope: TenantScope, verb: str, device_id: UUID, detail: dict[str, object]
    ) -> None:
        await self.audit.record(connection, scope, f"device:{verb}", f"device:{device_id}", detail)


_VERB = {"suspended": "suspend", "resumed": "resume", "decommissioned": "decommission"}


async def profile_named(connection: Any, name: str) -> UUID:
    check_text(name, "profile")
    profile_id: UUID | None = await connection.fetchval("SELECT id FROM profile WHERE name = $1", name)
    if profile_id is None:
        raise ReferenceUnknown(f"there is no profile {name!r}", "profile")
    return profile_id


def _resumed(old: Any) -> Status:
    if old["status"] != Status.SUSPENDED:
        return Status(old["status"]) if old["status"] != Status.DECOMMISSIONED else Status.REGISTERED
    return Status.ACTIVE if old["epoch"] else Status.REGISTERED


async def _get(connection: Any, scope: TenantScope, device_id: UUID, *, leaving: bool = False) -> Device:
    """leaving: the caller has just changed it, by which it may have left the group that the scope sees."""
    parameters = Parameters()
    visible = "TRUE" if leaving else await restriction(connection, scope, parameters)
    device = await find_device(connection, device_id, visible, parameters)
    if device is None:
        raise device_not_found(device_id)
    return device


async def _lock(connection: Any, scope: TenantScope, device_id: UUID, version: int | None) -> dict[str, Any]:
    parameters = Parameters()
    row = await lock_device(connection, device_id, await restriction(connection, scope, parameters), parameters)
    if row is None:
        raise device_not_found(device_id)
    if version is not None and row["version"] != version:
        raise VersionConflict("the device has been changed since", current_version=row["version"])
    return dict(row)


async def _changes(connection: Any, scope: TenantScope, old: dict[str, Any], patch: DevicePatch) -> dict[str, Any]:
    """Column -> new value, only what differs."""
    new: dict[str, Any] = {}
    if patch.external_id is not msgspec.UNSET:
        check_external_id(patch.external_id)
        if patch.external_id != old["external_id"]:
            require_whole_tenant(scope, "rename devices")
        new["external_id"] = patch.external_id
    if patch.name is not msgspec.UNSET:
        check_name(patch.name)
        new["name"] = patch.name
    if patch.profile is not msgspec.UNSET:
        new["profile_id"] = await profile_named(connection, patch.profile)
    if patch.labels is not msgspec.UNSET:
        new["labels"] = merge_labels(old["labels"], patch.labels)
    if patch.attributes is not msgspec.UNSET:
        new["attributes"] = merge_attributes(old["attributes"], patch.attributes)
    return {column: value for column, value in new.items() if value != old[column]}


def _decommissioned() -> DeviceDecommissioned:
    return DeviceDecommissioned("the device is decommissioned, which is final")


def _external_id_taken(external_id: str) -> Conflict:
    return Conflict(f"there is a device with the external id {external_id!r} already", field="external_id")

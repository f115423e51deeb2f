"""Groups of devices: static, whose members are listed, and by query, whose members are what a filter finds right now.

A scope of one group sees that group only and changes none: its members are what it is allowed to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from headwater.database.session import Database
from headwater.device.device import check_text
from headwater.device.errors import GroupInUse, GroupInvalid
from headwater.device.filter import parse_filter
from headwater.device.filter_sql import Parameters, compile_filter
from headwater.device.ports import Audit, RegistryEvents
from headwater.device.postgres import require_room
from headwater.device.visibility import group_not_found, require_whole_tenant, visible_devices
from headwater.errors import Conflict, VersionConflict
from headwater.ids import uuid7
from headwater.tenancy.scope import TenantScope

MEMBERS_AT_ONCE_MAX = 10_000
"""Of one call that adds or removes: 400 KiB of JSON."""


class GroupKind(StrEnum):
    STATIC = "static"
    QUERY = "query"


class Group(msgspec.Struct, frozen=True):
    """query: only where kind is `query`"""

    id: UUID
    name: str
    kind: GroupKind
    query: str | None
    description: str
    version: int
    created_at: datetime
    updated_at: datetime


class MembersChanged(msgspec.Struct, frozen=True):
    """changed: how many were added or removed; unknown: ids that are no device of this tenant"""

    changed: int
    unknown: list[UUID]


@dataclass(frozen=True, slots=True)
class GroupService:
    database: Database
    events: RegistryEvents
    audit: Audit

    async def list(self, scope: TenantScope, *, after: str | None = None, limit: int = 100) -> list[Group]:
        """By name; `after` is the last name of the page before."""
        scope.require("group:read")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            rows = await connection.fetch(
                "SELECT * FROM device_group WHERE ($1::text IS NULL OR name > $1) AND ($2::uuid IS NULL OR id = $2)"
                " ORDER BY name LIMIT $3",
                after, scope.group_id, limit,
            )  # fmt: skip
        return [_group_of(row) for row in rows]

    async def get(self, scope: TenantScope, group_id: UUID) -> Group:
        scope.require("group:read")
        if scope.group_id not in {None, group_id}:
            raise group_not_found(group_id)
        async with self.database.tenant_session(scope.tenant_id) as connection:
            row = await connection.fetchrow("SELECT * FROM device_group WHERE id = $1", group_id)
        if row is None:
            raise group_not_found(group_id)
        return _group_of(row)

    async def create(self, scope: TenantScope, name: str, *, query: str | None = None, description: str = "") -> Group:
        """With a query its members are what the query finds; else they are listed."""
        scope.require("group:write")
        require_whole_tenant(scope, "make groups")
        _check(name, query, description)
        group_id = uuid7()
        kind = GroupKind.STATIC if query is None else GroupKind.QUERY
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await require_room(connection, scope.tenant_id, "device_group", "groups_max")
            try:
                row = await connection.fetchrow(
                    "INSERT INTO device_group (id, tenant_id, name, kind, query, description)"
                    " VALUES ($1, $2, $3, $4, $5, $6) RETURNING *",
                    group_id, scope.tenant_id, name, kind, query, description,
                )  # fmt: skip
            except asyncpg.UniqueViolationError as error:
                raise _name_taken(name) from error
            await self._record(connection, scope, "create", group_id, {"name": name, "query": query})
        return _group_of(row)

    async def update(
        self,
        scope: TenantScope,
        group_id: UUID,
        *,
        name: str | None = None,
        query: str | None = None,
        description: str | None = None,
        version: int | None = None,
    ) -> Group:
        """None leaves as it is. A static group takes no query: the kind is for life."""
        scope.require("group:write")
        require_whole_tenant(scope, "change groups")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            old = await _lock(connection, group_id, version)
            if query is not None and old.kind is GroupKind.STATIC:
                raise Conflict("the members of this group are listed: it has no query", field="query")
            new_name, new_query = name if name is not None else old.name, query if query is not None else old.query
            new_description = description if description is not None else old.description
            _check(new_name, new_query, new_description)
            try:
                row = await connection.fetchrow(
                    "UPDATE device_group SET name = $2, query = $3, description = $4, version = version + 1,"
                    " updated_at = now() WHERE id = $1 RETURNING *",
                    group_id, new_name, new_query, new_description,
                )  # fmt: skip
            except asyncpg.UniqueViolationError as error:
                raise _name_taken(new_name) from error
            await self._record(connection, scope, "update", group_id, {"name": new_name, "query": new_query})
        await self.events.publish(scope.tenant_id, "group", group_id, "changed")
        return _group_of(row)

    async def delete(self, scope: TenantScope, group_id: UUID, *, version: int | None = None) -> None:
        """Raises GroupInUse while a token is limited to it: a program would end that nobody meant to end."""
        scope.require("group:delete")
        require_whole_tenant(scope, "delete groups")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            old = await _lock(connection, group_id, version)
            if await connection.fetchval("SELECT EXISTS (SELECT FROM api_token WHERE group_id = $1)", group_id):
                raise GroupInUse("tokens are limited to this group; delete them first")
            await connection.execute("DELETE FROM device_group WHERE id = $1", group_id)
            await self._record(connection, scope, "delete", group_id, {"name": old.name})
        await self.events.publish(scope.tenant_id, "group", group_id, "deleted")

    async def add_members(self, scope: TenantScope, group_id: UUID, device_ids: Sequence[UUID]) -> MembersChanged:
        return await self._change_members(
            scope, group_id, device_ids, "add",
            "INSERT INTO device_group_member (tenant_id, group_id, device_id)"
            " SELECT $1, $2, unnest($3::uuid[]) ON CONFLICT DO NOTHING",
        )  # fmt: skip

    async def remove_members(self, scope: TenantScope, group_id: UUID, device_ids: Sequence[UUID]) -> MembersChanged:
        return await self._change_members(
            scope, group_id, device_ids, "remove",
            "DELETE FROM device_group_member WHERE tenant_id = $1 AND group_id = $2 AND device_id = ANY($3::uuid[])",
        )  # fmt: skip

    async def _change_members(
        self, scope: TenantScope, group_id: UUID, device_ids: Sequence[UUID], verb: str, statement: str
    ) -> MembersChanged:
        scope.require("group:write")
        require_whole_tenant(scope, "change groups")
        if len(device_ids) > MEMBERS_AT_ONCE_MAX:
            raise GroupInvalid(f"at most {MEMBERS_AT_ONCE_MAX} devices at once", field="device_ids")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            group = await _lock(connection, group_id, None)
            if group.kind is GroupKind.QUERY:
                raise Conflict("the members of this group are what its query finds")
            known = await visible_devices(connection, scope, device_ids)
            status = await connection.execute(statement, scope.tenant_id, group_id, sorted(known))
            changed = int(status.rsplit(" ", 1)[-1])
            if changed:
                await self._record(connection, scope, f"{verb}_members", group_id, {"count": changed})
        if changed:
            await self.events.publish(scope.tenant_id, "group", group_id, "changed")
        return MembersChanged(changed, [d for d in dict.fromkeys(device_ids) if d not in known])

    async def _record(
        self, connection: Any, scope: TenantScope, verb: str, group_id: UUID, detail: dict[str, object]
    ) -> None:
        await self.audit.record(connection, scope, f"group:{verb}", f"group:{group_id}", detail)


async def _lock(connection: Any, group_id: UUID, version: int | None) -> Group:
    row = await connection.fetchrow("SELECT * FROM device_group WHERE id = $1 FOR UPDATE", group_id)
    if row is None:
        raise group_not_found(group_id)
    if version is not None and row["version"] != version:
        raise VersionConflict("the group has been changed since", current_version=row["version"])
    return _group_of(row)


def _group_of(row: Any) -> Group:
    return Group(
        row["id"],
        row["name"],
        GroupKind(row["kind"]),
        row["query"],
        row["description"],
        row["version"],
        row["created_at"],
        row["updated_at"],
    )


def _check(name: str, query: str | None, description: str) -> None:
    if not 1 <= len(name) <= 200 or name != name.strip():
        raise GroupInvalid("a group's name has 1 to 200 characters, without outer spaces", field="name")
    if len(description) > 2000:
        raise GroupInvalid("a description has at most 2000 characters", field="description")
    check_text(name, "name")
    check_text(description, "description")
    if query is not None:
        compile_filter(parse_filter(query), Parameters())


def _name_taken(name: str) -> Conflict:
    return Conflict(f"there is a group {name!r} already", field="name")

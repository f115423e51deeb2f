"""Profiles: what each model of device can do. A change raises the version, by which gateways know what to compile anew."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from headwater.database.session import Database
from headwater.device.device import check_text
from headwater.device.errors import ProfileInUse, ProfileInvalid
from headwater.device.ports import Audit, RegistryEvents
from headwater.device.postgres import require_room
from headwater.device.profile import ProfileDefinition
from headwater.device.profile_rules import check_profile
from headwater.device.visibility import require_whole_tenant
from headwater.errors import Conflict, NotFound, VersionConflict
from headwater.ids import uuid7
from headwater.tenancy.scope import TenantScope

DEFAULT = "default"
"""The profile of a device that names none. Made with the tenant; keeps its name."""


class Profile(msgspec.Struct, frozen=True):
    id: UUID
    name: str
    definition: ProfileDefinition
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ProfileService:
    database: Database
    events: RegistryEvents
    audit: Audit

    async def list(self, scope: TenantScope, *, after: str | None = None, limit: int = 100) -> list[Profile]:
        """By name; `after` is the last name of the page before."""
        scope.require("profile:read")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            rows = await connection.fetch(
                "SELECT * FROM profile WHERE $1::text IS NULL OR name > $1 ORDER BY name LIMIT $2", after, limit
            )
        return [_profile_of(row) for row in rows]

    async def get(self, scope: TenantScope, profile_id: UUID) -> Profile:
        scope.require("profile:read")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            row = await connection.fetchrow("SELECT * FROM profile WHERE id = $1", profile_id)
        if row is None:
            raise _not_found(profile_id)
        return _profile_of(row)

    async def find(self, scope: TenantScope, name: str) -> Profile | None:
        scope.require("profile:read")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            row = await connection.fetchrow("SELECT * FROM profile WHERE name = $1", name)
        return None if row is None else _profile_of(row)

    async def create(self, scope: TenantScope, name: str, definition: ProfileDefinition) -> Profile:
        scope.require("profile:write")
        require_whole_tenant(scope, "make profiles")
        _check_name(name)
        check_profile(definition)
        profile_id = uuid7()
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await require_room(connection, scope.tenant_id, "profile", "profiles_max")
            try:
                row = await connection.fetchrow(
                    "INSERT INTO profile (id, tenant_id, name, definition) VALUES ($1, $2, $3, $4) RETURNING *",
                    profile_id, scope.tenant_id, name, msgspec.to_builtins(definition),
                )  # fmt: skip
            except asyncpg.UniqueViolationError as error:
                raise _name_taken(name) from error
            await self.audit.record(connection, scope, "profile:create", f"profile:{profile_id}", {"name": name})
        return _profile_of(row)

    async def update(
        self,
        scope: TenantScope,
        profile_id: UUID,
        *,
        name: str | None = None,
        definition: ProfileDefinition | None = None,
        version: int | None = None,
    ) -> Profile:
        """None leaves as it is. `version`: the one that the caller has seen. Raises VersionConflict."""
        scope.require("profile:write")
        require_whole_tenant(scope, "change profiles")
        if name is not None:
            _check_name(name)
        if definition is not None:
            check_profile(definition)
        async with self.database.tenant_session(scope.tenant_id) as connection:
            old = await _lock(connection, profile_id, version)
            if name not in {None, old.name} and old.name == DEFAULT:
                raise Conflict("the default profile keeps its name")
            new_name, new_definition = name or old.name, definition or old.definition
            if (new_name, new_definition) == (old.name, old.definition):
                return old
            try:
                row = await connection.fetchrow(
                    "UPDATE profile SET name = $2, definition = $3, version = version + 1, updated_at = now()"
                    " WHERE id = $1 RETURNING *",
                    profile_id, new_name, msgspec.to_builtins(new_definition),
                )  # fmt: skip
            except asyncpg.UniqueViolationError as error:
                raise _name_taken(new_name) from error
            await self.audit.record(
                connection, scope, "profile:update", f"profile:{profile_id}", {"name": new_name, "version": row["version"]}
            )
        await self.events.publish(scope.tenant_id, "profile", profile_id, "changed")
        return _profile_of(row)

    async def delete(self, scope: TenantScope, profile_id: UUID, *, version: int | None = None) -> None:
        """Raises ProfileInUse while a device has it."""
        scope.require("profile:delete")
        require_whole_tenant(scope, "delete profiles")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            old = await _lock(connection, profile_id, version)
            if old.name == DEFAULT:
                raise Conflict("the default profile stays: devices that name no profile get it")
            try:
                await connection.execute("DELETE FROM profile WHERE id = $1", profile_id)
            except asyncpg.ForeignKeyViolationError as error:
                raise ProfileInUse("devices have this profile; give them another one first") from error
            await self.audit.record(connection, scope, "profile:delete", f"profile:{profile_id}", {"name": old.name})
        await self.events.publish(scope.tenant_id, "profile", profile_id, "deleted")


async def _lock(connection: Any, profile_id: UUID, version: int | None) -> Profile:
    row = await connection.fetchrow("SELECT * FROM profile WHERE id = $1 FOR UPDATE", profile_id)
    if row is None:
        raise _not_found(profile_id)
    if version is not None and row["version"] != version:
        raise VersionConflict("the profile has been changed since", current_version=row["version"])
    return _profile_of(row)


def _profile_of(row: Any) -> Profile:
    return Profile(
        row["id"],
        row["name"],
        msgspec.convert(row["definition"], ProfileDefinition),
        row["version"],
        row["created_at"],
        row["updated_at"],
    )


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= 200 or name != name.strip():
        raise ProfileInvalid("a profile's name has 1 to 200 characters, without outer spaces", "/name")
    check_text(name, "name")


def _not_found(profile_id: UUID) -> NotFound:
    return NotFound("there is no such profile", noun="profile", id=str(profile_id))


def _name_taken(name: str) -> Conflict:
    return Conflict(f"there is a profile {name!r} already", field="name")

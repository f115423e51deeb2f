"""A tenant, as its own people see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from headwater.database.session import Database
from headwater.errors import VersionConflict
from headwater.tenancy import postgres_tenants as postgres
from headwater.tenancy.audit import AuditEntry, AuditTrail
from headwater.tenancy.quotas import Quotas, quotas_of
from headwater.tenancy.scope import TenantScope
from headwater.tenancy.text import NO_NUL, Name


class Tenant(msgspec.Struct, frozen=True):
    """status: active or suspended"""

    id: UUID
    slug: str
    name: str
    status: str
    quotas: Quotas
    version: int
    created_at: datetime
    updated_at: datetime


class TenantChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name


FilterText = Annotated[str, Meta(max_length=200, pattern=NO_NUL)]


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """None = whatever. since is inclusive, until is not."""

    actor: str | None = None
    action: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class TenantService:
    database: Database
    audit: AuditTrail

    async def get(self, scope: TenantScope) -> Tenant:
        async with self.database.tenant_session(scope.tenant_id) as connection:
            return tenant_of(await postgres.find_own(connection))

    async def change(self, scope: TenantScope, change: TenantChange, expected: int | None) -> Tenant:
        """Raises VersionConflict."""
        async with self.database.tenant_session(scope.tenant_id) as connection:
            old = tenant_of(await postgres.find_own(connection, lock=True))
            if expected is not None and expected != old.version:
                raise VersionConflict("it has changed since you looked", version=old.version)
            if change.name == old.name:
                return old
            await self.audit.record(
                connection, scope, "tenant:change", f"tenant:{old.id}", {"name": {"from": old.name, "to": change.name}}
            )
            return tenant_of(await postgres.rename_own(connection, change.name))

    async def audit_entries(
        self, scope: TenantScope, wanted: AuditFilter, after: UUID | None, limit: int
    ) -> list[AuditEntry]:
        """Newest first, up to limit + 1."""
        async with self.database.tenant_session(scope.tenant_id) as connection:
            rows = await postgres.list_audit(
                connection,
                actor=wanted.actor,
                action=wanted.action,
                subject=wanted.subject,
                since=wanted.since,
                until=wanted.until,
                after=after,
                limit=limit + 1,
            )
            return [AuditEntry(**row) for row in rows]


def tenant_of(row: Any) -> Tenant:
    """row: of the columns that Tenant has."""
    return Tenant(**{**row, "quotas": quotas_of(row["quotas"])})

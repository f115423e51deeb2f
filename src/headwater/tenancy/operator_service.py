"""What the operator of the platform does through the API. Every call is one transaction on the operator's own pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Protocol
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Meta

from headwater.clock import Clock, to_datetime
from headwater.errors import NotFound, Unavailable, VersionConflict
from headwater.tenancy import operation, postgres_sessions, secrets
from headwater.tenancy import postgres_tenants as postgres
from headwater.tenancy.errors import TokenInUse
from headwater.tenancy.identity import Identity
from headwater.tenancy.operation import NewTenant, OperatedTenant, operated
from headwater.tenancy.passwords import Passwords
from headwater.tenancy.quotas import Quotas, stored_of
from headwater.tenancy.text import Name
from headwater.tenancy.tokens import LIFETIME_S_MAX


class RegistryEvents(Protocol):
    async def publish(self, tenant_id: UUID, noun: str, identifier: UUID, event: str) -> None: ...


class OperatorToken(msgspec.Struct, frozen=True):
    id: UUID
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewOperatorToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """expires_in_s: null = never."""

    name: Name
    expires_in_s: Annotated[int, Meta(ge=60, le=LIFETIME_S_MAX)] | None = None


class OperatorEntry(msgspec.Struct, frozen=True):
    """actor: who did it, as in `operator:<uuid>`; subject: what it was done to, as in `tenant:<uuid>`;
    address: where the request came from; detail: what more there is to say, by action."""

    id: UUID
    at: datetime
    actor: str
    action: str
    subject: str
    address: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OperatorService:
    """pool: of headwater_operator; None = this server has no operator's plane"""

    pool: asyncpg.Pool | None
    passwords: Passwords
    events: RegistryEvents
    clock: Clock

    async def create(self, who: Identity, new: NewTenant) -> OperatedTenant:
        """Raises SlugTaken."""
        password_hash = await self.passwords.hash(new.owner.password)
        async with self._transaction() as connection:
            made = await operation.create_tenant_with_owner(
                connection,
                slug=new.slug,
                name=new.name,
                email=new.owner.email,
                password_hash=password_hash,
                owner_name=new.owner.name,
                quotas=new.quotas,
            )
            await self._record(
                connection, who, "tenant:create", made.tenant_id, {"slug": new.slug, "owner": f"person:{made.owner_id}"}
            )
            return operated(await postgres.find_tenant(connection, made.tenant_id))

    async def page(self, status: str | None, after: str | None, limit: int) -> list[OperatedTenant]:
        """By slug, up to limit + 1."""
        async with self._transaction() as connection:
            return [operated(row) for row in await postgres.list_tenants(connection, status, after, limit + 1)]

    async def get(self, tenant_id: UUID) -> OperatedTenant:
        """Raises NotFound."""
        async with self._transaction() as connection:
            return operated(await postgres.find_tenant(connection, tenant_id))

    async def set_status(self, who: Identity, tenant_id: UUID, status: str) -> OperatedTenant:
        """active or suspended: at once for people and tokens, and devices are disconnected. Raises NotFound."""
        async with self._transaction() as connection:
            old = await self._lock(connection, tenant_id, None)
            if old["status"] != status:
                await postgres.update_tenant(connection, tenant_id, status=status, quotas=old["quotas"])
                await self._record(connection, who, f"tenant:{_VERB[status]}", tenant_id, {})
            tenant = operated(await postgres.find_tenant(connection, tenant_id))
        await self.events.publish(tenant_id, "tenant", tenant_id, "suspended" if status == "suspended" else "resumed")
        return tenant

    async def set_quotas(self, who: Identity, tenant_id: UUID, quotas: Quotas, expected: int | None) -> OperatedTenant:
        """Raises NotFound, VersionConflict."""
        stored = stored_of(quotas)
        async with self._transaction() as connection:
            old = await self._lock(connection, tenant_id, expected)
            if old["quotas"] != stored:
                await postgres.update_tenant(connection, tenant_id, status=old["status"], quotas=stored)
                await self._record(connection, who, "tenant:set_quotas", tenant_id, {"from": old["quotas"], "to": stored})
            tenant = operated(await postgres.find_tenant(connection, tenant_id))
        await self.events.publish(tenant_id, "tenant", tenant_id, "changed")
        return tenant

    async def delete(self, who: Identity, tenant_id: UUID, expected: int | None) -> None:
        """Everything but telemetry goes now, telemetry by the worker's maintenance. Raises NotFound, VersionConflict."""
        async with self._transaction() as connection:
            old = await self._lock(connection, tenant_id, expected)
            await self._record(connection, who, "tenant:delete", tenant_id, {"slug": old["slug"], "name": old["name"]})
            await postgres.delete_tenant(connection, tenant_id)
        await self.events.publish(tenant_id, "tenant", tenant_id, "deleted")

    # --- operator tokens, and what operators did -----------------------------------------------------------------------

    async def create_token(self, who: Identity, new: NewOperatorToken) -> tuple[OperatorToken, secrets.Secret]:
        """The secret is shown once."""
        expires_at = None if new.expires_in_s is None else to_datetime(self.clock.now_us() + new.expires_in_s * 1_000_000)
        async with self._transaction() as connection:
            secret = await operation.mint_operator_token(connection, new.name, expires_at=expires_at)
            await self._record(connection, who, "operator_token:create", secret.row_id, {"name": new.name})
            return _token(await self._find_token(connection, secret.row_id)), secret

    async def list_tokens(self, after: UUID | None, limit: int) -> list[OperatorToken]:
        """Newest first, up to limit + 1."""
        async with self._transaction() as connection:
            rows = await connection.fetch(
                "SELECT id, name, created_at, expires_at, revoked_at FROM operator_token"
                " WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2",
                after, limit + 1,
            )  # fmt: skip
            return [_token(row) for row in rows]

    async def revoke_token(self, who: Identity, token_id: UUID) -> OperatorToken:
        """At once. Again is no error. Raises NotFound, TokenInUse."""
        if who.actor == f"operator:{token_id}":
            raise TokenInUse("this is the token that you use: end it with another one, or log in")
        async with self._transaction() as connection:
            token = _token(await self._find_token(connection, token_id))
            if token.revoked_at is None:
                await connection.execute("UPDATE operator_token SET revoked_at = now() WHERE id = $1", token_id)
                await self._record(connection, who, "operator_token:revoke", token_id, {"name": token.name})
            return _token(await self._find_token(connection, token_id))

    async def suspend_person(self, who: Identity, person_id: UUID, *, suspended: bool) -> None:
        """In every tenant, at once. Raises NotFound."""
        async with self._transaction() as connection:
            status = "suspended" if suspended else "active"
            if not await connection.fetchval(
                "UPDATE person SET status = $2, version = version + 1, updated_at = now() WHERE id = $1 RETURNING true",
                person_id, status,
            ):  # fmt: skip
                raise NotFound("no such person")
            if suspended:
                await postgres_sessions.end_sessions_of(connection, person_id)
            await self._record(connection, who, f"person:{_VERB[status]}", person_id, {})

    async def entries(self, after: UUID | None, limit: int) -> list[OperatorEntry]:
        """Newest first, up to limit + 1."""
        async with self._transaction() as connection:
            rows = await connection.fetch(
                "SELECT id, at, actor, action, subject, address, detail FROM operator_audit_entry"
                " WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2",
                after, limit + 1,
            )  # fmt: skip
            return [OperatorEntry(**row) for row in rows]

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        if self.pool is None:
            raise Unavailable("this server has no connection for the operator's plane")
        async with self.pool.acquire() as connection, connection.transaction():
            yield connection

    async def _lock(self, connection: Any, tenant_id: UUID, expected: int | None) -> Any:
        row = await postgres.lock_tenant(connection, tenant_id)
        if row is None:
            raise NotFound("no such tenant")
        if expected is not None and expected != row["version"]:
            raise VersionConflict("it has changed since you looked", version=row["version"])
        return row

    async def _find_token(self, connection: Any, token_id: UUID) -> Any:
        return await connection.fetchrow(
            "SELECT id, name, created_at, expires_at, revoked_at FROM operator_token WHERE id = $1", token_id
        )

    async def _record(
        self, connection: Any, who: Identity, action: str, subject_id: UUID, detail: dict[str, object]
    ) -> None:
        noun = action.split(":", maxsplit=1)[0]
        await operation.record(
            connection, actor=who.actor, action=action, subject=f"{noun}:{subject_id}", address=who.address, detail=detail
        )


_VERB = {"suspended": "suspend", "active": "resume"}


def _token(row: Any) -> OperatorToken:
    if row is None:
        raise NotFound("no such token")
    return OperatorToken(**row)

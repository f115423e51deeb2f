"""API tokens: what programs hold. Scoped to permissions and perhaps to one device group, shown once, kept as a hash.

Nobody gives away what he or she does not hold: a token has a subset of its creator's permissions, and it ends when its
creator leaves or loses a permission that it has (`people.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from headwater.clock import Clock, to_datetime
from headwater.database.session import Database
from headwater.errors import NotFound
from headwater.ids import uuid7
from headwater.tenancy import postgres_tokens as postgres
from headwater.tenancy import secrets
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.errors import PermissionNotHeld, TenantQuotaReached, TokenInUse
from headwater.tenancy.quotas import Quotas
from headwater.tenancy.scope import Permission, TenantScope
from headwater.tenancy.text import Name

LIFETIME_S_MAX = 10 * 366 * 86_400


class APIToken(msgspec.Struct, frozen=True):
    """created_by: an actor. group_id: only the devices of this group. revoked_at, expires_at: in the past = of no use."""

    id: UUID
    name: str
    permissions: list[str]
    group_id: UUID | None
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """permissions: a subset of your own. expires_in_s: null = never."""

    name: Name
    permissions: Annotated[list[Permission], Meta(min_length=1, max_length=len(Permission))]
    group_id: UUID | None = None
    expires_in_s: Annotated[int, Meta(ge=60, le=LIFETIME_S_MAX)] | None = None


@dataclass(frozen=True, slots=True)
class TokenService:
    database: Database
    audit: AuditTrail
    clock: Clock

    async def create(self, scope: TenantScope, quotas: Quotas, new: NewToken) -> tuple[APIToken, secrets.Secret]:
        """The secret is shown to the creator and never again. Raises PermissionNotHeld, NotFound, TenantQuotaReached."""
        missing = sorted(set(new.permissions) - scope.permissions)
        if missing:
            raise PermissionNotHeld("you cannot give away what you do not hold", permissions=missing)
        secret = secrets.mint(secrets.API, uuid7())
        expires_at = None if new.expires_in_s is None else to_datetime(self.clock.now_us() + new.expires_in_s * 1_000_000)
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await postgres.queue_up(connection, scope.tenant_id, "token")
            if await postgres.count_tokens(connection) >= quotas.tokens_max:
                raise TenantQuotaReached(
                    "the tenant has as many tokens as it may", retry_after_s=3600, max=quotas.tokens_max
                )
            if new.group_id is not None and not await postgres.group_exists(connection, new.group_id):
                raise NotFound("no such group")
            token = _found(
                await postgres.insert_token(
                    connection,
                    scope,
                    secret,
                    name=new.name,
                    permissions=sorted(set(new.permissions)),
                    group_id=new.group_id,
                    expires_at=expires_at,
                )
            )
            await self.audit.record(
                connection, scope, "token:create", f"token:{token.id}",
                {"name": token.name, "permissions": token.permissions, "group_id": token.group_id, "expires_at": expires_at},
            )  # fmt: skip
        return token, secret

    async def page(self, scope: TenantScope, after: UUID | None, limit: int) -> list[APIToken]:
        """Newest first, up to limit + 1."""
        async with self.database.tenant_session(scope.tenant_id) as connection:
            return [_found(row) for row in await postgres.list_tokens(connection, after, limit + 1)]

    async def get(self, scope: TenantScope, token_id: UUID) -> APIToken:
        """Raises NotFound."""
        async with self.database.tenant_session(scope.tenant_id) as connection:
            return _found(await postgres.find_token(connection, token_id))

    async def revoke(self, scope: TenantScope, token_id: UUID) -> APIToken:
        """It, and what was made with it, stop working at once but stay listed. Again is no error.

        Raises NotFound, TokenInUse.
        """
        _check_not_own(scope, token_id)
        async with self.database.tenant_session(scope.tenant_id) as connection:
            token = _found(await postgres.find_token(connection, token_id))
            if token.revoked_at is None:
                await postgres.revoke_tokens_of(connection, f"token:{token_id}")
                token = _found(await postgres.revoke_token(connection, token_id))
                await self.audit.record(connection, scope, "token:revoke", f"token:{token_id}", {"name": token.name})
            return token

    async def delete(self, scope: TenantScope, token_id: UUID) -> None:
        """Like revoke, and it is listed no more; the audit trail keeps it. Raises NotFound, TokenInUse."""
        _check_not_own(scope, token_id)
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await postgres.revoke_tokens_of(connection, f"token:{token_id}")
            name = await postgres.delete_token(connection, token_id)
            if name is None:
                raise NotFound("no such token")
            await self.audit.record(connection, scope, "token:delete", f"token:{token_id}", {"name": name})


def _check_not_own(scope: TenantScope, token_id: UUID) -> None:
    if scope.actor == f"token:{token_id}":
        raise TokenInUse("this is the token that you use: end it with another one, or log in")


def _found(row: postgres.Row) -> APIToken:
    if row is None:
        raise NotFound("no such token")
    return APIToken(**row)

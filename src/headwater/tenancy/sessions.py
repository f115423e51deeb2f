"""Sessions of people: password in, a short-lived access token and a rotating refresh token out.

A refresh token is good for one use and gives the next of its family. One that is used twice was stolen from somebody, and
nobody can say from whom: the whole session ends. An access token is for one tenant; `switch` gives one for another.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from headwater.clock import Clock, to_datetime
from headwater.database.session import Database
from headwater.ids import uuid7
from headwater.tenancy import postgres_sessions as postgres
from headwater.tenancy import secrets
from headwater.tenancy.access_tokens import LIFETIME_S, AccessClaims, AccessTokens
from headwater.tenancy.attempts import Attempts
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.errors import (
    CredentialsWrong,
    NotAMember,
    PersonSuspended,
    TenantSuspended,
    TokenExpired,
    TokenRevoked,
)
from headwater.tenancy.identity import Identity
from headwater.tenancy.passwords import Passwords
from headwater.tenancy.scope import PERMISSIONS, Role, TenantScope

UNUSED_MAX = timedelta(days=30)
"""A session that nobody refreshed for so long is over."""
SESSION_MAX = timedelta(days=90)
"""After that even a busy person shows the password again."""


class Membership(msgspec.Struct, frozen=True):
    """status: active or suspended"""

    tenant_id: UUID
    slug: str
    name: str
    status: str
    role: Role


class SessionPerson(msgspec.Struct, frozen=True):
    """operator: of the platform"""

    id: UUID
    email: str
    name: str
    operator: bool


class Session(msgspec.Struct, frozen=True):
    """tenant: what the access token is for; null = none yet, switch to one. tenants: all that the person works for.

    refresh_token: null where the one in hand stays good (switch).
    """

    access_token: str
    expires_in_s: int
    refresh_token: str | None
    person: SessionPerson
    tenant: Membership | None
    tenants: list[Membership]
    token_type: str = "Bearer"


@dataclass(frozen=True, slots=True)
class SessionService:
    database: Database
    passwords: Passwords
    attempts: Attempts
    access_tokens: AccessTokens
    audit: AuditTrail
    clock: Clock

    async def login(self, email: str, password: str, slug: str | None, address: str) -> Session:
        """slug: of the tenant to act for; None = the first active one.

        Raises CredentialsWrong, TooManyAttempts, PersonSuspended, NotAMember, TenantSuspended.
        """
        person = await self.check_password(email, password, address)
        return await self.start(person, slug, address)

    async def check_password(self, email: str, password: str, address: str) -> Any:
        """The person's row. Raises CredentialsWrong, TooManyAttempts, PersonSuspended."""
        self.attempts.check(email, address)
        async with self.database.lookup_session() as connection:
            person = await postgres.find_person_by_email(connection, email)
        # No connection is held while the hash is computed.
        verdict = await self.passwords.verify(person["password_hash"] if person else None, password)
        if not verdict.right:
            self.attempts.failed(email, address)
            raise CredentialsWrong("the e-mail address or the password is wrong")
        self.attempts.succeeded(email, address)
        if person["status"] != "active":
            raise PersonSuspended("the person is suspended")
        if verdict.fresh_hash is not None:
            async with self.database.lookup_session() as connection:
                await postgres.set_password(connection, person["id"], verdict.fresh_hash)
        return person

    async def start(self, person: Any, slug: str | None, address: str) -> Session:
        """A session for somebody who has proved who he or she is."""
        family_id, now = uuid7(), self._now()
        async with self.database.lookup_session() as connection:
            tenants = await _memberships(connection, person["id"])
            tenant = _choose(tenants, slug)
            secret = await self._next(connection, family_id, person["id"], tenant, started_at=now)
        if tenant is not None:
            scope = TenantScope(tenant.tenant_id, f"person:{person['id']}", PERMISSIONS[tenant.role], address=address)
            async with self.database.tenant_session(tenant.tenant_id) as connection:
                await self.audit.record(connection, scope, "session:start", f"person:{person['id']}")
        return self._session(person, family_id, tenant, tenants, secret)

    async def refresh(self, text: str, slug: str | None = None) -> Session:
        """Raises TokenRevoked, TokenExpired, PersonSuspended, NotAMember, TenantSuspended."""
        presented = secrets.parse(text, secrets.REFRESH)
        if presented is None:
            raise TokenRevoked("not a refresh token that is in use")
        async with self.database.lookup_session() as connection, connection.transaction():
            row = await postgres.lock_refresh_token(connection, presented.row_id)
            if row is None or not presented.matches(row["secret_hash"]) or row["revoked_at"] is not None:
                raise TokenRevoked("not a refresh token that is in use")
            stolen = row["used_at"] is not None
            if stolen:
                await postgres.end_session(connection, row["family_id"])
            elif row["expires_at"] <= self._now():
                raise TokenExpired("the session was not used for too long")
            else:
                return await self._renew(connection, row, slug)
        # Only here, so that ending the session has been committed.
        raise TokenRevoked("the refresh token was used before: the session has ended")

    async def switch(self, identity: Identity, slug: str) -> Session:
        """An access token for another tenant, in the same session. Raises NotAMember, TenantSuspended."""
        assert identity.person_id is not None
        assert identity.session_id is not None
        async with self.database.lookup_session() as connection:
            tenants = await _memberships(connection, identity.person_id)
            tenant = _choose(tenants, slug)
            assert tenant is not None  # _choose raises where a slug is given
            await postgres.act_for(connection, identity.session_id, tenant.tenant_id)
            person = await postgres.find_person(connection, identity.person_id)
        return self._session(person, identity.session_id, tenant, tenants, None)

    async def end(self, identity: Identity) -> None:
        """Log out: the access tokens of this session stop working too."""
        assert identity.session_id is not None
        async with self.database.lookup_session() as connection:
            await postgres.end_session(connection, identity.session_id)

    async def _renew(self, connection: Any, row: Any, slug: str | None) -> Session:
        person = await postgres.find_person(connection, row["person_id"])
        if person["status"] != "active":
            raise PersonSuspended("the person is suspended")
        tenants = await _memberships(connection, person["id"])
        kept = next((t.slug for t in tenants if t.tenant_id == row["acting_for"] and t.status == "active"), None)
        tenant = _choose(tenants, slug or kept)
        await postgres.use_refresh_token(connection, row["id"])
        secret = await self._next(connection, row["family_id"], person["id"], tenant, started_at=row["started_at"])
        return self._session(person, row["family_id"], tenant, tenants, secret)

    async def _next(
        self, connection: Any, family_id: UUID, person_id: UUID, tenant: Membership | None, *, started_at: datetime
    ) -> secrets.Secret:
        secret = secrets.mint(secrets.REFRESH, uuid7())
        await postgres.insert_refresh_token(
            connection,
            secret,
            family_id=family_id,
            person_id=person_id,
            acting_for=tenant.tenant_id if tenant else None,
            started_at=started_at,
            expires_at=min(self._now() + UNUSED_MAX, started_at + SESSION_MAX),
        )
        return secret

    def _session(
        self,
        person: Any,
        family_id: UUID,
        tenant: Membership | None,
        tenants: list[Membership],
        secret: secrets.Secret | None,
    ) -> Session:
        claims = AccessClaims(person["id"], family_id, tenant.tenant_id if tenant else None)
        return Session(
            access_token=self.access_tokens.sign(claims),
            expires_in_s=LIFETIME_S,
            refresh_token=secret.text if secret else None,
            person=SessionPerson(person["id"], person["email"], person["name"], person["operator"]),
            tenant=tenant,
            tenants=tenants,
        )

    def _now(self) -> datetime:
        return to_datetime(self.clock.now_us())


async def _memberships(connection: Any, person_id: UUID) -> list[Membership]:
    return [
        Membership(row["tenant_id"], row["tenant_slug"], row["tenant_name"], row["tenant_status"], Role(row["role"]))
        for row in await postgres.memberships_of(connection, person_id)
    ]


def _choose(tenants: list[Membership], slug: str | None) -> Membership | None:
    """Raises NotAMember or TenantSuspended where a slug is given, so that nobody acts for another than he or she meant."""
    if slug is None:
        return next((t for t in tenants if t.status == "active"), None)
    tenant = next((t for t in tenants if t.slug == slug), None)
    if tenant is None:
        raise NotAMember("you do not work for this tenant")
    if tenant.status != "active":
        raise TenantSuspended("the tenant is suspended")
    return tenant

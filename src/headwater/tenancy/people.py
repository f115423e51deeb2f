"""Who works for a tenant, in which role.

One rule keeps everybody in place: nobody gives, changes or takes a role that holds a permission that he or she does not
hold. So an administrator cannot make or unmake an owner, and a token that may only write people cannot make itself an
administrator. A tenant keeps at least one owner.

Joining goes by invitation: its token is shown once to whoever invites, who hands it over. The answer is the same whether
or not somebody with that address exists, so inviting tells nothing about people of other tenants.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from headwater.clock import Clock, to_datetime
from headwater.database.session import Database
from headwater.errors import NotFound, VersionConflict
from headwater.ids import uuid7
from headwater.tenancy import postgres_people as postgres
from headwater.tenancy import postgres_sessions, postgres_tokens, secrets
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.errors import (
    AlreadyMember,
    LastOwner,
    OneTimeTokenInvalid,
    PermissionNotHeld,
    PersonShared,
    TenantQuotaReached,
    TenantSuspended,
)
from headwater.tenancy.passwords import Passwords
from headwater.tenancy.quotas import Quotas
from headwater.tenancy.scope import PERMISSIONS, Role, TenantScope
from headwater.tenancy.sessions import Session, SessionService
from headwater.tenancy.text import EMail, OptionalName, Password, SecretText

INVITATION_LIFETIME = timedelta(days=7)
RESET_LIFETIME = timedelta(hours=24)


class Member(msgspec.Struct, frozen=True):
    """A person, as one tenant sees him or her. status: active or suspended (by the platform). created_at: joined."""

    id: UUID
    email: str
    name: str
    status: str
    role: Role
    version: int
    created_at: datetime
    updated_at: datetime


class NewRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Role


class Invitation(msgspec.Struct, frozen=True):
    id: UUID
    email: str
    role: Role
    created_by: str
    created_at: datetime
    expires_at: datetime


class NewInvitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    email: EMail
    role: Role


class Acceptance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """password: your own, where you have an account already; otherwise the one that you choose now."""

    token: SecretText
    password: Password
    name: OptionalName = ""


class PasswordReset(msgspec.Struct, frozen=True):
    person_id: UUID
    token: str
    expires_at: datetime


class NewPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: SecretText
    password: Password


@dataclass(frozen=True, slots=True)
class PeopleService:
    database: Database
    passwords: Passwords
    sessions: SessionService
    audit: AuditTrail
    clock: Clock

    async def page(self, scope: TenantScope, after: UUID | None, limit: int) -> list[Member]:
        """Up to limit + 1."""
        async with self.database.tenant_session(scope.tenant_id) as connection:
            return [_member(row) for row in await postgres.list_members(connection, after, limit + 1)]

    async def get(self, scope: TenantScope, person_id: UUID) -> Member:
        """Raises NotFound."""
        async with self.database.tenant_session(scope.tenant_id) as connection:
            return _member(await postgres.find_member(connection, person_id))

    async def change_role(self, scope: TenantScope, person_id: UUID, role: Role, expected: int | None) -> Member:
        """Tokens that the person made beyond the new role end.

        Raises NotFound, VersionConflict, PermissionNotHeld, LastOwner.
        """
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await postgres_tokens.queue_up(connection, scope.tenant_id, "membership")
            member = _member(await postgres.find_member(connection, person_id))
            _check_version(member, expected)
            if member.role == role:
                return member
            _check_rank(scope, member.role)
            _check_rank(scope, role)
            if member.role is Role.OWNER:
                await _check_not_last_owner(connection)
            await postgres.set_role(connection, person_id, role)
            await postgres_tokens.revoke_tokens_of(connection, f"person:{person_id}", beyond=sorted(PERMISSIONS[role]))
            await self.audit.record(
                connection, scope, "person:change_role", f"person:{person_id}", {"from": member.role, "to": role}
            )
            return _member(await postgres.find_member(connection, person_id))

    async def remove(self, scope: TenantScope, person_id: UUID, expected: int | None) -> None:
        """The person stays a person, elsewhere. Raises NotFound, VersionConflict, PermissionNotHeld, LastOwner."""
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await postgres_tokens.queue_up(connection, scope.tenant_id, "membership")
            member = _member(await postgres.find_member(connection, person_id))
            _check_version(member, expected)
            _check_rank(scope, member.role)
            if member.role is Role.OWNER:
                await _check_not_last_owner(connection)
            await postgres_tokens.revoke_tokens_of(connection, f"person:{person_id}")
            await self.audit.record(
                connection, scope, "person:remove", f"person:{person_id}", {"email": member.email, "role": member.role}
            )
            await postgres.delete_membership(connection, person_id)

    # --- invitations -----------------------------------------------------------------------------------------------

    async def invite(self, scope: TenantScope, quotas: Quotas, new: NewInvitation) -> tuple[Invitation, secrets.Secret]:
        """The secret is shown once. Raises PermissionNotHeld, AlreadyMember, TenantQuotaReached."""
        _check_rank(scope, new.role)
        secret = secrets.mint(secrets.INVITATION, uuid7())
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await postgres_tokens.queue_up(connection, scope.tenant_id, "membership")
            await postgres.delete_expired_invitation(connection, new.email)
            if await postgres.invitation_exists(connection, new.email):
                raise AlreadyMember("this address is already invited")
            if await postgres.find_member_by_email(connection, new.email) is not None:
                raise AlreadyMember("a person with this address already works for the tenant")
            if await postgres.count_people(connection) >= quotas.people_max:
                raise TenantQuotaReached(
                    "the tenant has as many people as it may", retry_after_s=3600, max=quotas.people_max
                )
            row = await postgres.insert_invitation(
                connection, scope, secret, email=new.email, role=new.role, expires_at=self._now() + INVITATION_LIFETIME
            )
            await self.audit.record(
                connection, scope, "person:invite", f"invitation:{secret.row_id}", {"email": new.email, "role": new.role}
            )
        return _invitation(row), secret

    async def invitations(self, scope: TenantScope, after: UUID | None, limit: int) -> list[Invitation]:
        """Newest first, up to limit + 1."""
        async with self.database.tenant_session(scope.tenant_id) as connection:
            return [_invitation(row) for row in await postgres.list_invitations(connection, after, limit + 1)]

    async def invitation(self, scope: TenantScope, invitation_id: UUID) -> Invitation:
        """Raises NotFound."""
        async with self.database.tenant_session(scope.tenant_id) as connection:
            return _invitation(await postgres.find_invitation(connection, invitation_id))

    async def withdraw(self, scope: TenantScope, invitation_id: UUID) -> None:
        """Raises NotFound."""
        async with self.database.tenant_session(scope.tenant_id) as connection:
            email = await postgres.delete_invitation(connection, invitation_id)
            if email is None:
                raise NotFound("no such invitation")
            await self.audit.record(
                connection, scope, "person:withdraw_invitation", f"invitation:{invitation_id}", {"email": email}
            )

    async def accept(self, acceptance: Acceptance, address: str) -> Session:
        """Join, and be logged in.

        Raises OneTimeTokenInvalid, CredentialsWrong, TooManyAttempts, TenantSuspended, PersonSuspended, AlreadyMember.
        """
        secret = secrets.parse(acceptance.token, secrets.INVITATION)
        if secret is None:
            raise OneTimeTokenInvalid("this invitation is not valid (any more)")
        async with self.database.lookup_session() as connection:
            row = await postgres.lookup_invitation(connection, secret.row_id)
            if row is None or not secret.matches(row["secret_hash"]) or row["expires_at"] <= self._now():
                raise OneTimeTokenInvalid("this invitation is not valid (any more)")
            person = await postgres_sessions.find_person_by_email(connection, row["email"])
        if row["tenant_status"] != "active":
            raise TenantSuspended("the tenant is suspended")
        if person is None:
            person_id = uuid7()
            password_hash = await self.passwords.hash(acceptance.password)
        else:
            person_id = (await self.sessions.check_password(row["email"], acceptance.password, address))["id"]
            password_hash = None
        await self._join(row, secret.row_id, person_id, name=acceptance.name, password_hash=password_hash, address=address)
        async with self.database.lookup_session() as connection:
            person = await postgres_sessions.find_person(connection, person_id)
            slug = next(
                m["tenant_slug"]
                for m in await postgres_sessions.memberships_of(connection, person_id)
                if m["tenant_id"] == row["tenant_id"]
            )
        return await self.sessions.start(person, slug, address)

    async def _join(
        self,
        invited: postgres.Row,
        invitation_id: UUID,
        person_id: UUID,
        *,
        name: str,
        password_hash: str | None,
        address: str,
    ) -> None:
        role = Role(invited["role"])
        scope = TenantScope(invited["tenant_id"], f"person:{person_id}", frozenset(), address=address)
        try:
            async with self.database.tenant_session(scope.tenant_id) as connection:
                if await postgres.delete_invitation(connection, invitation_id) is None:
                    raise OneTimeTokenInvalid("this invitation is not valid (any more)")
                if password_hash is not None:
                    await postgres_sessions.register_person(connection, person_id, invited["email"], name, password_hash)
                await postgres.insert_membership(connection, scope.tenant_id, person_id, role)
                await self.audit.record(
                    connection, scope, "person:join", f"person:{person_id}", {"email": invited["email"], "role": role}
                )
        except asyncpg.UniqueViolationError as error:
            raise AlreadyMember("somebody with this address has just joined") from error

    # --- forgotten passwords ---------------------------------------------------------------------------------------

    async def reset_password(self, scope: TenantScope, person_id: UUID) -> PasswordReset:
        """A token for whoever forgot the password. Raises NotFound, PermissionNotHeld, PersonShared.

        Not for people who also work elsewhere: one tenant's administrator would get into the other.
        """
        secret = secrets.mint(secrets.PASSWORD_RESET, uuid7())
        expires_at = self._now() + RESET_LIFETIME
        async with self.database.tenant_session(scope.tenant_id) as connection:
            member = _member(await postgres.find_member(connection, person_id))
            _check_rank(scope, member.role)
            await self._check_not_shared(connection, person_id)
            await postgres.replace_password_reset(connection, scope, secret, person_id=person_id, expires_at=expires_at)
            await self.audit.record(connection, scope, "person:reset_password", f"person:{person_id}")
        return PasswordReset(person_id, secret.text, expires_at)

    async def set_password(self, new: NewPassword, address: str) -> None:
        """With a reset's token, once. Every session of the person ends. Raises OneTimeTokenInvalid, PersonShared."""
        secret = secrets.parse(new.token, secrets.PASSWORD_RESET)
        if secret is None:
            raise OneTimeTokenInvalid("this token is not valid (any more)")
        async with self.database.lookup_session() as connection:
            row = await postgres.lookup_password_reset(connection, secret.row_id)
        if row is None or not secret.matches(row["secret_hash"]) or row["expires_at"] <= self._now():
            raise OneTimeTokenInvalid("this token is not valid (any more)")
        password_hash = await self.passwords.hash(new.password)
        scope = TenantScope(row["tenant_id"], f"person:{row['person_id']}", frozenset(), address=address)
        async with self.database.tenant_session(scope.tenant_id) as connection:
            if not await postgres.delete_password_reset(connection, secret.row_id):
                raise OneTimeTokenInvalid("this token is not valid (any more)")
            # Again: another tenant may have taken the person in since the token was made.
            await self._check_not_shared(connection, row["person_id"])
            await postgres_sessions.set_password(connection, row["person_id"], password_hash)
            await postgres_sessions.end_sessions_of(connection, row["person_id"])
            await self.audit.record(connection, scope, "person:set_password", f"person:{row['person_id']}")

    async def _check_not_shared(self, connection: postgres.Row, person_id: UUID) -> None:
        person = await postgres_sessions.find_person(connection, person_id)
        if person["operator"] or len(await postgres_sessions.memberships_of(connection, person_id)) > 1:
            raise PersonShared("this person also works elsewhere: only he or she may change the password")

    def _now(self) -> datetime:
        return to_datetime(self.clock.now_us())


def _member(row: postgres.Row) -> Member:
    if row is None:
        raise NotFound("no such person")
    return Member(**{**row, "role": Role(row["role"])})


def _invitation(row: postgres.Row) -> Invitation:
    if row is None:
        raise NotFound("no such invitation")
    return Invitation(**{**row, "role": Role(row["role"])})


def _check_rank(scope: TenantScope, role: Role) -> None:
    missing = sorted(PERMISSIONS[role] - scope.permissions)
    if missing:
        raise PermissionNotHeld(f"the role {role} holds permissions that you do not hold", permissions=missing)


def _check_version(member: Member, expected: int | None) -> None:
    if expected is not None and expected != member.version:
        raise VersionConflict("it has changed since you looked", version=member.version)


async def _check_not_last_owner(connection: postgres.Row) -> None:
    if await postgres.count_owners(connection) <= 1:
        raise LastOwner("a tenant keeps at least one owner: make somebody else an owner first")

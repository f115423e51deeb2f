"""Logging in and out, and one's own account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from headwater.api.auth import address_of
from headwater.api.services import APIServices, Noun
from headwater.tenancy.access_tokens import AccessTokens
from headwater.tenancy.account import AccountService
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.errors import (
    CredentialsWrong,
    NotAMember,
    PersonSuspended,
    TenantSuspended,
    TokenExpired,
    TokenRevoked,
    TooManyAttempts,
)
from headwater.tenancy.identity import Identity
from headwater.tenancy.scope import Role
from headwater.tenancy.sessions import Membership, Session, SessionPerson, SessionService
from headwater.tenancy.text import EMail, GivenPassword, OptionalName, Password, SecretText, Slug

_LOGIN = (CredentialsWrong, TooManyAttempts, PersonSuspended, NotAMember, TenantSuspended)


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """tenant: its slug; null = the first of yours that is active."""

    email: EMail
    password: GivenPassword
    tenant: Slug | None = None


class Refresh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """tenant: null = the one that the session acts for."""

    refresh_token: SecretText
    tenant: Slug | None = None


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenant: Slug


class AccountChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: OptionalName


class PasswordChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    current_password: GivenPassword
    new_password: Password


class Me(msgspec.Struct):
    """What the credential that you use is and may do.

    person, role  null for tokens. permissions: in the tenant; empty without one. group_id: only its devices exist for you.
    tenants       all that the person works for. operator: may use the platform operator's plane.
    """

    actor: str
    person: SessionPerson | None
    tenant_id: UUID | None
    role: Role | None
    permissions: list[str]
    group_id: UUID | None
    tenants: list[Membership]
    operator: bool


@post("/auth/login", operation_id="login", public=True, status_code=200, problems=_LOGIN)
async def login(
    request: Request[Any, Any, Any], data: JSONBody[Login], sessions: NamedDependency[SessionService]
) -> Session:
    """An access token for fifteen minutes and a refresh token for the next."""
    return await sessions.login(data.email, data.password, data.tenant, address_of(request))


@post("/auth/refresh", operation_id="refreshSession", public=True, status_code=200,
      problems=(TokenRevoked, TokenExpired, PersonSuspended, NotAMember, TenantSuspended))  # fmt: skip
async def refresh_session(data: JSONBody[Refresh], sessions: NamedDependency[SessionService]) -> Session:
    """The next access and refresh token. A refresh token that is used twice ends the whole session."""
    return await sessions.refresh(data.refresh_token, data.tenant)


@post("/auth/switch", operation_id="switchTenant", person=True, status_code=200, problems=(NotAMember, TenantSuspended))
async def switch_tenant(
    data: JSONBody[Switch], identity: NamedDependency[Identity], sessions: NamedDependency[SessionService]
) -> Session:
    """An access token for another tenant of yours; your refresh token stays good."""
    return await sessions.switch(identity, data.tenant)


@post("/auth/logout", operation_id="logout", person=True, status_code=204)
async def logout(identity: NamedDependency[Identity], sessions: NamedDependency[SessionService]) -> None:
    """End this session: its access and refresh tokens stop working at once."""
    await sessions.end(identity)


@get("/me", operation_id="getMe", anyone=True)
async def get_me(identity: NamedDependency[Identity], account: NamedDependency[AccountService]) -> Me:
    """Who you are and what you may do."""
    return await _me(identity, account)


@patch("/me", operation_id="updateMe", person=True)
async def update_me(
    data: JSONBody[AccountChange], identity: NamedDependency[Identity], account: NamedDependency[AccountService]
) -> Me:
    """Change how you are called."""
    assert identity.person_id is not None
    await account.rename(identity.person_id, data.name)
    return await _me(identity, account)


@post(
    "/me/password", operation_id="changePassword", person=True, status_code=204, problems=(CredentialsWrong, TooManyAttempts)
)
async def change_password(
    data: JSONBody[PasswordChange], identity: NamedDependency[Identity], account: NamedDependency[AccountService]
) -> None:
    """A new password. Every other session of yours ends."""
    await account.change_password(identity, data.current_password, data.new_password)


async def _me(identity: Identity, account: AccountService) -> Me:
    scope, person_id = identity.scope, identity.person_id
    return Me(
        actor=identity.actor,
        person=await account.person(person_id) if person_id else None,
        tenant_id=scope.tenant_id if scope else None,
        role=identity.role,
        permissions=sorted(scope.permissions) if scope else [],
        group_id=scope.group_id if scope else None,
        tenants=await account.tenants(person_id) if person_id else [],
        operator=identity.operator,
    )


def session_service(services: APIServices) -> SessionService:
    return SessionService(
        database=services.database,
        passwords=services.passwords,
        attempts=services.attempts,
        access_tokens=AccessTokens(services.secret_key, services.clock),
        audit=AuditTrail(),
        clock=services.clock,
    )


def _build(services: APIServices) -> Mapping[str, object]:
    sessions = session_service(services)
    return {"sessions": sessions, "account": AccountService(services.database, services.passwords, sessions)}


NOUN = Noun(
    tag="Sessions",
    description="Logging in and out, and one's own account.",
    handlers=(login, refresh_session, switch_tenant, logout, get_me, update_me, change_password),
    build=_build,
)

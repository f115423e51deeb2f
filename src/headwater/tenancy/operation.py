"""The plane of the platform's operator: tenants, their quotas, their first owner. No right inside a tenant comes with it.

Every function of `Operation` works on a connection of headwater_operator inside the caller's transaction, so that the API
and `headwater up` do the same things in the same way. Each change leaves a row in `operator_audit_entry`, which outlives
the tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from headwater.errors import NotFound
from headwater.ids import uuid7
from headwater.tenancy import postgres_people, postgres_sessions, secrets
from headwater.tenancy import postgres_tenants as postgres
from headwater.tenancy.errors import SlugTaken
from headwater.tenancy.quotas import Quotas, quotas_of, stored_of
from headwater.tenancy.scope import ALL_PERMISSIONS, Role
from headwater.tenancy.text import EMail, Name, OptionalName, Password, Slug


class OperatedTenant(msgspec.Struct, frozen=True):
    """A tenant with what it uses. status: active or suspended"""

    id: UUID
    slug: str
    name: str
    status: str
    quotas: Quotas
    version: int
    created_at: datetime
    updated_at: datetime
    devices: int
    people: int
    tokens: int


class FirstOwner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """password: left alone where a person with this address exists already, who keeps his or her own."""

    email: EMail
    password: Password
    name: OptionalName = ""


class NewTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    slug: Slug
    name: Name
    owner: FirstOwner
    quotas: Quotas = Quotas()


@dataclass(frozen=True, slots=True)
class Made:
    tenant_id: UUID
    owner_id: UUID
    profile_id: UUID
    owner_is_new: bool


async def create_tenant_with_owner(
    connection: Any,
    *,
    slug: str,
    name: str,
    email: str,
    password_hash: str,
    owner_name: str = "",
    quotas: Quotas = Quotas(),  # noqa: B008  # frozen
) -> Made:
    """A tenant with its `default` profile and an owner. Raises SlugTaken.

    password_hash: of `Passwords.hash`; unused where a person with this address exists.
    """
    tenant_id, profile_id = uuid7(), uuid7()
    if not await postgres.insert_tenant(connection, tenant_id, slug, name, stored_of(quotas)):
        raise SlugTaken("another tenant has this slug", slug=slug)
    await postgres.insert_default_profile(connection, profile_id, tenant_id)
    known = await postgres.find_person_by_email(connection, email)
    owner_id = known["id"] if known else uuid7()
    if known is None:
        await postgres.insert_person(connection, owner_id, email, owner_name, password_hash)
    await postgres_people.insert_membership(connection, tenant_id, owner_id, Role.OWNER)
    return Made(tenant_id, owner_id, profile_id, known is None)


async def mint_api_token(
    connection: Any,
    tenant_id: UUID,
    name: str,
    *,
    permissions: frozenset[str] = ALL_PERMISSIONS,
    created_by: str,
    expires_at: datetime | None = None,
) -> secrets.Secret:
    secret = secrets.mint(secrets.API, uuid7())
    await connection.execute(
        "INSERT INTO api_token (id, tenant_id, name, secret_hash, permissions, created_by, expires_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        secret.row_id, tenant_id, name, secret.digest, sorted(permissions), created_by, expires_at,
    )  # fmt: skip
    return secret


async def mint_operator_token(connection: Any, name: str, *, expires_at: datetime | None = None) -> secrets.Secret:
    secret = secrets.mint(secrets.OPERATOR, uuid7())
    await connection.execute(
        "INSERT INTO operator_token (id, name, secret_hash, expires_at) VALUES ($1, $2, $3, $4)",
        secret.row_id, name, secret.digest, expires_at,
    )  # fmt: skip
    return secret


async def set_password(connection: Any, email: str, password_hash: str) -> UUID:
    """Every session of the person ends. Raises NotFound."""
    person = await postgres.find_person_by_email(connection, email)
    if person is None:
        raise NotFound("no person has this e-mail address")
    await connection.execute(
        "UPDATE person SET password_hash = $2, version = version + 1, updated_at = now() WHERE id = $1",
        person["id"], password_hash,
    )  # fmt: skip
    await postgres_sessions.end_sessions_of(connection, person["id"])
    person_id: UUID = person["id"]
    return person_id


async def set_operator(connection: Any, email: str, operator: bool) -> UUID:
    """Whether a person may use the operator's plane. Raises NotFound."""
    person_id: UUID | None = await connection.fetchval(
        "UPDATE person SET operator = $2, version = version + 1, updated_at = now()"
        " WHERE lower(email) = lower($1) RETURNING id",
        email, operator,
    )  # fmt: skip
    if person_id is None:
        raise NotFound("no person has this e-mail address")
    return person_id


async def record(
    connection: Any, *, actor: str, action: str, subject: str, address: str = "", detail: Mapping[str, object] | None = None
) -> None:
    """In the transaction of what it tells about; detail: JSON values, never a secret."""
    await postgres.insert_operator_audit(
        connection, uuid7(), actor=actor, action=action, subject=subject, address=address, detail=detail or {}
    )


def operated(row: Any) -> OperatedTenant:
    """Raises NotFound for None."""
    if row is None:
        raise NotFound("no such tenant")
    return OperatedTenant(**{**row, "quotas": quotas_of(row["quotas"])})

"""What a fresh installation gets: a tenant `main`, an administrator, a token for each of the two planes.

Works on the platform operator's connection, before the API runs. Run at each `up`: what exists stays as it is, only the
tokens named `up` are made anew, because a token can be shown only when it is made.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from headwater.app.engine_checks import connect_database
from headwater.errors import NotFound
from headwater.ids import uuid7
from headwater.tenancy import secrets as tokens
from headwater.tenancy.scope import ALL_PERMISSIONS, Role

TENANT_SLUG = "main"
ADMIN_EMAIL = "admin@headwater.local"
TOKEN_NAME = "up"
ACTOR = "system:up"
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


@dataclass(frozen=True, slots=True)
class Access:
    """admin_password  only where it was made now, or where the caller knew it"""

    tenant: str
    tenant_id: UUID
    admin_email: str
    admin_token: str = field(repr=False)
    operator_token: str = field(repr=False)
    admin_password: str | None = field(default=None, repr=False)
    first_time: bool = False


async def bootstrap(operator_url: str, known_password: str | None = None) -> Access:
    """known_password: an earlier `admin_password`; handed back if it still opens the door."""
    connection: Any = await connect_database(operator_url, "DATABASE_OPERATOR_URL")
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('headwater.bootstrap'))")
            made = None
            if await connection.fetchval("SELECT count(*) FROM tenant") == 0:
                made = await _first_tenant(connection)
            tenant = await connection.fetchrow(
                "SELECT id, slug FROM tenant ORDER BY slug <> $1, created_at LIMIT 1", TENANT_SLUG
            )
            email, password = await _administrator(connection, tenant["id"], made or known_password)
            return Access(
                tenant=tenant["slug"],
                tenant_id=tenant["id"],
                admin_email=email,
                admin_password=password,
                admin_token=await _fresh_api_token(connection, tenant["id"]),
                operator_token=await _fresh_operator_token(connection),
                first_time=made is not None,
            )
    finally:
        await connection.close()


async def set_password(operator_url: str, email: str, password: str) -> None:
    """Give a person a new password and end the sessions that used the old one. Raises NotFound."""
    connection: Any = await connect_database(operator_url, "DATABASE_OPERATOR_URL")
    try:
        async with connection.transaction():
            person_id = await connection.fetchval(
                "UPDATE person SET password_hash = $2, version = version + 1, updated_at = now() "
                "WHERE lower(email) = lower($1) RETURNING id",
                email, _HASHER.hash(password),
            )  # fmt: skip
            if person_id is None:
                raise NotFound(f"there is no person with the e-mail address {email}")
            await connection.execute(
                "UPDATE refresh_token SET revoked_at = now() WHERE person_id = $1 AND revoked_at IS NULL", person_id
            )
    finally:
        await connection.close()


async def _first_tenant(connection: Any) -> str:
    """Returns the administrator's password."""
    tenant_id, person_id, password = uuid7(), uuid7(), secrets.token_urlsafe(15)
    await connection.execute("INSERT INTO tenant (id, slug, name) VALUES ($1, $2, 'Main')", tenant_id, TENANT_SLUG)
    await connection.execute(
        "INSERT INTO profile (id, tenant_id, name, definition) VALUES ($1, $2, 'default', '{}')", uuid7(), tenant_id
    )
    await connection.execute(
        "INSERT INTO person (id, email, name, password_hash) VALUES ($1, $2, 'Administrator', $3)",
        person_id, ADMIN_EMAIL, _HASHER.hash(password),
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO membership (tenant_id, person_id, role) VALUES ($1, $2, $3)", tenant_id, person_id, Role.OWNER.value
    )
    await _audit(connection, tenant_id, "tenant:create", f"tenant:{tenant_id}")
    return password


async def _administrator(connection: Any, tenant_id: UUID, password: str | None) -> tuple[str, str | None]:
    """The owner whom we made, or the oldest; with the password if that is his or hers."""
    row = await connection.fetchrow(
        "SELECT p.email, p.password_hash FROM person p JOIN membership m ON m.person_id = p.id "
        "WHERE m.tenant_id = $1 AND m.role = $2 ORDER BY p.email <> $3, m.created_at LIMIT 1",
        tenant_id, Role.OWNER.value, ADMIN_EMAIL,
    )  # fmt: skip
    if row is None:
        return ADMIN_EMAIL, None
    stored = row["password_hash"]
    if password is None or stored is None or not _opens(stored, password):
        return row["email"], None
    return row["email"], password


async def _fresh_api_token(connection: Any, tenant_id: UUID) -> str:
    await connection.execute(
        "UPDATE api_token SET revoked_at = now() "
        "WHERE tenant_id = $1 AND name = $2 AND created_by = $3 AND revoked_at IS NULL",
        tenant_id, TOKEN_NAME, ACTOR,
    )  # fmt: skip
    secret = tokens.mint(tokens.API, uuid7())
    await connection.execute(
        "INSERT INTO api_token (id, tenant_id, name, secret_hash, permissions, created_by) VALUES ($1, $2, $3, $4, $5, $6)",
        secret.row_id, tenant_id, TOKEN_NAME, secret.digest, sorted(ALL_PERMISSIONS), ACTOR,
    )  # fmt: skip
    await _audit(connection, tenant_id, "token:create", f"token:{secret.row_id}")
    return secret.text


async def _fresh_operator_token(connection: Any) -> str:
    await connection.execute(
        "UPDATE operator_token SET revoked_at = now() WHERE name = $1 AND revoked_at IS NULL", TOKEN_NAME
    )
    secret = tokens.mint(tokens.OPERATOR, uuid7())
    await connection.execute(
        "INSERT INTO operator_token (id, name, secret_hash) VALUES ($1, $2, $3)", secret.row_id, TOKEN_NAME, secret.digest
    )
    return secret.text


async def _audit(connection: Any, tenant_id: UUID, action: str, subject: str) -> None:
    await connection.execute(
        "INSERT INTO audit_entry (id, tenant_id, actor, action, subject) VALUES ($1, $2, $3, $4, $5)",
        uuid7(), tenant_id, ACTOR, action, subject,
    )  # fmt: skip


def _opens(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except VerifyMismatchError:
        return False

"""What a fresh installation gets: a tenant `main`, an administrator, a token for each of the two planes.

Works on the platform operator's connection, before the API runs. Run at each `up`: what exists stays as it is, only the
tokens named `up` are made anew, because a token can be shown only when it is made.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from headwater.app.anonymous import ensure_door
from headwater.app.engine_checks import connect_database
from headwater.database.session import Database, open_pool
from headwater.stream.registry_events import NATSRegistryEvents
from headwater.tenancy import operation
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.passwords import Passwords
from headwater.tenancy.scope import Role, system_scope

TENANT_SLUG = "main"
ADMIN_EMAIL = "admin@headwater.local"
TOKEN_NAME = "up"
ACTOR = "system:up"


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
    passwords = Passwords()
    async with _operator(operator_url) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('headwater.bootstrap'))")
        made = None
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM tenant)"):
            made = await _first_tenant(connection, passwords)
        tenant = await connection.fetchrow(
            "SELECT id, slug FROM tenant ORDER BY slug <> $1, created_at LIMIT 1", TENANT_SLUG
        )
        email, password = await _administrator(connection, tenant["id"], made, known_password, passwords)
        return Access(
            tenant=tenant["slug"],
            tenant_id=tenant["id"],
            admin_email=email,
            admin_password=password,
            admin_token=await _fresh_api_token(connection, tenant["id"]),
            operator_token=await _fresh_operator_token(connection),
            first_time=made is not None,
        )


async def open_door(app_url: str, tenant_id: UUID) -> None:
    """What `--dev-anonymous` needs in the registry. Each time: whatever is there stays as it is."""
    async with await open_pool(app_url, size_max=1, application_name="headwater-up") as pool:
        await ensure_door(Database(pool), NATSRegistryEvents(None), system_scope(tenant_id, "up"))


async def set_password(operator_url: str, email: str, password: str) -> None:
    """Give a person a new password and end the sessions that used the old one. Raises NotFound."""
    password_hash = await Passwords().hash(password)
    async with _operator(operator_url) as connection:
        person_id = await operation.set_password(connection, email, password_hash)
        await _record(connection, "person:set_password", f"person:{person_id}")


async def set_operator(operator_url: str, email: str, operator: bool) -> None:
    """Whether a person may use the platform operator's plane. Raises NotFound."""
    async with _operator(operator_url) as connection:
        person_id = await operation.set_operator(connection, email, operator)
        await _record(connection, "person:set_operator", f"person:{person_id}", {"operator": operator})


@asynccontextmanager
async def _operator(url: str) -> AsyncIterator[Any]:
    """One transaction on the operator's connection. Raises EngineUnreachable, EngineRefused."""
    await (await connect_database(url, "DATABASE_OPERATOR_URL")).close()  # for its errors, which say what to do
    async with (
        await open_pool(url, size_max=1, application_name="headwater-up") as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield connection


async def _first_tenant(connection: Any, passwords: Passwords) -> str:
    """Returns the administrator's password."""
    password = secrets.token_urlsafe(15)
    made = await operation.create_tenant_with_owner(
        connection,
        slug=TENANT_SLUG,
        name="Main",
        email=ADMIN_EMAIL,
        password_hash=await passwords.hash(password),
        owner_name="Administrator",
    )
    await _record(connection, "tenant:create", f"tenant:{made.tenant_id}", {"slug": TENANT_SLUG})
    return password


async def _administrator(
    connection: Any, tenant_id: UUID, made: str | None, known: str | None, passwords: Passwords
) -> tuple[str, str | None]:
    """The owner whom we made, or the oldest; with the password: made now, or known and still right."""
    row = await connection.fetchrow(
        "SELECT p.email, p.password_hash FROM person p JOIN membership m ON m.person_id = p.id "
        "WHERE m.tenant_id = $1 AND m.role = $2 ORDER BY p.email <> $3, m.created_at LIMIT 1",
        tenant_id, Role.OWNER.value, ADMIN_EMAIL,
    )  # fmt: skip
    if row is None:
        return ADMIN_EMAIL, None
    if made is None and known is not None and (await passwords.verify(row["password_hash"], known)).right:
        return row["email"], known
    return row["email"], made


async def _fresh_api_token(connection: Any, tenant_id: UUID) -> str:
    await connection.execute(
        "UPDATE api_token SET revoked_at = now() "
        "WHERE tenant_id = $1 AND name = $2 AND created_by = $3 AND revoked_at IS NULL",
        tenant_id, TOKEN_NAME, ACTOR,
    )  # fmt: skip
    secret = await operation.mint_api_token(connection, tenant_id, TOKEN_NAME, created_by=ACTOR)
    await AuditTrail().record(connection, system_scope(tenant_id, "up"), "token:create", f"token:{secret.row_id}")
    return secret.text


async def _fresh_operator_token(connection: Any) -> str:
    await connection.execute(
        "UPDATE operator_token SET revoked_at = now() WHERE name = $1 AND revoked_at IS NULL", TOKEN_NAME
    )
    secret = await operation.mint_operator_token(connection, TOKEN_NAME)
    await _record(connection, "operator_token:create", f"operator_token:{secret.row_id}")
    return secret.text


async def _record(connection: Any, action: str, subject: str, detail: dict[str, object] | None = None) -> None:
    await operation.record(connection, actor=ACTOR, action=action, subject=subject, detail=detail)

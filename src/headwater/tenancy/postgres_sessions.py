"""The statements about sessions. They need no tenant: a session is a person's."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from headwater.tenancy import secrets

Row = Any


async def find_person_by_email(connection: Any, email: str) -> Row:
    return await connection.fetchrow("SELECT * FROM lookup_person_by_email($1)", email)


async def find_person(connection: Any, person_id: UUID) -> Row:
    return await connection.fetchrow("SELECT * FROM lookup_person($1)", person_id)


async def memberships_of(connection: Any, person_id: UUID) -> list[Row]:
    rows: list[Row] = await connection.fetch("SELECT * FROM lookup_memberships($1)", person_id)
    return rows


async def set_password(connection: Any, person_id: UUID, password_hash: str) -> None:
    await connection.execute("SELECT person_set_password($1, $2)", person_id, password_hash)


async def set_name(connection: Any, person_id: UUID, name: str) -> None:
    await connection.execute("SELECT person_set_name($1, $2)", person_id, name)


async def register_person(connection: Any, person_id: UUID, email: str, name: str, password_hash: str) -> None:
    await connection.execute("SELECT person_register($1, $2, $3, $4)", person_id, email, name, password_hash)


async def insert_refresh_token(
    connection: Any,
    secret: secrets.Secret,
    *,
    family_id: UUID,
    person_id: UUID,
    acting_for: UUID | None,
    started_at: datetime,
    expires_at: datetime,
) -> None:
    await connection.execute(
        "INSERT INTO refresh_token (id, family_id, person_id, acting_for, secret_hash, started_at, expires_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        secret.row_id, family_id, person_id, acting_for, secret.digest, started_at, expires_at,
    )  # fmt: skip


async def lock_refresh_token(connection: Any, token_id: UUID) -> Row:
    return await connection.fetchrow("SELECT * FROM refresh_token WHERE id = $1 FOR UPDATE", token_id)


async def use_refresh_token(connection: Any, token_id: UUID) -> None:
    await connection.execute("UPDATE refresh_token SET used_at = now() WHERE id = $1", token_id)


async def act_for(connection: Any, family_id: UUID, tenant_id: UUID) -> None:
    await connection.execute(
        "UPDATE refresh_token SET acting_for = $2 WHERE family_id = $1 AND used_at IS NULL", family_id, tenant_id
    )


async def end_session(connection: Any, family_id: UUID) -> None:
    await connection.execute(
        "UPDATE refresh_token SET revoked_at = now() WHERE family_id = $1 AND revoked_at IS NULL", family_id
    )


async def end_sessions_of(connection: Any, person_id: UUID, *, but: UUID | None = None) -> None:
    """but: the session that goes on"""
    await connection.execute(
        "UPDATE refresh_token SET revoked_at = now()"
        " WHERE person_id = $1 AND revoked_at IS NULL AND ($2::uuid IS NULL OR family_id <> $2)",
        person_id, but,
    )  # fmt: skip

"""The statements about who works for a tenant. Each takes the connection of the tenant's session."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from headwater.tenancy import secrets
from headwater.tenancy.scope import Role, TenantScope

Row = Any

_MEMBER = "p.id, p.email, p.name, p.status, m.role, m.version, m.created_at, m.updated_at"
_INVITATION = "id, email, role, created_by, created_at, expires_at"


async def list_members(connection: Any, after: UUID | None, limit: int) -> list[Row]:
    rows: list[Row] = await connection.fetch(
        f"SELECT {_MEMBER} FROM membership m JOIN person p ON p.id = m.person_id"
        " WHERE $1::uuid IS NULL OR m.person_id > $1 ORDER BY m.person_id LIMIT $2",
        after, limit,
    )  # fmt: skip
    return rows


async def find_member(connection: Any, person_id: UUID) -> Row:
    return await connection.fetchrow(
        f"SELECT {_MEMBER} FROM membership m JOIN person p ON p.id = m.person_id WHERE m.person_id = $1", person_id
    )


async def find_member_by_email(connection: Any, email: str) -> Row:
    return await connection.fetchrow(
        f"SELECT {_MEMBER} FROM membership m JOIN person p ON p.id = m.person_id WHERE lower(p.email) = lower($1)", email
    )


async def count_people(connection: Any) -> int:
    """Members, and those who may become members."""
    return int(await connection.fetchval("SELECT (SELECT count(*) FROM membership) + (SELECT count(*) FROM invitation)"))


async def count_owners(connection: Any) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM membership WHERE role = 'owner'"))


async def insert_membership(connection: Any, tenant_id: UUID, person_id: UUID, role: Role) -> None:
    await connection.execute(
        "INSERT INTO membership (tenant_id, person_id, role) VALUES ($1, $2, $3)", tenant_id, person_id, role.value
    )


async def set_role(connection: Any, person_id: UUID, role: Role) -> None:
    await connection.execute(
        "UPDATE membership SET role = $2, version = version + 1, updated_at = now() WHERE person_id = $1",
        person_id, role.value,
    )  # fmt: skip


async def delete_membership(connection: Any, person_id: UUID) -> None:
    await connection.execute("DELETE FROM membership WHERE person_id = $1", person_id)


# --- invitations -------------------------------------------------------------------------------------------------------


async def insert_invitation(
    connection: Any, scope: TenantScope, secret: secrets.Secret, *, email: str, role: Role, expires_at: datetime
) -> Row:
    return await connection.fetchrow(
        "INSERT INTO invitation (id, tenant_id, email, role, secret_hash, created_by, expires_at)"
        f" VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {_INVITATION}",
        secret.row_id, scope.tenant_id, email, role.value, secret.digest, scope.actor, expires_at,
    )  # fmt: skip


async def list_invitations(connection: Any, after: UUID | None, limit: int) -> list[Row]:
    rows: list[Row] = await connection.fetch(
        f"SELECT {_INVITATION} FROM invitation WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2", after, limit
    )
    return rows


async def find_invitation(connection: Any, invitation_id: UUID) -> Row:
    return await connection.fetchrow(f"SELECT {_INVITATION} FROM invitation WHERE id = $1", invitation_id)


async def invitation_exists(connection: Any, email: str) -> bool:
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM invitation WHERE lower(email) = lower($1))", email))


async def delete_invitation(connection: Any, invitation_id: UUID) -> str | None:
    """Returns its address."""
    email: str | None = await connection.fetchval("DELETE FROM invitation WHERE id = $1 RETURNING email", invitation_id)
    return email


async def delete_expired_invitation(connection: Any, email: str) -> None:
    await connection.execute("DELETE FROM invitation WHERE lower(email) = lower($1) AND expires_at <= now()", email)


async def lookup_invitation(connection: Any, invitation_id: UUID) -> Row:
    """Without a tenant: the token says which."""
    return await connection.fetchrow("SELECT * FROM lookup_invitation($1)", invitation_id)


# --- password resets ---------------------------------------------------------------------------------------------------


async def replace_password_reset(
    connection: Any, scope: TenantScope, secret: secrets.Secret, *, person_id: UUID, expires_at: datetime
) -> None:
    await connection.execute("DELETE FROM password_reset WHERE person_id = $1", person_id)
    await connection.execute(
        "INSERT INTO password_reset (id, tenant_id, person_id, secret_hash, created_by, expires_at)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        secret.row_id, scope.tenant_id, person_id, secret.digest, scope.actor, expires_at,
    )  # fmt: skip


async def lookup_password_reset(connection: Any, reset_id: UUID) -> Row:
    """Without a tenant: the token says which."""
    return await connection.fetchrow("SELECT * FROM lookup_password_reset($1)", reset_id)


async def delete_password_reset(connection: Any, reset_id: UUID) -> bool:
    """False where somebody else has used it meanwhile."""
    return bool(await connection.fetchval("DELETE FROM password_reset WHERE id = $1 RETURNING true", reset_id))

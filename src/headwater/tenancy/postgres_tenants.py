"""The statements about tenants: as a tenant sees itself, and as the operator of the platform sees all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

Row = Any

_TENANT = "id, slug, name, status, quotas, version, created_at, updated_at"
_OPERATED = """
    t.id, t.slug, t.name, t.status, t.quotas, t.version, t.created_at, t.updated_at,
    coalesce(u.devices, 0) AS devices,
    (SELECT count(*) FROM membership m WHERE m.tenant_id = t.id) AS people,
    (SELECT count(*) FROM api_token a WHERE a.tenant_id = t.id AND a.revoked_at IS NULL) AS tokens
    FROM tenant t LEFT JOIN tenant_usage u ON u.tenant_id = t.id
"""

# --- on the connection of a tenant's session ---------------------------------------------------------------------------


async def find_own(connection: Any, *, lock: bool = False) -> Row:
    """lock: the plain role may update some columns only, which is enough for FOR UPDATE."""
    return await connection.fetchrow(f"SELECT {_TENANT} FROM tenant" + (" FOR UPDATE" if lock else ""))


async def rename_own(connection: Any, name: str) -> Row:
    return await connection.fetchrow(
        f"UPDATE tenant SET name = $1, version = version + 1, updated_at = now() RETURNING {_TENANT}", name
    )


async def list_audit(
    connection: Any,
    *,
    actor: str | None,
    action: str | None,
    subject: str | None,
    since: Any,
    until: Any,
    after: UUID | None,
    limit: int,
) -> list[Row]:
    rows: list[Row] = await connection.fetch(
        """
        SELECT id, at, actor, action, subject, address, detail FROM audit_entry
        WHERE ($1::text IS NULL OR actor = $1)
          AND ($2::text IS NULL OR action = $2)
          AND ($3::text IS NULL OR subject = $3)
          AND ($4::timestamptz IS NULL OR at >= $4)
          AND ($5::timestamptz IS NULL OR at < $5)
          AND ($6::uuid IS NULL OR id < $6)
        ORDER BY id DESC LIMIT $7
        """,
        actor, action, subject, since, until, after, limit,
    )  # fmt: skip
    return rows


# --- on the operator's connection --------------------------------------------------------------------------------------


async def list_tenants(connection: Any, status: str | None, after: str | None, limit: int) -> list[Row]:
    rows: list[Row] = await connection.fetch(
        f"SELECT {_OPERATED} WHERE ($1::text IS NULL OR t.status = $1) AND ($2::text IS NULL OR t.slug > $2)"
        " ORDER BY t.slug LIMIT $3",
        status, after, limit,
    )  # fmt: skip
    return rows


async def find_tenant(connection: Any, tenant_id: UUID) -> Row:
    return await connection.fetchrow(f"SELECT {_OPERATED} WHERE t.id = $1", tenant_id)


async def lock_tenant(connection: Any, tenant_id: UUID) -> Row:
    return await connection.fetchrow(f"SELECT {_TENANT} FROM tenant WHERE id = $1 FOR UPDATE", tenant_id)


async def insert_tenant(connection: Any, tenant_id: UUID, slug: str, name: str, quotas: Mapping[str, int]) -> bool:
    """False where the slug is taken."""
    return bool(
        await connection.fetchval(
            "INSERT INTO tenant (id, slug, name, quotas) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (slug) DO NOTHING RETURNING true",
            tenant_id, slug, name, dict(quotas),
        )
    )  # fmt: skip


async def insert_default_profile(connection: Any, profile_id: UUID, tenant_id: UUID) -> None:
    """For devices that come without a profile: it accepts every metric."""
    await connection.execute(
        "INSERT INTO profile (id, tenant_id, name, definition) VALUES ($1, $2, 'default', $3)", profile_id, tenant_id, {}
    )


async def update_tenant(connection: Any, tenant_id: UUID, *, status: str, quotas: Mapping[str, int]) -> None:
    await connection.execute(
        "UPDATE tenant SET status = $2, quotas = $3, version = version + 1, updated_at = now() WHERE id = $1",
        tenant_id, status, dict(quotas),
    )  # fmt: skip


async def delete_tenant(connection: Any, tenant_id: UUID) -> None:
    await connection.execute("DELETE FROM tenant WHERE id = $1", tenant_id)


async def find_person_by_email(connection: Any, email: str) -> Row:
    return await connection.fetchrow("SELECT id FROM person WHERE lower(email) = lower($1)", email)


async def insert_person(connection: Any, person_id: UUID, email: str, name: str, password_hash: str | None) -> None:
    await connection.execute(
        "INSERT INTO person (id, email, name, password_hash) VALUES ($1, $2, $3, $4)",
        person_id, email, name, password_hash,
    )  # fmt: skip


async def insert_operator_audit(
    connection: Any, entry_id: UUID, *, actor: str, action: str, subject: str, address: str, detail: Mapping[str, object]
) -> None:
    await connection.execute(
        "INSERT INTO operator_audit_entry (id, actor, action, subject, address, detail) VALUES ($1, $2, $3, $4, $5, $6)",
        entry_id, actor, action, subject, address, dict(detail),
    )  # fmt: skip

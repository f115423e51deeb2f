"""The statements about tokens. Each takes the connection of a tenant's session: row-level security does the rest.

They give rows whose columns are the fields of the struct that the service makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from headwater.tenancy import secrets
from headwater.tenancy.scope import TenantScope

Row = Any
"""An asyncpg.Record; None where there is none."""


async def queue_up(connection: Any, tenant_id: UUID, noun: str) -> None:
    """Until the transaction ends, nobody else of this tenant passes here for this noun: no race gets past a quota."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 1))", f"{tenant_id}/{noun}")


_TOKEN = "id, name, permissions, group_id, created_by, created_at, expires_at, revoked_at, last_used_at"


async def count_tokens(connection: Any) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM api_token"))


async def group_exists(connection: Any, group_id: UUID) -> bool:
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM device_group WHERE id = $1)", group_id))


async def insert_token(
    connection: Any,
    scope: TenantScope,
    secret: secrets.Secret,
    *,
    name: str,
    permissions: Sequence[str],
    group_id: UUID | None,
    expires_at: datetime | None,
) -> Row:
    return await connection.fetchrow(
        "INSERT INTO api_token (id, tenant_id, name, secret_hash, permissions, group_id, created_by, expires_at)"
        f" VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {_TOKEN}",
        secret.row_id, scope.tenant_id, name, secret.digest, permissions, group_id, scope.actor, expires_at,
    )  # fmt: skip


async def list_tokens(connection: Any, after: UUID | None, limit: int) -> list[Row]:
    rows: list[Row] = await connection.fetch(
        f"SELECT {_TOKEN} FROM api_token WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2", after, limit
    )
    return rows


async def find_token(connection: Any, token_id: UUID) -> Row:
    return await connection.fetchrow(f"SELECT {_TOKEN} FROM api_token WHERE id = $1 FOR UPDATE", token_id)


async def revoke_token(connection: Any, token_id: UUID) -> Row:
    return await connection.fetchrow(
        f"UPDATE api_token SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING {_TOKEN}", token_id
    )


async def revoke_tokens_of(connection: Any, actor: str, *, beyond: Sequence[str] = ()) -> int:
    """Revoke what an actor made, and what was made with that, and so on. Returns how many.

    beyond: only tokens that hold a permission that is not among these.
    """
    status = await connection.execute(
        """
        WITH RECURSIVE made AS (
            SELECT id FROM api_token WHERE created_by = $1 AND NOT permissions <@ $2::text[]
            UNION
            SELECT child.id FROM api_token child JOIN made ON child.created_by = 'token:' || made.id
        )
        UPDATE api_token SET revoked_at = now() WHERE id IN (SELECT id FROM made) AND revoked_at IS NULL
        """,
        actor, list(beyond),
    )  # fmt: skip
    return int(status.split()[-1])


async def delete_token(connection: Any, token_id: UUID) -> str | None:
    """Returns its name."""
    name: str | None = await connection.fetchval("DELETE FROM api_token WHERE id = $1 RETURNING name", token_id)
    return name

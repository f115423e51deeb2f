"""Tenants for tests, written as the platform operator would."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg

from headwater.ids import uuid7

TenantFactory = Callable[..., Awaitable[UUID]]


def tenant_factory(operator_url: str) -> TenantFactory:
    async def make(slug: str = "", *, quotas: dict[str, int] | None = None, profile: str = "default") -> UUID:
        """A tenant with one profile (named `default`, which accepts every metric). Returns the tenant's id."""
        tenant_id = uuid7()
        connection: Any = await asyncpg.connect(operator_url)
        try:
            await connection.execute(
                "INSERT INTO headwater.tenant (id, slug, name, quotas) VALUES ($1, $2, $2, $3::text::jsonb)",
                tenant_id, slug or f"t-{tenant_id.hex[-12:]}", json.dumps(quotas or {}),
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO headwater.profile (id, tenant_id, name, definition) VALUES ($1, $2, $3, '{}')",
                uuid7(), tenant_id, profile,
            )  # fmt: skip
        finally:
            await connection.close()
        return tenant_id

    return make

"""The connection that carries a tenant.

Rows of a tenant are reachable only through `tenant_session`, which opens a transaction and sets `app.tenant_id` for it
alone; row-level security does the rest. The pool connects as a plain role that owns nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

type_json_encoder = msgspec.json.Encoder()
type_json_decoder = msgspec.json.Decoder()

Connection = asyncpg.Connection


async def _prepare(connection: Any) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + type_json_encoder.encode(value),
        decoder=lambda data: type_json_decoder.decode(data[1:]),
    )


async def open_pool(url: str, *, size_max: int, application_name: str) -> asyncpg.Pool:
    """A pool whose connections speak jsonb as Python values. 0 connections at rest cost nothing on a large fleet."""
    return await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=size_max,
        init=_prepare,
        command_timeout=60,
        server_settings={"application_name": application_name, "timezone": "UTC"},
    )


class Database:
    """The plain role's view: nothing without a tenant."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def tenant_session(self, tenant_id: UUID) -> AsyncIterator[Any]:
        """One transaction that sees and changes the rows of one tenant only. Yields an asyncpg connection."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant_id))
            yield connection

    @asynccontextmanager
    async def lookup_session(self) -> AsyncIterator[Any]:
        """For the `lookup_*` functions, which find a tenant by a credential. Sees no tenant's rows."""
        async with self._pool.acquire() as connection:
            yield connection

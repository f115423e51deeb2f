"""The connection that carries a tenant.

Rows of a tenant are reachable only through `tenant_session`, which opens a transaction and sets `app.tenant_id` for it
alone; row-level security does the rest. The pool connects as a plain role that owns nothing.

A caller may hold one transaction around several services' work (`joined`): an answer that is remembered under an
idempotency key commits together with the change that it reports.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class _Joined:
    tenant_id: UUID
    connection: Any
    after_commit: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


# The transaction that sessions of this task join. It carries no tenant: each session still names its own, and one of
# another tenant gets a connection and a transaction of its own.
_joined: ContextVar[_Joined | None] = ContextVar("headwater_joined_transaction", default=None)


async def after_commit(action: Callable[[], Awaitable[None]]) -> None:
    """Do it now, or, inside `Database.joined`, once that has committed. Never done when it rolls back."""
    joined = _joined.get()
    if joined is None:
        await action()
    else:
        joined.after_commit.append(action)


class Database:
    """The plain role's view: nothing without a tenant."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def tenant_session(self, tenant_id: UUID) -> AsyncIterator[Any]:
        """One transaction that sees and changes the rows of one tenant only. Yields an asyncpg connection."""
        joined = _joined.get()
        if joined is not None and joined.tenant_id == tenant_id:
            async with joined.connection.transaction():
                yield joined.connection
            return
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant_id))
            yield connection

    @asynccontextmanager
    async def tenant_snapshot(self, tenant_id: UUID) -> AsyncIterator[Any]:
        """As `tenant_session`, but read only, and all of its statements see the rows of the same instant."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant_id))
            yield connection

    @asynccontextmanager
    async def joined(self, tenant_id: UUID) -> AsyncIterator[Any]:
        """A `tenant_session` that the sessions opened inside it, of the same tenant and task, become part of."""
        async with self.tenant_session(tenant_id) as connection:
            joined = _Joined(tenant_id, connection)
            token = _joined.set(joined)
            try:
                yield connection
            finally:
                _joined.reset(token)
        for action in joined.after_commit:
            await action()

    @asynccontextmanager
    async def lookup_session(self) -> AsyncIterator[Any]:
        """For the `lookup_*` functions, which find a tenant by a credential. Sees no tenant's rows."""
        async with self._pool.acquire() as connection:
            yield connection

"""The API in process, on real engines, and people and tokens to call it with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import nats

from headwater.api.app import APIServices, create_app
from headwater.clock import Clock, SystemClock
from headwater.database.session import Database, open_pool
from headwater.ids import uuid7
from headwater.tenancy import postgres_people, postgres_tenants, secrets
from headwater.tenancy.passwords import Passwords
from headwater.tenancy.scope import ALL_PERMISSIONS, Role
from tests.support.engines import DatabaseURLs

PASSWORD = "correct horse battery"
SECRET_KEY = "a secret for tests that is long enough to sign with"


@asynccontextmanager
async def api_services(
    urls: DatabaseURLs, *, nats_url: str | None = None, clock: Clock | None = None
) -> AsyncIterator[APIServices]:
    """Without nats_url: no NATS, and health says so."""
    app_pool = await open_pool(urls.app, size_max=8, application_name="test")
    operator_pool = await open_pool(urls.operator, size_max=2, application_name="test")
    client = await nats.connect(nats_url) if nats_url else None
    try:
        yield APIServices(
            secret_key=SECRET_KEY,
            database=Database(app_pool),
            operator_pool=operator_pool,
            nats=client,
            jetstream=client.jetstream() if client else None,
            clock=clock or SystemClock(),
            # As cheap as Argon2 gets: what it costs in earnest is not what these tests are about.
            passwords=Passwords(time_cost=1, memory_kib=8),
        )
    finally:
        if client is not None:
            await client.close()
        app_pool.terminate()
        operator_pool.terminate()


@asynccontextmanager
async def api_client(services: APIServices, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to the whole application, its lifespan included, without a socket."""
    app = create_app(services, **options)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    started, stop = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        # In a task of its own: pytest runs the two halves of a fixture in different tasks, a lifespan may not be split.
        async with app.lifespan():
            started.set()
            await stop.wait()

    life = asyncio.create_task(live())
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait({life, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if life.done():
        await life
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
    finally:
        stop.set()
        await life


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def mint_token(
    database: Database,
    tenant_id: UUID,
    permissions: Any = ALL_PERMISSIONS,
    *,
    group_id: UUID | None = None,
    expires_at: Any = None,
    revoked_at: Any = None,
) -> str:
    """An API token, past all checks."""
    secret = secrets.mint(secrets.API, uuid7())
    async with database.tenant_session(tenant_id) as connection:
        await connection.execute(
            "INSERT INTO api_token"
            " (id, tenant_id, name, secret_hash, permissions, group_id, created_by, expires_at, revoked_at)"
            " VALUES ($1, $2, 'test', $3, $4, $5, 'system:test', $6, $7)",
            secret.row_id, tenant_id, secret.digest, sorted(permissions), group_id, expires_at, revoked_at,
        )  # fmt: skip
    return secret.text


async def new_person(services: APIServices, tenant_id: UUID, email: str, role: Role) -> UUID:
    """A member of the tenant whose password is PASSWORD; an existing person joins it."""
    assert services.operator_pool is not None
    async with services.operator_pool.acquire() as connection, connection.transaction():
        known = await postgres_tenants.find_person_by_email(connection, email)
        person_id = known["id"] if known else uuid7()
        if known is None:
            password_hash = await services.passwords.hash(PASSWORD)
            await postgres_tenants.insert_person(
                connection, person_id, email, email.split("@", maxsplit=1)[0], password_hash
            )
        await postgres_people.insert_membership(connection, tenant_id, person_id, role)
    return person_id

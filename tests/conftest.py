"""Fixtures that every kind of test may use. Engines are real; what starts here ends with the test or the session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from headwater.database.session import Database, open_pool
from tests.support import engines, tenants


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[engines.TestPostgres]:
    with engines.postgres_server() as server:
        yield server


@pytest.fixture
def database_urls(postgres_server: engines.TestPostgres) -> Iterator[engines.DatabaseURLs]:
    """A fresh migrated database: `.app`, `.writer`, `.operator` and `.owner` (superuser) are asyncpg URLs."""
    name = engines.in_a_loop_of_its_own(postgres_server.create())
    yield postgres_server.urls(name)
    engines.in_a_loop_of_its_own(postgres_server.drop(name))


@pytest.fixture
def nats_url() -> Iterator[str]:
    """A fresh nats-server with JetStream; the URL holds user and password."""
    with engines.nats_server() as server:
        yield server.url_with_password


@pytest.fixture
async def database(database_urls: engines.DatabaseURLs) -> AsyncIterator[Database]:
    """The plain role's view of `database_urls`."""
    pool = await open_pool(database_urls.app, size_max=8, application_name="test")
    yield Database(pool)
    pool.terminate()


@pytest.fixture
def tenant_factory(database_urls: engines.DatabaseURLs) -> tenants.TenantFactory:
    """`await tenant_factory()` or `await tenant_factory("slug", quotas={...})` makes a tenant with a profile `default`."""
    return tenants.tenant_factory(database_urls.operator)

"""The API in process on a fresh database, one tenant, and people in each role."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import httpx
import pytest
from tests.support.api import PASSWORD, api_client, api_services, bearer, mint_token, new_person
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.api.app import APIServices
from headwater.tenancy import operation
from headwater.tenancy.scope import Role


@pytest.fixture
async def services(database_urls: DatabaseURLs) -> AsyncIterator[APIServices]:
    async with api_services(database_urls) as made:
        yield made


@pytest.fixture
async def client(services: APIServices) -> AsyncIterator[httpx.AsyncClient]:
    async with api_client(services) as made:
        yield made


@pytest.fixture
async def tenant(tenant_factory: TenantFactory) -> UUID:
    return await tenant_factory("acme")


@pytest.fixture
async def admin(services: APIServices, tenant: UUID) -> dict[str, str]:
    """The headers of an API token that may do everything in the tenant."""
    return bearer(await mint_token(services.database, tenant))


@pytest.fixture
async def operator(services: APIServices) -> dict[str, str]:
    assert services.operator_pool is not None
    async with services.operator_pool.acquire() as connection:
        return bearer((await operation.mint_operator_token(connection, "test")).text)


@dataclass
class People:
    """Logs people in."""

    client: httpx.AsyncClient
    services: APIServices
    tenant: UUID

    async def add(self, email: str, role: Role, *, tenant: UUID | None = None) -> UUID:
        return await new_person(self.services, tenant or self.tenant, email, role)

    async def login(self, email: str, tenant: str | None = None) -> dict[str, str]:
        """The session, as the API gives it."""
        answer = await self.client.post("/api/v1/auth/login", json={"email": email, "password": PASSWORD, "tenant": tenant})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def headers(self, email: str) -> dict[str, str]:
        return bearer((await self.login(email))["access_token"])


@pytest.fixture
def people(client: httpx.AsyncClient, services: APIServices, tenant: UUID) -> People:
    return People(client, services, tenant)

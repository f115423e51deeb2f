"""A running HTTP ingest: real uvicorn on a free port, real PostgreSQL behind the authentication, an uplink in memory. And
two gateways that are one broker, with a device that may use every topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
import pytest
from tests.support.engines import DatabaseURLs
from tests.support.gateways import OPEN, Device, Two, add_device, running_gateway
from tests.support.tenants import TenantFactory

from headwater.clock import SystemClock
from headwater.database.session import Database
from headwater.device.authentication import Authentication, TokenAuthenticator
from headwater.device.profile import ProfileDefinition
from headwater.gateway.http.app import IngestApp, create_ingest_app
from headwater.gateway.http.server import bind, serve_on
from headwater.gateway.metering import Meters
from headwater.ids import uuid7
from headwater.ingest.ports import Uplink
from headwater.ingest.profile_compiled import CompiledProfiles
from headwater.tenancy import secrets
from headwater.testing.memory_uplink import MemoryUplink


@pytest.fixture
async def gateways(database_urls: DatabaseURLs, nats_url: str) -> AsyncIterator[Two]:
    async with (
        running_gateway(database_urls, nats_url, name="one") as one,
        running_gateway(database_urls, nats_url, name="two") as two,
    ):
        yield one, two


@pytest.fixture
async def device(database_urls: DatabaseURLs, tenant_factory: TenantFactory) -> Device:
    return await add_device(database_urls.owner, await tenant_factory(), definition=OPEN)


@dataclass(frozen=True)
class HTTPDevice:
    tenant_id: UUID
    device_id: UUID
    profile_id: UUID
    credential_id: UUID
    token: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


HTTPDeviceFactory = Callable[..., Awaitable[HTTPDevice]]


@pytest.fixture
def http_device(database: Database, tenant_factory: TenantFactory) -> HTTPDeviceFactory:
    """`await http_device(ProfileDefinition(...), quotas={...})` makes a device with a token, in a tenant of its own."""

    async def make(definition: ProfileDefinition | None = None, quotas: dict[str, int] | None = None) -> HTTPDevice:
        tenant_id = await tenant_factory(quotas=quotas)
        device_id, credential = uuid7(), secrets.mint(secrets.DEVICE, uuid7())
        async with database.tenant_session(tenant_id) as connection:
            profile_id = await connection.fetchval("SELECT id FROM profile")
            if definition is not None:
                await connection.execute("UPDATE profile SET definition = $1", msgspec.to_builtins(definition))
            await connection.execute(
                "INSERT INTO device (id, tenant_id, external_id, profile_id) VALUES ($1, $2, 'sensor-1', $3)",
                device_id, tenant_id, profile_id,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO device_credential (id, tenant_id, device_id, kind, secret_hash)"
                " VALUES ($1, $2, $3, 'token', $4)",
                credential.row_id, tenant_id, device_id, credential.digest,
            )  # fmt: skip
        return HTTPDevice(tenant_id, device_id, profile_id, credential.row_id, credential.text)

    return make


@dataclass
class Ingest:
    app: IngestApp
    uplink: Any
    meters: Meters
    port: int
    client: aiohttp.ClientSession
    stop: asyncio.Event
    served: asyncio.Task[None]

    async def post(self, path: str, body: bytes | str, headers: dict[str, str], **more: str) -> tuple[int, Any, Any]:
        """(status, body as JSON, headers). `more`: headers with _ for -."""
        all_headers = headers | {name.replace("_", "-"): value for name, value in more.items()}
        data = body.encode() if isinstance(body, str) else body
        skip = () if "Content-Type" in all_headers else ("Content-Type",)
        async with self.client.post(
            f"http://127.0.0.1:{self.port}{path}", data=data, headers=all_headers, skip_auto_headers=skip
        ) as response:
            return response.status, msgspec.json.decode(await response.read()), response.headers


@asynccontextmanager
async def running_ingest(database: Database, uplink: Uplink) -> AsyncIterator[Ingest]:
    clock = SystemClock()
    meters = Meters()
    authentication = Authentication((TokenAuthenticator(database, clock),))
    app = create_ingest_app(authentication, uplink, clock, CompiledProfiles(), meters)
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    stop = asyncio.Event()
    served = asyncio.create_task(serve_on(app, listener, stop=stop))
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        yield Ingest(app, uplink, meters, port, client, stop, served)
    stop.set()
    await asyncio.wait_for(served, 15)


@pytest.fixture
async def ingest(database: Database) -> AsyncIterator[Ingest]:
    async with running_ingest(database, MemoryUplink()) as running:
        yield running

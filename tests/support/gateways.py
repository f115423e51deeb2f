"""Gateway roles inside the test's own loop, and devices that may connect to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from headwater.app import gateway, settings
from headwater.app.engines.ports import free_port
from headwater.ids import uuid7
from headwater.tenancy import secrets
from headwater.testing.mqtt_client import MQTTClient
from tests.support.engines import DatabaseURLs


@dataclass(frozen=True)
class Device:
    id: UUID
    tenant_id: UUID
    slug: str
    credential_id: UUID
    token: str

    @property
    def prefix(self) -> str:
        return f"d/{self.slug}/{self.id}/"


OPEN = {"publish": ["#"], "subscribe": ["#"]}
"""A profile whose devices may use every topic."""


@dataclass(frozen=True)
class Gateway:
    mqtt_port: int
    http_port: int

    def client(self, device: Device, **options: Any) -> MQTTClient:
        options = {"client_id": str(device.id), "username": str(device.id), "password": device.token} | options
        return MQTTClient("127.0.0.1", self.mqtt_port, **options)


Two = tuple[Gateway, Gateway]


@asynccontextmanager
async def running_gateway(
    urls: DatabaseURLs, nats_url: str, *, name: str = "gateway-0", **environ: str
) -> AsyncIterator[Gateway]:
    """`headwater run gateway`, without the process."""
    ports = Gateway(free_port(), free_port())
    stop = asyncio.Event()
    configured = settings.read(
        {
            "HEADWATER_DATABASE_URL": urls.app,
            "HEADWATER_NATS_URL": nats_url,
            "HEADWATER_GATEWAY_NAME": name,
            "HEADWATER_GATEWAY_MQTT_PORT": str(ports.mqtt_port),
            "HEADWATER_GATEWAY_HTTP_PORT": str(ports.http_port),
            "HEADWATER_GATEWAY_WS_PORT": "0",
        }
        | environ
    )
    role = asyncio.create_task(gateway.run(configured, stop))
    try:
        await _listening(ports.mqtt_port, role)
        yield ports
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await role


async def _listening(port: int, role: asyncio.Task[None]) -> None:
    async with asyncio.timeout(30):
        while not role.done():
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
    role.result()


async def add_device(
    owner_url: str, tenant_id: UUID, external_id: str = "", definition: dict[str, Any] | None = None
) -> Device:
    """A device with a token, under a profile of its own where a definition is given, else under the tenant's first one."""
    connection: Any = await asyncpg.connect(owner_url)
    device_id, credential_id, profile_id = uuid7(), uuid7(), uuid7()
    token = secrets.mint(secrets.DEVICE, credential_id)
    try:
        slug = await connection.fetchval("SELECT slug FROM tenant WHERE id = $1", tenant_id)
        if definition is None:
            profile_id = await connection.fetchval("SELECT id FROM profile WHERE tenant_id = $1 LIMIT 1", tenant_id)
        else:
            await connection.execute(
                "INSERT INTO profile (id, tenant_id, name, definition) VALUES ($1, $2, $1::uuid::text, $3::text::jsonb)",
                profile_id,
                tenant_id,
                json.dumps(definition),
            )
        await connection.execute(
            "INSERT INTO device (id, tenant_id, external_id, profile_id) VALUES ($1, $2, $3, $4)",
            device_id,
            tenant_id,
            external_id or str(device_id),
            profile_id,
        )
        await connection.execute(
            "INSERT INTO device_credential (id, tenant_id, device_id, kind, secret_hash) VALUES ($1, $2, $3, 'token', $4)",
            credential_id,
            tenant_id,
            device_id,
            token.digest,
        )
    finally:
        await connection.close()
    return Device(device_id, tenant_id, slug, credential_id, token.text)


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    """Polls until the condition (a function, or one that returns an awaitable) gives something true."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if loop.time() > give_up:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.02)

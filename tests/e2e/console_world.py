"""A small world for the console: the API on a port with real engines, devices with an hour of history, and a live feed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import cbor2
import msgspec
import nats
from tests.integration.store.stored import Stored, Telemetry
from tests.support.api import PASSWORD, api_services, new_person
from tests.support.engines import DatabaseURLs
from tests.support.live import LiveGateway, served
from tests.support.tenants import tenant_factory

from headwater.api.app import APIServices, create_app
from headwater.app.engines.ports import free_port
from headwater.ids import uuid7
from headwater.store.timeline import record
from headwater.stream.envelope import EXT_LOCATION, Kind
from headwater.stream.timeline import Event, TimelineEntry
from headwater.stream.topology import Topology, ensure
from headwater.tenancy.scope import Role
from headwater.testing.fleet_makes import MAKES, Identity, Make, Outgoing

EMAIL = "ada@example.com"
HOUR_S = 3_600
STEP_S = 10


@dataclass
class Simulated:
    id: UUID
    name: str
    make: Make
    simulate: Any


@dataclass
class World:
    port: int
    services: APIServices
    gateway: LiveGateway
    urls: DatabaseURLs
    tenant: UUID
    email: str = EMAIL
    password: str = PASSWORD
    devices: list[Simulated] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def start(self) -> None:
        self._serving = AsyncExitStack()
        await self._serving.enter_async_context(served(create_app(self.services), self.port))

    async def stop(self) -> None:
        """The API goes away, as in a restart."""
        await self._serving.aclose()

    def says(self, device: UUID, body: dict[str, Any]) -> None:
        self.gateway.stores(device, tenant=self.tenant, body=body)

    def presence(self, device: UUID, *, connected: bool) -> None:
        body = {"gateway": "", "protocol": "mqtt", "address": "", "reason": ""}
        kind = Kind.CONNECTED if connected else Kind.DISCONNECTED
        self.gateway.stores(device, tenant=self.tenant, body=body, kind=kind)

    async def happens(self, device: UUID, event: Event, **fields: Any) -> None:
        """In the device's timeline."""
        entry = TimelineEntry(
            uuid7().bytes, time.time_ns() // 1000, event.value, self.tenant.bytes, device.bytes, address="203.0.113.7",
            **fields,
        )  # fmt: skip
        connection: Any = await asyncpg.connect(self.urls.writer)
        await record(connection, [entry])
        await connection.close()

    async def add_device(self, external_id: str, name: str, *, profile: str = "default", connected: bool = False) -> UUID:
        device = uuid7()
        async with self.services.database.tenant_session(self.tenant) as connection:
            await connection.execute(
                "INSERT INTO device (id, tenant_id, external_id, name, profile_id, labels)"
                " SELECT $1, $2, $3, $4, id, $6 FROM profile WHERE name = $5",
                device, self.tenant, external_id, name, profile, {"site": "north" if len(self.devices) % 2 else "south"},
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO device_state (tenant_id, device_id, connected, last_seen_at) VALUES ($1, $2, $3, now())"
                " ON CONFLICT (device_id) DO UPDATE SET connected = excluded.connected, last_seen_at = now()",
                self.tenant, device, connected,
            )  # fmt: skip
        return device

    async def add_fleet(self, of_each: int = 1) -> None:
        """Devices of all makes with an hour of stored telemetry."""
        async with self.services.database.tenant_session(self.tenant) as connection:
            await connection.executemany(
                "INSERT INTO profile (id, tenant_id, name, definition) VALUES ($1, $2, $3, $4)",
                [(uuid7(), self.tenant, make.name, make.profile) for make in MAKES],
            )
        telemetry = Telemetry(self.urls, self.tenant)
        messages: list[Stored] = []
        now = time.time()
        for number in range(1, of_each + 1):
            for make in MAKES:
                external_id = f"{make.name}-{number}"
                connected = make.transport != "http" and (number + len(make.name)) % 5 != 0
                device = await self.add_device(external_id, f"{make.title} {number}", profile=make.name, connected=connected)
                simulate = make.simulate(Identity(external_id, "", "north"), Random(external_id))
                self.devices.append(Simulated(device, f"{make.title} {number}", make, simulate))
                for step in range(HOUR_S // STEP_S):
                    at = now - HOUR_S + step * STEP_S
                    values = stored_values(make, simulate(at, STEP_S))
                    messages.append(Stored(device, int(at * 1e6), values, len(messages) + 1))
                await telemetry.latest(messages[-1])
        await telemetry.store(messages)

    async def live_forever(self, rate: float) -> None:
        while True:
            for device in self.devices:
                self.says(device.id, live_values(device.make, device.simulate(time.time(), len(self.devices) / rate)))
                await asyncio.sleep(1 / rate)


def values_of(make: Make, message: Outgoing) -> dict[str, Any]:
    if message.content_type == "application/cbor":
        return cbor2.loads(message.payload)["values"]
    said = msgspec.json.decode(message.payload)
    if isinstance(said, list):
        return {record["n"]: record.get("v", record.get("vb")) for record in said}
    if "ENERGY" in said:
        return {f"ENERGY.{name}": float(value) for name, value in said["ENERGY"].items()}
    return said.get("values", said)


def stored_values(make: Make, message: Outgoing) -> dict[str, Any]:
    return {n: list(v.values()) if isinstance(v, dict) else v for n, v in values_of(make, message).items()}


def live_values(make: Make, message: Outgoing) -> dict[str, Any]:
    def place(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return msgspec.msgpack.Ext(EXT_LOCATION, msgspec.msgpack.encode(list(value.values())))

    return {name: place(value) for name, value in values_of(make, message).items()}


@asynccontextmanager
async def open_world(urls: DatabaseURLs, nats_url: str) -> AsyncIterator[World]:
    tenant = await tenant_factory(urls.operator)("acme")
    async with api_services(urls, nats_url=nats_url) as services:
        assert services.jetstream is not None
        await ensure(services.jetstream, Topology())
        await new_person(services, tenant, EMAIL, Role.ADMIN)
        connection = await nats.connect(nats_url)
        async with LiveGateway(connection) as gateway:
            world = World(free_port(), services, gateway, urls, tenant)
            await world.start()
            yield world
            await world.stop()
        await connection.close()

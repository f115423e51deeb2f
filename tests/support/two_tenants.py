"""Two tenants side by side: `alpha`, which has one of everything, and `beta`, which must never see any of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx

from headwater.api.app import APIServices
from headwater.ids import uuid7
from headwater.store.timeline import record
from headwater.stream import subjects
from headwater.stream.envelope import DeadLetter, encode_dead_letter
from headwater.stream.timeline import Event, TimelineEntry
from headwater.stream.topology import Topology, ensure
from headwater.tenancy import operation
from headwater.tenancy.scope import ALL_PERMISSIONS, Role
from tests.integration.store.stored import Stored, Telemetry
from tests.support.api import PASSWORD, api_client, api_services, bearer, mint_token, new_person
from tests.support.engines import DatabaseURLs
from tests.support.tenants import tenant_factory

MARK = "alpha"
"""In every name and value of the first tenant; an answer to anybody else that holds it is a leak."""
QUOTAS = {"token_requests_per_s": 1_000_000, "requests_per_s": 1_000_000}


@dataclass
class World:
    """ids: what $device, $group, ... stand for: things of alpha; `$near` is in its group, `$device` is not."""

    client: httpx.AsyncClient
    services: APIServices
    urls: DatabaseURLs
    alpha: UUID
    beta: UUID
    ids: dict[str, str] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    """headers of alpha's owner"""
    operator: dict[str, str] = field(default_factory=dict)

    async def snapshot(self) -> dict[str, str]:
        """A digest of all that alpha has, in each table."""
        connection: Any = await asyncpg.connect(self.urls.owner)
        try:
            tables = await connection.fetch(
                "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'"
                " WHERE c.relnamespace = 'headwater'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            )
            return {
                row["relname"]: await connection.fetchval(
                    f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM headwater.{row['relname']} t"
                    " WHERE tenant_id = $1",
                    self.alpha,
                )
                for row in tables
            } | {"tenant": await connection.fetchval("SELECT t::text FROM headwater.tenant t WHERE id = $1", self.alpha)}
        finally:
            await connection.close()

    async def dead_letters(self) -> int:
        assert self.services.jetstream is not None
        subject = subjects.dead(self.alpha)
        state = (await self.services.jetstream.stream_info("DEADLETTER", subjects_filter=subject)).state
        return (state.subjects or {}).get(subject, 0)

    async def person(self, role: Role, tenant: UUID | None = None) -> dict[str, str]:
        """Headers of a new member."""
        email = f"{uuid4().hex}@example.com"
        await new_person(self.services, tenant or self.alpha, email, role)
        answer = await self.client.post("/api/v1/auth/login", json={"email": email, "password": PASSWORD})
        return bearer(answer.json()["access_token"])

    async def token(
        self, permissions: Any = ALL_PERMISSIONS, *, tenant: UUID | None = None, **fields: Any
    ) -> dict[str, str]:
        """Headers of a token, of alpha where nothing is said."""
        return bearer(await mint_token(self.services.database, tenant or self.alpha, permissions, **fields))

    async def _make(self, path: str, body: Any) -> Any:
        answer = await self.client.post(f"/api/v1{path}", headers=self.owner, json=body)
        assert answer.status_code in {200, 201}, answer.text
        return answer.json()


@asynccontextmanager
async def two_tenants(urls: DatabaseURLs, nats_url: str) -> AsyncIterator[World]:
    async with api_services(urls, nats_url=nats_url) as services, api_client(services) as client:
        assert services.jetstream is not None
        await ensure(services.jetstream, Topology(uplink_bytes_max=1 << 26, dead_bytes_max=1 << 26))
        make = tenant_factory(urls.operator)
        alpha, beta = [await make(slug, quotas=QUOTAS) for slug in (f"{MARK}-tenant", "beta")]
        world = World(client, services, urls, alpha, beta)
        world.owner = bearer(await mint_token(services.database, alpha))
        assert services.operator_pool is not None
        async with services.operator_pool.acquire() as connection:
            secret = await operation.mint_operator_token(connection, f"{MARK}-operator")
        world.operator = bearer(secret.text)
        await _fill(world, str(secret.row_id))
        yield world


async def _fill(world: World, operator_token: str) -> None:
    device, near = [
        (await world._make("/devices", {"external_id": f"{MARK}-{n}", "name": f"{MARK} device"}))["id"] for n in (1, 2)
    ]
    group = (await world._make("/groups", {"name": f"{MARK} group"}))["id"]
    await world._make(f"/groups/{group}/devices/add", {"device_ids": [near]})
    credential = await world._make(f"/devices/{device}/credentials", {})
    await world._make(f"/devices/{near}/credentials", {})
    person = await new_person(world.services, world.alpha, f"{MARK}@example.com", Role.ADMIN)
    world.ids = {
        "tenant": str(world.alpha),
        "device": device,
        "near": near,
        "group": group,
        "credential": credential["id"],
        "profile": (await world._make("/profiles", {"name": f"{MARK} profile"}))["id"],
        "token": (await world._make("/tokens", {"name": f"{MARK} token", "permissions": ["token:read"]}))["id"],
        "invitation": (await world._make("/invitations", {"email": f"{MARK}2@example.com", "role": "viewer"}))["id"],
        "person": str(person),
        "operator_token": operator_token,
        "letter": str(await _dead_letter(world, UUID(device))),
    }
    await _dead_letter(world, UUID(near))
    for one in (device, near):
        await _happening(world, UUID(one))
    telemetry = Telemetry(world.urls, world.alpha)
    messages = [
        Stored(UUID(one), int(time.time() * 1e6), {f"{MARK}_metric": 1.5, f"{MARK}_text": MARK}, n)
        for n, one in enumerate((device, near), 1)
    ]
    await telemetry.store(messages)
    for message in messages:
        await telemetry.latest(message)


async def _happening(world: World, device: UUID) -> None:
    """A failed attempt to connect in the device's timeline."""
    entry = TimelineEntry(
        uuid7().bytes, int(time.time() * 1e6), Event.AUTHENTICATION_FAILED.value, world.alpha.bytes, device.bytes,
        "device.refused", MARK, MARK,
    )  # fmt: skip
    connection: Any = await asyncpg.connect(world.urls.writer)
    try:
        await record(connection, [entry])
    finally:
        await connection.close()


async def _dead_letter(world: World, device: UUID) -> int:
    assert world.services.jetstream is not None
    letter = DeadLetter(
        device.bytes, "mqtt", f"{MARK}/topic", "payload.malformed", MARK, int(time.time() * 1e6), MARK.encode()
    )
    return (await world.services.jetstream.publish(subjects.dead(world.alpha), encode_dead_letter(letter))).seq

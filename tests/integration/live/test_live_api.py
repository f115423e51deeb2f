"""Watching as people and programs do it: WebSocket and server-sent events over a served API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import nats
import pytest
import websockets
from tests.support.api import api_services, bearer, mint_token
from tests.support.engines import DatabaseURLs
from tests.support.live import DEADLINE_S, LiveGateway, served
from tests.support.tenants import TenantFactory

from headwater.api import live, live_access
from headwater.api.app import APIServices, create_app
from headwater.ids import uuid7
from headwater.stream.envelope import Kind
from headwater.stream.topology import Topology, ensure

WATCH = ("telemetry:read",)


@dataclass
class World:
    address: str
    services: APIServices
    gateway: LiveGateway
    tenant: UUID
    pump: UUID
    valve: UUID
    group: UUID

    async def token(self, permissions: Any = WATCH, **options: Any) -> str:
        return await mint_token(self.services.database, options.pop("tenant", self.tenant), permissions, **options)

    def stores(self, *devices: UUID, **options: Any) -> None:
        self.gateway.stores(*devices, **{"tenant": self.tenant} | options)

    def socket(self, token: str | None = None) -> Any:
        return websockets.connect(f"ws://{self.address}/api/v1/live", additional_headers=bearer(token) if token else {})

    @asynccontextmanager
    async def watching(self, token: str | None = None, **subscribe: Any) -> AsyncIterator[Any]:
        """A WebSocket that is subscribed, once the gateway knows."""
        async with self.socket() as socket:
            hello = {"type": "subscribe", "access_token": token or await self.token()} | subscribe
            await socket.send(json.dumps(hello))
            subscribed = await receive(socket)
            assert subscribed["type"] == "subscribed", subscribed
            await self.gateway.wants(self.tenant, self.pump)
            yield socket

    @asynccontextmanager
    async def stream(self, headers: dict[str, str] | None = None, **query: str) -> AsyncIterator[Any]:
        async with (
            httpx.AsyncClient(base_url=f"http://{self.address}", timeout=DEADLINE_S) as client,
            client.stream("GET", "/api/v1/live/events", params=query, headers=headers or {}) as response,
        ):
            yield response


async def receive(socket: Any) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        return json.loads(await socket.recv())


async def closed(socket: Any) -> tuple[int, str]:
    """The close code, and the code of the problem that came before it."""
    async with asyncio.timeout(DEADLINE_S):
        message = {}
        try:
            while True:
                message = json.loads(await socket.recv())
        except websockets.ConnectionClosed as end:
            return end.rcvd.code, message["problem"]["code"]


async def frames(response: Any, count: int) -> list[dict[str, Any]]:
    """The next `count` events of a stream, each with the id that stands beside it."""
    found: list[dict[str, Any]] = []
    event_id = None
    async with asyncio.timeout(DEADLINE_S):
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                found.append(json.loads(line[6:]))
                assert found[-1].get("id") == event_id
                event_id = None
            if len(found) == count:
                return found
    raise AssertionError(f"the stream ended after {found}")


@pytest.fixture
async def world(database_urls: DatabaseURLs, nats_url: str, tenant_factory: TenantFactory) -> AsyncIterator[World]:
    tenant = await tenant_factory("acme")
    pump, valve, group = uuid7(), uuid7(), uuid7()
    async with api_services(database_urls, nats_url=nats_url) as services:
        assert services.jetstream is not None
        await ensure(services.jetstream, Topology())
        async with services.database.tenant_session(tenant) as connection:
            profile = await connection.fetchval("SELECT id FROM profile")
            await connection.executemany(
                "INSERT INTO device (id, tenant_id, external_id, profile_id, labels) VALUES ($1, $2, $3, $4, $5)",
                [(pump, tenant, "pump", profile, {"site": "north"}), (valve, tenant, "valve", profile, {"site": "south"})],
            )
            await connection.execute(
                "INSERT INTO device_group (id, tenant_id, name, kind) VALUES ($1, $2, 'pumps', 'static')", group, tenant
            )
            await connection.execute(
                "INSERT INTO device_group_member (tenant_id, group_id, device_id) VALUES ($1, $2, $3)", tenant, group, pump
            )
        gateway_connection = await nats.connect(nats_url)
        async with LiveGateway(gateway_connection) as gateway, served(create_app(services)) as address:
            yield World(address, services, gateway, tenant, pump, valve, group)
        await gateway_connection.close()


async def test_telemetry_reaches_a_socket(world: World) -> None:
    async with world.watching() as socket:
        world.stores(world.pump, body={"t": 21.5})
        event = await receive(socket)
        assert (event["type"], event["device_id"], event["values"]) == ("telemetry", str(world.pump), {"t": 21.5})
        world.stores(world.valve, body={"gateway": "", "protocol": "mqtt", "address": ""}, kind=Kind.CONNECTED)
        event = await receive(socket)
        assert (event["type"], event["device_id"], event["connected"]) == ("presence", str(world.valve), True)


async def test_parameters_restrict(world: World) -> None:
    token = await world.token()
    choices: list[dict[str, Any]] = [
        {"devices": [str(world.pump)]},
        {"group": str(world.group)},
        {"q": "labels.site = north"},
        {"metrics": ["t"]},
        {"kinds": ["telemetry"], "metrics": ["t"], "batch": True},
    ]
    for choice in choices:
        async with world.watching(token, **choice) as socket:
            world.stores(world.valve, body={"p": 1.0})
            world.stores(world.pump, body={"p": 1.0, "t": 2.0})
            event = await receive(socket)
            event = event[0] if choice.get("batch") else event
            assert event["device_id"] == str(world.pump), choice
            assert set(event["values"]) == ({"t"} if "metrics" in choice else {"p", "t"})


async def test_a_socket_subscribes_anew_and_resumes(world: World) -> None:
    token = await world.token()
    async with world.watching(token) as socket:
        world.stores(world.pump)
        first = await receive(socket)
        world.stores(world.pump)
        second = await receive(socket)
        await socket.send(json.dumps({"type": "subscribe", "devices": [str(world.pump)], "last_event_id": first["id"]}))
        assert (await receive(socket))["type"] == "subscribed"
        assert await receive(socket) == second
        await socket.send(json.dumps({"type": "authenticate", "access_token": await world.token()}))
        assert await receive(socket) == {"type": "authenticated"}


async def test_a_header_serves_instead_of_the_first_message(world: World) -> None:
    async with world.socket(await world.token()) as socket:
        await socket.send('{"type":"subscribe"}')
        assert (await receive(socket))["type"] == "subscribed"


async def test_a_group_token_sees_its_group(world: World) -> None:
    token = await world.token(group_id=world.group)
    async with world.watching(token) as socket:
        world.stores(world.valve, world.pump)
        assert (await receive(socket))["device_id"] == str(world.pump)
    async with world.socket() as socket:
        await socket.send(json.dumps({"type": "subscribe", "access_token": token, "devices": [str(world.valve)]}))
        assert await closed(socket) == (4404, "resource.not_found")


async def test_another_tenants_devices_do_not_exist(world: World, tenant_factory: TenantFactory) -> None:
    stranger = await world.token(tenant=await tenant_factory("other"))
    for what in ({"devices": [str(world.pump)]}, {"group": str(world.group)}):
        async with world.socket() as socket:
            await socket.send(json.dumps({"type": "subscribe", "access_token": stranger} | what))
            assert await closed(socket) == (4404, "resource.not_found")
    async with world.watching() as own, world.socket(stranger) as socket:
        await socket.send('{"type":"subscribe"}')
        assert (await receive(socket))["type"] == "subscribed"
        await own.send(json.dumps({"type": "authenticate", "access_token": stranger}))
        assert await closed(own) == (4403, "auth.forbidden")


@pytest.mark.parametrize(
    ("message", "end"),
    [
        ('{"type":"subscribe"}', (4401, "auth.unauthenticated")),
        ('{"type":"subscribe","access_token":"hwt_no"}', (4401, "auth.unauthenticated")),
        ('{"type":"authenticate","access_token":"x"}', (4400, "live.not_understood")),
        ("nonsense", (4400, "live.not_understood")),
        ('{"type":"subscribe","devices":["x"]}', (4400, "live.not_understood")),
    ],
)
async def test_who_is_wrong_hears_it(world: World, message: str, end: tuple[int, str]) -> None:
    async with world.socket() as socket:
        await socket.send(message)
        assert await closed(socket) == end


async def test_wrong_rights_filters_and_ids(world: World) -> None:
    watch, other = await world.token(), await world.token(("device:read",))
    for token, what, end in [
        (other, {}, (4403, "auth.forbidden")),
        (watch, {"q": "labels.site ="}, (4400, "filter.invalid")),
        (watch, {"last_event_id": "x"}, (4400, "request.invalid")),
    ]:
        async with world.socket() as socket:
            await socket.send(json.dumps({"type": "subscribe", "access_token": token} | what))
            assert await closed(socket) == end


async def test_the_quota_of_watchers(world: World, tenant_factory: TenantFactory) -> None:
    token = await world.token(tenant=await tenant_factory("small", quotas={"live_clients_max": 1}))
    async with world.socket(token) as first:
        await first.send('{"type":"subscribe"}')
        assert (await receive(first))["type"] == "subscribed"
        async with world.socket(token) as second:
            await second.send('{"type":"subscribe"}')
            assert await closed(second) == (4429, "live.too_many_watchers")


async def test_a_revoked_token_ends_its_connections(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.api.live_socket.CHECK_S", 0.05)
    monkeypatch.setattr(live, "CHECK_S", 0.05)
    monkeypatch.setattr(live, "QUIET_S", 0.05)
    token = await world.token()
    async with world.watching(token) as socket, world.stream(bearer(token)) as stream:
        await frames(stream, 1)
        async with world.services.database.tenant_session(world.tenant) as connection:
            await connection.execute("UPDATE api_token SET revoked_at = now()")
        assert await closed(socket) == (4401, "auth.token_revoked")
    async with world.stream(bearer(token)) as refused:
        assert refused.status_code == 401


async def test_server_sent_events(world: World) -> None:
    headers = bearer(await world.token())
    async with world.stream(headers, devices=str(world.pump), kinds="telemetry,presence", metrics="t,n") as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        assert await anext(lines) == "retry: 2000"
        await world.gateway.wants(world.tenant, world.pump)
        world.stores(world.valve, world.pump)
        seen = []
        async with asyncio.timeout(DEADLINE_S):
            async for line in lines:
                seen.append(line)
                if line.startswith("data:") and "telemetry" in line:
                    break
    event = json.loads(seen[-1][6:])
    assert (seen[-2], event["device_id"]) == (f"id: {event['id']}", str(world.pump))
    world.stores(world.pump)
    async with world.stream(headers | {"Last-Event-ID": event["id"]}, devices=str(world.pump)) as response:
        subscribed, resumed = await frames(response, 2)
        assert (subscribed["type"], resumed["type"]) == ("subscribed", "telemetry")
        assert resumed["values"] == {"n": 3}


async def test_a_ticket_opens_one_stream(world: World) -> None:
    async with httpx.AsyncClient(base_url=f"http://{world.address}", headers=bearer(await world.token())) as client:
        made = await client.post("/api/v1/live/tickets")
        assert made.status_code == 201, made.text
    ticket = made.json()["ticket"]
    async with world.stream(ticket=ticket) as response:
        assert (await frames(response, 1))[0]["type"] == "subscribed"
    for wrong in (ticket, ticket[:-4] + "AAAA", "x" * 5, ticket[:50]):
        async with world.stream(ticket=wrong) as response:
            assert response.status_code == 401
            assert json.loads(await response.aread())["code"] == "live.ticket_invalid"


async def test_an_old_ticket_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_access, "TICKET_S", 0)
    async with httpx.AsyncClient(base_url=f"http://{world.address}", headers=bearer(await world.token())) as client:
        ticket = (await client.post("/api/v1/live/tickets")).json()["ticket"]
    async with world.stream(ticket=ticket) as response:
        assert response.status_code == 401


@pytest.mark.parametrize("query", [{"devices": "x"}, {"kinds": "telemetry,nothing"}, {"q": "a ="}, {"last_event_id": "1"}])
async def test_wrong_parameters_are_named(world: World, query: dict[str, str]) -> None:
    async with world.stream(bearer(await world.token()), **query) as response:
        assert response.status_code == 400
        assert json.loads(await response.aread())["status"] == 400

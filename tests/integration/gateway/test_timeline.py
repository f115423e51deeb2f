"""Why can my device not connect? Asked of the API, after it has happened to a real gateway."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import nats
import pytest
from tests.support.api import api_client, api_services, bearer, mint_token
from tests.support.certificates import Authority
from tests.support.engines import DatabaseURLs
from tests.support.gateways import Device, Gateway, add_device, eventually, running_gateway
from tests.support.proxy import ipv4_header
from tests.support.tenants import TenantFactory
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from headwater.app.engines.ports import free_port
from headwater.database.session import open_pool
from headwater.gateway import timeline
from headwater.ids import uuid7
from headwater.protocols.mqtt import Connect, Properties, encode_packet
from headwater.store.timeline import TimelineCounts, TimelineWriter
from headwater.stream import subjects
from headwater.stream.topology import TIMELINE_STREAM
from headwater.stream.work_queue import WorkQueue
from headwater.tenancy import operation, secrets
from headwater.testing.mqtt_client import ConnectionLost, ConnectionRefused, PublishRefused


@dataclass
class World:
    """A device, a gateway that it may try to connect to, a worker's half that writes down, and the API."""

    device: Device
    gateway: Gateway
    mqtts_port: int
    ws_port: int
    api: httpx.AsyncClient
    owner: dict[str, str]
    operator: dict[str, str]

    async def told(self, *events: str, path: str = "", **query: str) -> list[dict[str, Any]]:
        """What the API says of the device, oldest first, once these events are there."""
        path = path or f"/devices/{self.device.id}/timeline"
        headers = self.operator if path.startswith("/operator") else self.owner

        async def there() -> tuple[list[dict[str, Any]]] | None:
            answer = await self.api.get(f"/api/v1{path}", headers=headers, params=query)
            assert answer.status_code == 200, answer.text
            items: list[dict[str, Any]] = answer.json()["items"][::-1]
            return (items,) if [item["event"] for item in items] == list(events) else None

        [found] = await eventually(there, f"{events} in {path}")
        return found  # type: ignore[no-any-return]  # `eventually` knows no types

    async def strangers(self, count: int) -> list[dict[str, Any]]:
        """What the operator is told of so many who were refused before they said who they are, oldest first."""
        events = ["connection.refused_before_authentication"] * count
        return await self.told(*events, path="/operator/connection-attempts", event="connection.")

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.mqtt_port)
        yield reader, writer
        writer.close()


@pytest.fixture
async def world(
    database_urls: DatabaseURLs,
    nats_url: str,
    tenant_factory: TenantFactory,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> AsyncIterator[World]:
    certificate, key = Authority(tmp_path).issue("gateway")
    ports = {"MQTTS_PORT": str(free_port()), "WS_PORT": str(free_port())}
    settings = ports | {
        "AUTHENTICATION_METHODS": "tests.support.countersign:make",
        "MQTTS_CERT_FILE": str(certificate),
        "MQTTS_KEY_FILE": str(key),
    }
    monkeypatch.setattr(timeline, "GATHER_S", 0.01)
    device = await add_device(database_urls.owner, await tenant_factory("acme"), "thermometer-1")
    pool = await open_pool(database_urls.writer, size_max=1, application_name="test")
    client = await nats.connect(nats_url)
    queue = WorkQueue(client, stream=TIMELINE_STREAM, subject=subjects.TIMELINE, name="timeline")
    stop = asyncio.Event()
    async with (
        running_gateway(
            database_urls, nats_url, **{f"HEADWATER_GATEWAY_{name}": value for name, value in settings.items()}
        ) as gateway,
        api_services(database_urls) as services,
        api_client(services) as api,
    ):
        writing = asyncio.create_task(TimelineWriter(queue, pool, TimelineCounts()).run(stop))
        assert services.operator_pool is not None
        async with services.operator_pool.acquire() as connection:
            operator = bearer((await operation.mint_operator_token(connection, "test")).text)
        owner = bearer(await mint_token(services.database, device.tenant_id))
        yield World(device, gateway, int(ports["MQTTS_PORT"]), int(ports["WS_PORT"]), api, owner, operator)
        stop.set()
        await writing
    await client.close()
    pool.terminate()


def wrong(device: Device) -> str:
    """The right token's id, and another secret."""
    return secrets.mint(secrets.DEVICE, device.credential_id).text


async def post(world: World, body: bytes, token: str) -> int:
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{world.gateway.http_port}/v1/telemetry"
        async with session.post(url, data=body, headers=bearer(token) | {"Content-Type": "application/json"}) as answer:
            return answer.status


async def test_http(world: World) -> None:
    assert await post(world, b"{}", wrong(world.device)) == 401
    assert await post(world, b"no json", world.device.token) == 400
    assert await post(world, b'{"a":1}', world.device.token) == 202
    refused, rejected = await world.told("authentication.failed", "message.rejected")
    assert refused["summary"] == "Refused: unknown or wrong token, from 127.0.0.1"
    assert (refused["code"], refused["identified_by"], refused["listener"]) == ("device.refused", "credential", "http")
    assert (rejected["code"], rejected["identified_by"]) == ("payload.malformed", "")
    [attempt] = await world.told("authentication.failed", path="/connection-attempts")
    assert attempt["id"] == refused["id"]


async def test_a_wrong_token(world: World) -> None:
    token = wrong(world.device)
    for version in (3, 4, 5):
        with pytest.raises(ConnectionRefused):
            await world.gateway.client(world.device, version=version, password=token, reconnect=False).connect()
    refused = await world.told(*["authentication.failed"] * 3)
    assert {one["summary"] for one in refused} == {"Refused: unknown or wrong token, from 127.0.0.1"}
    assert {(one["code"], one["identified_by"]) for one in refused} == {("device.refused", "credential")}
    assert [(one["client_id"], one["protocol"]) for one in refused] == [
        (str(world.device.id), f"mqtt/{version}") for version in (3, 4, 5)
    ]
    assert token[40:] not in str(refused)


async def test_an_unknown_device_is_the_operator_s_to_see(world: World) -> None:
    token = secrets.mint(secrets.DEVICE, uuid7()).text
    client = world.gateway.client(world.device, username=str(uuid7()), password=token, client_id="nobody", reconnect=False)
    with pytest.raises(ConnectionRefused):
        await client.connect()
    path = "/operator/connection-attempts"
    [attempt] = await world.told("authentication.failed", path=path, address="127.0.0.1")
    assert (attempt["client_id"], attempt["code"]) == ("nobody", "device.refused")
    assert token[40:] not in str(attempt)
    assert await world.told(path=path, address="203.0.113.7") == []
    assert await world.told() == []


async def test_a_name_without_a_good_password_is_the_device_s(world: World) -> None:
    client = world.gateway.client(world.device, username="thermometer-1", password="hunter2", client_id="x", reconnect=False)
    with pytest.raises(ConnectionRefused):
        await client.connect()
    [refused] = await world.told("authentication.failed")
    assert (refused["identified_by"], refused["client_id"]) == ("user_name", "x")
    assert "hunter2" not in str(refused)


async def test_a_suspended_device(world: World) -> None:
    answer = await world.api.post(f"/api/v1/devices/{world.device.id}/suspend", headers=world.owner)
    assert answer.status_code == 200
    with pytest.raises(ConnectionRefused):
        await world.gateway.client(world.device, reconnect=False).connect()
    [refused] = await world.told("authentication.failed")
    assert (refused["code"], refused["detail"]) == ("device.suspended", "the device is suspended")


async def test_a_good_day(world: World) -> None:
    async with world.gateway.client(world.device, version=5, client_id="c-1") as client:
        await client.publish(f"{world.device.prefix}telemetry", b'{"a":1}', qos=1)
    connected, disconnected = await world.told("connected", "disconnected")
    assert connected["summary"] == "Connected over MQTT 5, from 127.0.0.1"
    assert (connected["client_id"], connected["listener"], connected["identified_by"]) == ("c-1", "mqtt", "")
    assert (disconnected["code"], disconnected["client_id"]) == ("client_disconnect", "c-1")
    assert await world.told(path="/connection-attempts") == []


async def test_a_session_that_goes_on_is_said(world: World) -> None:
    for _ in range(2):
        async with world.gateway.client(
            world.device, version=5, client_id="c", clean_start=False, properties=Properties(session_expiry_s=60)
        ) as client:
            await client.subscribe(f"{world.device.prefix}errors")
    first, _, second, _ = await world.told("connected", "disconnected", "connected", "disconnected")
    assert (first["detail"], second["detail"]) == ("", "its session goes on")


async def test_a_denied_topic(world: World) -> None:
    async with world.gateway.client(world.device, version=5, reconnect=False) as client:
        with pytest.raises(PublishRefused):
            await client.publish("d/another/topic", b"x", qos=1)
        assert await client.subscribe("another/filter") == (0x87,)
    _, published, subscribed, _ = await world.told("connected", "topic.denied", "topic.denied", "disconnected")
    assert "d/another/topic" in published["summary"]
    assert "another/filter" in subscribed["summary"]


async def test_a_denied_topic_before_mqtt_5_ends_the_connection(world: World) -> None:
    async with world.gateway.client(world.device, version=4, reconnect=False) as client:
        with pytest.raises(ConnectionLost):
            await client.publish("d/another/topic", b"x", qos=1)
    *_, disconnected = await world.told("connected", "topic.denied", "disconnected")
    assert disconnected["code"] == "topic_denied"


async def test_a_rejected_payload(world: World) -> None:
    async with world.gateway.client(world.device, version=5) as client:
        with pytest.raises(PublishRefused):
            await client.publish(f"{world.device.prefix}telemetry", b"no json", qos=1)
    _, rejected, _ = await world.told("connected", "message.rejected", "disconnected")
    assert rejected["code"] == "payload.malformed"
    assert f"{world.device.prefix}telemetry" in rejected["detail"]


async def test_a_take_over(world: World) -> None:
    older = world.gateway.client(world.device, version=5, client_id="same", reconnect=False)
    async with older, world.gateway.client(world.device, version=5, client_id="same"):
        await eventually(lambda: not older.is_connected, "the end of the older one")
    items = await world.told("connected", "disconnected", "connected", "disconnected")
    assert [item["code"] for item in items] == ["", "taken_over", "", "client_disconnect"]


async def test_a_keep_alive_that_is_not_kept(world: World) -> None:
    async with world.raw() as (reader, writer):
        hello = Connect(
            protocol_level=4, client_id="silent", keep_alive_s=1, username=str(world.device.id),
            password=world.device.token.encode(),
        )  # fmt: skip
        writer.write(encode_packet(hello, 4))
        assert (await reader.readexactly(4))[3] == 0
        assert await reader.read() == b""
    _, disconnected = await world.told("connected", "disconnected")
    assert (disconnected["code"], disconnected["client_id"]) == ("keep_alive_timeout", "silent")


async def test_a_tls_alert(world: World) -> None:
    def shake_hands() -> None:
        """Without knowing the authority of the gateway's certificate. In a thread: asyncio keeps its alerts to itself."""
        with socket.create_connection(("127.0.0.1", world.mqtts_port)) as plain:
            ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")

    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(shake_hands)
    [attempt] = await world.strangers(1)
    assert (attempt["code"], attempt["address"], attempt["listener"]) == ("tls.alert_unknown_ca", "127.0.0.1", "mqtts")
    assert "does not trust" in attempt["summary"]


async def test_what_is_no_mqtt_at_all(world: World) -> None:
    no_mqtt = {
        "what came is not MQTT but TLS": bytes.fromhex("16030100a5010000a10303"),
        "what came is not MQTT but an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "what came is not MQTT but a PROXY header, which is not expected here": ipv4_header("192.0.2.7", 1),
        "Auth may not come in phase 'await connect'": b"\xff" * 64,
    }
    for data in no_mqtt.values():
        async with world.raw() as (reader, writer):
            writer.write(data)
            await reader.read()
    attempts = await world.strangers(len(no_mqtt))
    for attempt, detail in zip(attempts, no_mqtt, strict=True):
        assert (attempt["address"], attempt["code"], attempt["listener"]) == ("127.0.0.1", "mqtt.malformed", "mqtt")
        assert attempt["summary"] == f"Refused before it said who it is at the mqtt port: {detail}, from 127.0.0.1"


async def test_a_connect_that_is_none_of_ours(world: World) -> None:
    connects = {
        b"\x10\x0e\x00\x04MQTT\x06\x02\x00\x3c\x00\x02ab": ("mqtt.version", "", "protocol level 6"),
        b"\x10\x0e\x00\x04MQTT\x04\x03\x00\x3c\x00\x02ab": ("mqtt.malformed", "mqtt/4", "the reserved connect flag is set"),
    }
    for data in connects:
        async with world.raw() as (reader, writer):
            writer.write(data)
            await reader.read()
    attempts = await world.strangers(len(connects))
    said = [(attempt["code"], attempt["protocol"], attempt["detail"]) for attempt in attempts]
    assert said == list(connects.values())


async def test_who_fails_between_connect_and_connack(world: World) -> None:
    """In the middle of an authentication in several steps: it is known who it says it is."""
    asked = Properties(authentication_method="countersign", authentication_data=world.device.token.encode())
    hello = Connect(client_id="c", protocol_level=5, username="thermometer-1", password=b"x", properties=asked)
    async with world.raw() as (reader, writer):
        writer.write(encode_packet(hello, 5))
        await reader.read(10)
        writer.write(b"\xf3\x00")  # AUTH with reserved flags
        await reader.read()
    [refused] = await world.told("authentication.failed")
    assert (refused["code"], refused["listener"], refused["protocol"]) == ("mqtt.malformed", "mqtt", "mqtt/5")
    assert refused["identified_by"] == "user_name"


async def test_frames_that_are_no_mqtt(world: World) -> None:
    """Before the CONNECT it is a stranger's; after it the device reads why its connection ended."""
    url = f"ws://127.0.0.1:{world.ws_port}/mqtt"
    async with connect(url, subprotocols=[Subprotocol("mqtt")], proxy=None) as websocket:
        await websocket.send("text")
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
    [attempt] = await world.strangers(1)
    assert (attempt["code"], attempt["listener"]) == ("websocket.failed", "ws")
    assert attempt["detail"] == "MQTT comes in binary frames only"
    hello = Connect(
        client_id="browser", username=str(world.device.id), password=world.device.token.encode(), protocol_level=4
    )
    async with connect(url, subprotocols=[Subprotocol("mqtt")], proxy=None) as websocket:
        await websocket.send(encode_packet(hello, 4))
        await websocket.recv()
        await websocket.send("text")
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
    _, disconnected = await world.told("connected", "disconnected")
    assert (disconnected["code"], disconnected["detail"]) == ("protocol_error", "MQTT comes in binary frames only")

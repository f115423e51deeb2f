"""The MQTT gateway as a device meets it, on a real database and a real stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import nats
import pytest
from nats.aio.client import Client
from tests.support.engines import DatabaseURLs
from tests.support.gateways import Device, Gateway, add_device, eventually, running_gateway
from tests.support.tenants import TenantFactory

from headwater.gateway.mqtt.publishing import ELSEWHERE_MAX
from headwater.ids import uuid7
from headwater.protocols.mqtt import Properties, Will
from headwater.stream import subjects
from headwater.stream.envelope import EXT_LOCATION, Kind, Record, decode_batch, decode_dead_letter
from headwater.stream.topology import DEAD_STREAM, UPLINK_STREAM
from headwater.testing.mqtt_client import ConnectionLost, ConnectionRefused, PublishRefused


@pytest.fixture
async def gateway(database_urls: DatabaseURLs, nats_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(database_urls, nats_url) as running:
        yield running


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    connection = await nats.connect(nats_url)
    yield connection
    await connection.close()


@pytest.fixture
async def device(database_urls: DatabaseURLs, tenant_factory: TenantFactory) -> Device:
    return await add_device(database_urls.owner, await tenant_factory("acme"))


async def records(client: Client, *kinds: Kind) -> list[Record]:
    """Everything in UPLINK, of these kinds."""
    jetstream = client.jetstream()
    state = (await jetstream.stream_info(UPLINK_STREAM)).state
    found = []
    for sequence in range(max(1, state.first_seq), state.last_seq + 1):  # an empty stream begins at 0
        message = await jetstream.get_msg(UPLINK_STREAM, sequence)
        found += [r for r in decode_batch(message.data or b"") if r.kind in kinds]
    return found


async def dead_letters(client: Client) -> list[Any]:
    jetstream = client.jetstream()
    state = (await jetstream.stream_info(DEAD_STREAM)).state
    return [decode_dead_letter((await jetstream.get_msg(DEAD_STREAM, n)).data or b"") for n in range(1, state.last_seq + 1)]


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_an_acknowledged_message_is_in_the_stream(
    gateway: Gateway, client: Client, device: Device, version: int
) -> None:
    now_ms = time.time_ns() // 1_000_000
    payload = json.dumps({"ts": now_ms, "values": {"temperature": 21.5, "open": True, "mode": "007"}}).encode()
    async with gateway.client(device, version=version, client_id="meter-1") as publisher:
        await publisher.publish(f"{device.prefix}telemetry", payload, qos=1)
        stored = await records(client, Kind.TELEMETRY)
    assert [r.body for r in stored] == [{"temperature": 21.5, "open": True, "mode": "007"}]
    assert stored[0].observed_at == now_ms * 1000
    assert stored[0].tenant == device.tenant_id.bytes
    assert stored[0].device == device.id.bytes


async def test_thingsboard_firmware_works_with_its_token_as_user_name(
    gateway: Gateway, client: Client, device: Device
) -> None:
    async with gateway.client(device, username=device.token, password=None, client_id="tb") as publisher:
        await publisher.publish("v1/devices/me/telemetry", b'[{"a":1},{"ts":1764000000000,"values":{"a":2}}]', qos=1)
        await publisher.publish("v1/devices/me/attributes", b'{"firmware":"1.2"}', qos=1)
    stored = await records(client, Kind.TELEMETRY, Kind.ATTRIBUTES)
    assert [(r.kind, r.body) for r in stored] == [
        (Kind.TELEMETRY, {"a": 1}),
        (Kind.TELEMETRY, {"a": 2}),
        (Kind.ATTRIBUTES, {"firmware": "1.2"}),
    ]


async def test_a_topic_map_reads_firmware_that_was_never_made_for_us(
    gateway: Gateway, client: Client, database_urls: DatabaseURLs, tenant_factory: TenantFactory
) -> None:
    rule = {"filter": "tele/{external_id}/SENSOR", "flatten": True, "time_key": "Time"}
    metrics = [{"name": "place", "type": "location"}]
    plug = await add_device(database_urls.owner, await tenant_factory(), "plug-1", {"topics": [rule], "metrics": metrics})
    async with gateway.client(plug, version=4) as publisher:
        await publisher.publish("tele/plug-1/SENSOR", b'{"Time":"2026-11-23T10:00:00","AM2301":{"Temperature":21.5}}', qos=1)
        await publisher.publish(f"{plug.prefix}telemetry", b'{"place":{"lat":52.5,"lon":13.4}}', qos=1)
    async with gateway.client(plug, version=4, reconnect=False) as publisher:
        with pytest.raises(ConnectionLost):
            await publisher.publish("tele/plug-2/SENSOR", b'{"x":1}', qos=1)
    first, second = await records(client, Kind.TELEMETRY)
    assert first.body == {"AM2301.Temperature": 21.5}
    assert second.body["place"] == msgspec.msgpack.Ext(EXT_LOCATION, msgspec.msgpack.encode([52.5, 13.4]))


async def test_a_content_type_of_mqtt_5_chooses_the_decoder(gateway: Gateway, client: Client, device: Device) -> None:
    async with gateway.client(device, version=5) as publisher:
        await publisher.publish(
            f"{device.prefix}telemetry",
            msgspec.msgpack.encode({"a": 1.5}),
            qos=1,
            properties=Properties(content_type="application/msgpack"),
        )
    assert [r.body for r in await records(client, Kind.TELEMETRY)] == [{"a": 1.5}]


async def test_bad_payloads_are_named_kept_and_do_not_stop_the_good_ones(
    gateway: Gateway, client: Client, device: Device
) -> None:
    topic = f"{device.prefix}telemetry"
    async with gateway.client(device, version=5) as publisher:
        good = [publisher.publish(topic, b'{"a":%d}' % n, qos=1) for n in range(3)]
        with pytest.raises(PublishRefused) as refused:
            await publisher.publish(topic, b'{"a":', qos=1)
        await asyncio.gather(*good)
        await publisher.publish(topic, b'{"a":9}', qos=1)
    assert refused.value.reason == 0x99
    assert "payload.malformed" in (refused.value.reason_string or "")
    assert [r.body["a"] for r in await records(client, Kind.TELEMETRY)] == [0, 1, 2, 9]
    (letter,) = await dead_letters(client)
    assert (letter.payload, letter.code, letter.topic) == (b'{"a":', "payload.malformed", topic)
    assert letter.device == device.id.bytes


async def test_a_flood_of_bad_messages_is_answered_in_order_and_holds_nobody_else_up(
    gateway: Gateway, client: Client, device: Device, database_urls: DatabaseURLs
) -> None:
    neighbour = await add_device(database_urls.owner, device.tenant_id)
    count, answered = 3 * ELSEWHERE_MAX, []  # within the receive maximum
    async with gateway.client(device, version=5, window=count) as publisher, gateway.client(neighbour, version=4) as other:
        for number in range(count):
            payload = b'{"a":%d}' % number if number % 3 == 0 else b'{"a":'
            sent = publisher.publish_soon(f"{device.prefix}telemetry", payload)
            sent.add_done_callback(lambda done, number=number: answered.append((number, done.exception() is None)))
        await other.publish(f"{neighbour.prefix}telemetry", b'{"b":1}', qos=1)
        before = len(answered)
        await eventually(lambda: len(answered) == count, "an answer to every message")
    assert before < count
    assert answered == [(number, number % 3 == 0) for number in range(count)]
    assert len(await dead_letters(client)) == count - len([1 for _, good in answered if good])
    assert [r.body["a"] for r in await records(client, Kind.TELEMETRY) if r.device == device.id.bytes] == list(
        range(0, count, 3)
    )


async def test_before_mqtt_5_the_errors_topic_says_what_a_puback_cannot(
    gateway: Gateway, client: Client, device: Device
) -> None:
    async with gateway.client(device, version=4) as publisher:
        assert await publisher.subscribe(f"{device.prefix}errors") == (1,)
        await publisher.publish(f"{device.prefix}telemetry", b'{"a":1e999}', qos=1)
        message = await publisher.next_message()
    told = json.loads(message.payload)
    assert told["topic"] == f"{device.prefix}telemetry"
    assert told["code"].startswith(("payload.", "metric."))
    assert len(await dead_letters(client)) == 1


@pytest.mark.parametrize("version", [4, 5])
async def test_strangers_stay_outside(gateway: Gateway, device: Device, version: int) -> None:
    wrong = device.token[:-4] + ("AAAA" if not device.token.endswith("AAAA") else "BBBB")
    for credentials in (
        {"username": None, "password": None},
        {"password": wrong},
        {"username": str(uuid7())},
        {"username": "admin", "password": "admin"},
    ):
        with pytest.raises(ConnectionRefused) as refused:
            async with gateway.client(device, version=version, reconnect=False, **credentials):
                pass
        assert refused.value.reason == (0x86 if version == 5 else 4)


async def test_a_topic_of_another_device_or_tenant_is_denied(
    gateway: Gateway, client: Client, device: Device, database_urls: DatabaseURLs, tenant_factory: TenantFactory
) -> None:
    other = await add_device(database_urls.owner, await tenant_factory("other"))
    sibling = await add_device(database_urls.owner, device.tenant_id)
    async with gateway.client(device, version=5) as publisher:
        for foreign in (other, sibling):
            with pytest.raises(PublishRefused) as refused:
                await publisher.publish(f"{foreign.prefix}telemetry", b'{"a":1}', qos=1)
            assert refused.value.reason == 0x87
            codes = await publisher.subscribe(f"{foreign.prefix}commands/#", f"{foreign.prefix}errors", "#", "d/#")
            assert codes == (0x87, 0x87, 0x87, 0x87)
    assert not await records(client, Kind.TELEMETRY)


async def test_ordinary_messages_reach_subscribers_of_the_same_tenant_on_every_gateway(
    database_urls: DatabaseURLs, nats_url: str, tenant_factory: TenantFactory
) -> None:
    definition = {"publish": ["site/#"], "subscribe": ["site/#"]}
    tenant, other = await tenant_factory(), await tenant_factory()
    publisher, near, far = [await add_device(database_urls.owner, tenant, definition=definition) for _ in range(3)]
    stranger = await add_device(database_urls.owner, other, definition=definition)
    async with (
        running_gateway(database_urls, nats_url, name="one") as one,
        running_gateway(database_urls, nats_url, name="two") as two,
        one.client(publisher, version=5) as sender,
        one.client(near, version=4) as here,
        two.client(far, version=5) as there,
        two.client(stranger, version=4) as elsewhere,
    ):
        assert await here.subscribe("site/+/alarm", "site/#") == (1, 1)
        assert await there.subscribe("site/7/alarm", qos=0) == (0,)
        assert await elsewhere.subscribe("site/#") == (1,)
        properties = Properties(
            user_properties=(("k", "v"),), content_type="text/plain", response_topic="site/r", correlation_data=b"c"
        )
        await sender.publish("site/7/alarm", b"fire", qos=1, properties=properties)
        first = await here.next_message()
        second = await there.next_message()
        await sender.publish("site/8/x", b"later", qos=1)
        third = await here.next_message()
        with pytest.raises(TimeoutError):
            await elsewhere.next_message(0.3)
        await here.unsubscribe("site/+/alarm", "site/#")
        await sender.publish("site/9/x", b"unheard", qos=1)
        with pytest.raises(TimeoutError):
            await here.next_message(0.3)
    assert (first.topic, first.payload, first.qos) == ("site/7/alarm", b"fire", 1)
    assert (second.payload, second.qos) == (b"fire", 0)
    assert second.properties is not None
    assert (second.properties.user_properties, second.properties.content_type) == ((("k", "v"),), "text/plain")
    assert third.payload == b"later", "an overlapping subscription was delivered twice"


async def test_a_will_is_published_when_the_connection_breaks_and_not_after_a_good_bye(
    gateway: Gateway, client: Client, device: Device
) -> None:
    will = Will(f"{device.prefix}telemetry", b'{"alive":false}', qos=1)
    async with gateway.client(device, version=5, will=will):
        pass
    broken = gateway.client(device, version=4, will=will)
    await broken.connect()
    await broken.close(abruptly=True)

    async def published() -> list[Record]:
        return await records(client, Kind.TELEMETRY)

    assert [r.body for r in await eventually(published, "the will")] == [{"alive": False}]


async def test_a_second_connection_of_a_client_ends_the_first_also_on_another_gateway(
    database_urls: DatabaseURLs, nats_url: str, device: Device
) -> None:
    async with (
        running_gateway(database_urls, nats_url, name="one") as one,
        running_gateway(database_urls, nats_url, name="two") as two,
        one.client(device, reconnect=False) as first,
        two.client(device, reconnect=False) as second,
    ):
        await eventually(lambda: not first.is_connected, "take-over")
        await second.publish(f"{device.prefix}telemetry", b'{"a":1}', qos=1)


async def test_presence_is_told_in_order(gateway: Gateway, client: Client, device: Device) -> None:
    async with gateway.client(device, version=5):
        pass
    async with gateway.client(device, version=5):

        async def told() -> list[Record]:
            found = await records(client, Kind.CONNECTED, Kind.DISCONNECTED)
            return found if len(found) == 3 else []

        seen = await eventually(told, "connected, disconnected, connected")
    assert [r.kind for r in seen] == [Kind.CONNECTED, Kind.DISCONNECTED, Kind.CONNECTED]
    assert seen[0].epoch == seen[1].epoch < seen[2].epoch
    assert (seen[0].body["protocol"], seen[0].body["client_id"]) == ("mqtt/5", str(device.id))
    assert (seen[1].body["reason"], seen[1].body["detail"]) == ("client_disconnect", "disconnected by the device")


async def test_a_suspended_device_is_disconnected_and_may_not_return(
    gateway: Gateway, client: Client, device: Device, database_urls: DatabaseURLs
) -> None:
    async with gateway.client(device, version=5, reconnect=False) as publisher:
        await publisher.publish(f"{device.prefix}telemetry", b'{"a":1}', qos=1)
        owner = await asyncpg.connect(database_urls.owner)
        await owner.execute("UPDATE device SET status = 'suspended' WHERE id = $1", device.id)
        await client.publish(subjects.registry(device.tenant_id, "device", device.id), b"")
        await eventually(lambda: not publisher.is_connected, "the end of the connection")
    with pytest.raises(ConnectionRefused) as refused:
        async with gateway.client(device, version=5, reconnect=False):
            pass
    assert refused.value.reason == 0x87
    await owner.close()


async def test_a_changed_profile_reaches_connected_devices(
    gateway: Gateway, client: Client, database_urls: DatabaseURLs, tenant_factory: TenantFactory
) -> None:
    device = await add_device(database_urls.owner, await tenant_factory(), definition={})
    owner: Any = await asyncpg.connect(database_urls.owner)
    topic = f"{device.prefix}telemetry"
    async with gateway.client(device, version=5) as publisher:
        await publisher.publish(topic, b'{"t":500}', qos=1)
        definition = json.dumps({"metrics": [{"name": "t", "type": "float", "max": 100}]})
        profile = await owner.fetchval(
            "UPDATE profile SET definition = $1::text::jsonb, version = version + 1"
            " WHERE id = (SELECT profile_id FROM device WHERE id = $2) RETURNING id",
            definition,
            device.id,
        )
        await client.publish(subjects.registry(device.tenant_id, "profile", profile), b"")

        async def refused() -> bool:
            try:
                await publisher.publish(topic, b'{"t":500}', qos=1)
            except PublishRefused as error:
                return "metric.out_of_bounds" in (error.reason_string or "")
            return False

        await eventually(refused, "the new bound")
    await owner.close()


async def test_a_tenant_beyond_its_message_quota_is_slowed_down_and_loses_nothing(
    gateway: Gateway, client: Client, database_urls: DatabaseURLs, tenant_factory: TenantFactory
) -> None:
    device = await add_device(database_urls.owner, await tenant_factory(quotas={"messages_per_s": 50}))
    async with gateway.client(device, version=4) as publisher:
        started = time.monotonic()
        for number in range(120):
            await publisher.publish(f"{device.prefix}telemetry", b'{"n":%d}' % number, qos=1)
        took = time.monotonic() - started
    assert took > 0.5
    assert [r.body["n"] for r in await records(client, Kind.TELEMETRY)] == list(range(120))


async def test_garbage_ends_its_own_connection_only(gateway: Gateway, client: Client, device: Device) -> None:
    async with gateway.client(device, version=4) as publisher:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff\x7f", b"\x00" * 100, b"\x30\x05\x00\x01a"):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.mqtt_port)
            writer.write(garbage)
            async with asyncio.timeout(5):
                assert len(await reader.read()) < 10
            writer.close()
        await publisher.publish(f"{device.prefix}telemetry", b'{"a":1}', qos=1)
    assert len(await records(client, Kind.TELEMETRY)) == 1

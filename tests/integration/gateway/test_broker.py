"""What a gateway is as a broker, beside its sessions: NATS that goes away, figures, authentication in several steps."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.engines import DatabaseURLs
from tests.support.gateways import OPEN, add_device, eventually, running_gateway
from tests.support.killable_nats import killable_nats
from tests.support.packet_client import PacketClient
from tests.support.tenants import TenantFactory

from headwater.gateway.mqtt import figures
from headwater.protocols.mqtt import Auth, ConnAck, Connect, Disconnect, Properties, PubAck, Publish, Subscribe, Subscription


async def test_what_was_published_while_nats_restarted_is_delivered_once(
    database_urls: DatabaseURLs, tenant_factory: TenantFactory
) -> None:
    device = await add_device(database_urls.owner, await tenant_factory(), definition=OPEN)
    with killable_nats() as nats:
        await nats.start()
        url = nats.server.url_with_password
        async with (
            running_gateway(database_urls, url, name="one") as one,
            running_gateway(database_urls, url, name="two") as two,
        ):
            listener = await PacketClient.open(one, device, "listener")
            await listener.subscribe("a", qos=1)
            speaker = await PacketClient.open(two, device, "speaker")
            for number in range(200):
                await speaker.send(Publish("a", str(number).encode(), 1, packet_id=number + 1))
                if number == 100:
                    nats.kill()
                    await asyncio.sleep(0.2)
            await nats.start()
            for _ in range(200):
                assert (await speaker.expect(PubAck, 30)).reason == 0
            assert [int((await listener.take(30)).payload) for _ in range(200)] == list(range(200))
            assert await listener.silent()


async def test_figures_of_a_tenant_and_of_no_other(
    database_urls: DatabaseURLs, nats_url: str, tenant_factory: TenantFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "SAY_S", 0.1)
    watching = {"publish": ["#"], "subscribe": ["#", "$SYS/#"]}
    device, other = [await add_device(database_urls.owner, await tenant_factory(), definition=watching) for _ in range(2)]
    async with (
        running_gateway(database_urls, nats_url, name="one") as one,
        running_gateway(database_urls, nats_url, name="two") as two,
    ):
        watcher = await PacketClient.open(one, device, "watcher")
        await watcher.subscribe("$SYS/#", "#", qos=0)
        await PacketClient.open(two, other, "another tenant's")
        speaker = await PacketClient.open(two, device, "speaker")
        for _ in range(3):
            await speaker.publish("x", b"", 1)
        wanted = {"$SYS/broker/clients/connected": b"2", "$SYS/broker/messages/received": b"3"}
        seen: dict[str, bytes] = {}

        async def as_wanted() -> bool:
            message = await watcher.take()
            seen[message.topic] = message.payload
            return wanted.items() <= seen.items()

        await eventually(as_wanted, "the figures of both gateways")


async def test_authentication_in_several_steps(
    database_urls: DatabaseURLs, nats_url: str, tenant_factory: TenantFactory
) -> None:
    device = await add_device(database_urls.owner, await tenant_factory(), definition=OPEN)
    methods = {"HEADWATER_GATEWAY_AUTHENTICATION_METHODS": "tests.support.countersign:make"}
    token = device.token.encode()
    async with running_gateway(database_urls, nats_url, **methods) as gateway:

        async def begin(method: str) -> PacketClient:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.mqtt_port)
            client = PacketClient(reader, writer, 5)
            asked = Properties(authentication_method=method, authentication_data=token)
            await client.send(Connect("c", 5, properties=asked))
            return client

        def answer(data: bytes, reason: int = 0x18) -> Auth:
            return Auth(reason, Properties(authentication_method="countersign", authentication_data=data))

        client = await begin("unknown")
        assert (await client.expect(ConnAck)).reason == 0x8C
        client = await begin("countersign")
        assert (await client.expect(Auth)).properties.authentication_data == b"41"
        await client.send(answer(b"43"))
        assert (await client.expect(ConnAck)).reason == 0x86
        client = await begin("countersign")
        await client.expect(Auth)
        await client.send(answer(b"42"))
        connack = await client.expect(ConnAck)
        assert (connack.reason, connack.properties.authentication_data) == (0, b"welcome")
        await client.send(Subscribe(1, (Subscription("a"),)))
        await client.next()
        await client.send(answer(token, reason=0x19))
        assert (await client.expect(Auth)).reason == 0x18
        await client.publish("a", b"meanwhile", 0)
        assert (await client.take()).payload == b"meanwhile"
        await client.send(answer(b"42"))
        assert (await client.expect(Auth)).reason == 0
        await client.send(answer(token, reason=0x19))
        await client.expect(Auth)
        await client.send(answer(b"wrong"))
        assert (await client.expect(Disconnect)).reason == 0x87

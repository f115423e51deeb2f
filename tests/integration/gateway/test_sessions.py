"""Sessions, retained messages, wills and shared subscriptions on two gateways that are one broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import asyncpg
import nats
import pytest
from tests.support.engines import DatabaseURLs
from tests.support.gateways import OPEN, Device, Two, add_device, eventually
from tests.support.packet_client import Closed, PacketClient
from tests.support.tenants import TenantFactory

from headwater.gateway.mqtt import router
from headwater.gateway.mqtt.router import SUBSCRIPTIONS_MAX
from headwater.protocols.mqtt import (
    Disconnect,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Subscription,
    Will,
)
from headwater.stream import keyed, subjects
from headwater.stream.message_log import LoggedBatch, MessageLog
from headwater.stream.retained_store import RetainedStore
from headwater.stream.session_store import SessionStore
from headwater.stream.topology import MESSAGE_STREAM, Topology, ensure


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_reaches_the_other_gateway(gateways: Two, device: Device, qos: int) -> None:
    listener = await PacketClient.open(gateways[0], device, "listener")
    assert await listener.subscribe("a/+", qos=2) == (2,)
    speaker = await PacketClient.open(gateways[1], device, "speaker")
    await speaker.publish("a/b", b"1", qos, content_type="text/plain", user_properties=(("k", "v"), ("k", "w")))
    message = await listener.take()
    assert (message.topic, message.payload, message.qos, message.retain) == ("a/b", b"1", qos, False)
    assert message.properties == Properties(content_type="text/plain", user_properties=(("k", "v"), ("k", "w")))


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_session_waits_for_its_client_and_goes_on_elsewhere(gateways: Two, device: Device, qos: int) -> None:
    listener = await PacketClient.open(gateways[0], device, "listener", session_expiry_s=600)
    assert not listener.connack.session_present
    await listener.subscribe("a/#", qos=2)
    speaker = await PacketClient.open(gateways[0], device, "speaker")
    await speaker.publish("a/0", b"0", qos)
    assert (await listener.take()).payload == b"0"
    await listener.bye()
    for number in range(1, 6):
        await speaker.publish(f"a/{number}", str(number).encode(), qos)
        await speaker.publish("b", b"not for it", qos)
    listener = await PacketClient.open(gateways[1], device, "listener", clean_start=False, session_expiry_s=600)
    assert listener.connack.session_present
    assert [(await listener.take()).payload for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]
    await speaker.publish("a/6", b"6", qos)
    assert (await listener.take()).payload == b"6"
    assert await listener.silent()
    await listener.bye()
    listener = await PacketClient.open(gateways[0], device, "listener", clean_start=True, session_expiry_s=600)
    assert not listener.connack.session_present
    await speaker.publish("a/7", b"7", qos)
    assert await listener.silent()


async def test_what_was_not_acknowledged_comes_again_under_its_packet_id(gateways: Two, device: Device) -> None:
    listener = await PacketClient.open(gateways[0], device, "listener", session_expiry_s=600)
    await listener.subscribe("a", qos=2)
    speaker = await PacketClient.open(gateways[0], device, "speaker")
    for number, qos in enumerate((1, 2, 2, 1)):
        await speaker.publish("a", str(number).encode(), qos)
    first = {(m := await listener.expect(Publish)).payload: m for _ in range(4)}
    await listener.send(PubAck(first[b"0"].packet_id))
    await listener.send(PubRec(first[b"1"].packet_id))
    assert (await listener.expect(PubRel)).packet_id == first[b"1"].packet_id
    await listener.abort()
    listener = await PacketClient.open(gateways[1], device, "listener", clean_start=False, session_expiry_s=600)
    again = [await listener.next() for _ in range(3)]
    assert PubRel(first[b"1"].packet_id) in again
    sent = [packet for packet in again if isinstance(packet, Publish)]
    assert [(m.payload, m.dup, m.packet_id) for m in sent] == [
        (payload, True, first[payload].packet_id) for payload in (b"2", b"3")
    ]
    await listener.send(PubComp(first[b"1"].packet_id))
    await listener.send(PubRec(first[b"2"].packet_id))
    assert (await listener.expect(PubRel)).packet_id == first[b"2"].packet_id
    await listener.send(PubComp(first[b"2"].packet_id))
    await listener.send(PubAck(first[b"3"].packet_id))
    assert await listener.silent()


@pytest.mark.parametrize("retain", [False, True])
async def test_a_publisher_that_left_at_once_is_known_to_repeat_itself(gateways: Two, device: Device, retain: bool) -> None:
    listener = await PacketClient.open(gateways[0], device, "listener")
    await listener.subscribe("a", qos=2)
    speaker = await PacketClient.open(gateways[0], device, "speaker", session_expiry_s=600)
    await speaker.send(Publish("a", b"once", 2, retain, packet_id=7))
    await speaker.abort()  # before it could be stored, or its PUBREC be heard
    speaker = await PacketClient.open(gateways[1], device, "speaker", clean_start=False, session_expiry_s=600)
    await speaker.send(Publish("a", b"once", 2, retain, dup=True, packet_id=7))
    assert (await speaker.expect(PubRec)).packet_id == 7
    assert (await listener.take()).payload == b"once"
    assert await listener.silent()


async def test_a_publisher_that_comes_back_elsewhere_is_known_to_repeat_itself(gateways: Two, device: Device) -> None:
    listener = await PacketClient.open(gateways[0], device, "listener")
    await listener.subscribe("a", qos=2)
    speaker = await PacketClient.open(gateways[0], device, "speaker", session_expiry_s=600)
    await speaker.send(Publish("a", b"once", 2, packet_id=7))
    assert (await speaker.expect(PubRec)).packet_id == 7
    await speaker.abort()
    speaker = await PacketClient.open(gateways[1], device, "speaker", clean_start=False, session_expiry_s=600)
    assert speaker.connack.session_present
    await speaker.send(Publish("a", b"once", 2, dup=True, packet_id=7))
    assert (await speaker.expect(PubRec)).packet_id == 7
    await speaker.send(PubRel(7))
    assert (await speaker.expect(PubComp)) == PubComp(7)
    await speaker.send(Publish("a", b"another", 2, packet_id=7))
    assert (await speaker.expect(PubRec)).packet_id == 7
    assert [(await listener.take()).payload for _ in range(2)] == [b"once", b"another"]
    assert await listener.silent()


async def test_a_newer_connection_takes_over_on_another_gateway(gateways: Two, device: Device) -> None:
    for expiry_s in (0, 600):
        older = await PacketClient.open(gateways[0], device, "same", session_expiry_s=expiry_s)
        newer = await PacketClient.open(gateways[1], device, "same", clean_start=False, session_expiry_s=expiry_s)
        assert newer.connack.session_present == (expiry_s > 0)
        assert (await older.expect(Disconnect)).reason == 0x8E
        with pytest.raises(Closed):
            await older.next()
        await newer.bye()


async def test_retained_messages(gateways: Two, device: Device) -> None:
    speaker = await PacketClient.open(gateways[0], device, "speaker")
    await speaker.publish("r/1", b"one", 1, retain=True, message_expiry_s=600)
    await speaker.publish("r/2", b"two", 0, retain=True)
    await speaker.publish("r/gone", b"x", 1, retain=True)
    await speaker.publish("r/gone", b"", 1, retain=True)
    listener = await PacketClient.open(gateways[1], device, "listener")
    await listener.subscribe("r/#", identifier=5)
    one, two = [await listener.take() for _ in range(2)]
    assert (one.topic, one.payload, one.qos, one.retain) == ("r/1", b"one", 1, True)
    assert one.properties is not None
    assert one.properties.subscription_identifiers == (5,)
    assert 590 < (one.properties.message_expiry_s or 0) <= 600
    assert (two.topic, two.payload, two.qos, two.retain) == ("r/2", b"two", 0, True)
    await listener.subscribe("#", retain_handling=1)
    assert {(await listener.take()).topic for _ in range(2)} == {"r/1", "r/2"}
    await listener.subscribe("#", retain_handling=1)
    await listener.subscribe("r/+", retain_handling=2)
    assert await listener.silent()
    await listener.unsubscribe("#", "r/+", "r/#")
    await listener.subscribe("k", retain_as_published=True, retain_handling=2)
    await listener.subscribe("l", retain_handling=2)
    await speaker.publish("k", b"kept", 1, retain=True)
    await speaker.publish("l", b"not", 1, retain=True)
    assert [((m := await listener.take()).topic, m.retain) for _ in range(2)] == [("k", True), ("l", False)]


async def test_a_client_gets_one_copy_at_the_highest_qos_with_every_identifier(gateways: Two, device: Device) -> None:
    client = await PacketClient.open(gateways[0], device, "client")
    await client.subscribe("a/#", qos=0, identifier=1)
    await client.subscribe("a/+", qos=2, identifier=2)
    await client.subscribe("n", qos=1, no_local=True)
    speaker = await PacketClient.open(gateways[1], device, "speaker")
    await speaker.publish("a/b", b"x", 1)
    message = await client.take()
    assert message.qos == 1
    assert message.properties is not None
    assert sorted(message.properties.subscription_identifiers) == [1, 2]
    await client.publish("n", b"own", 1)
    await speaker.publish("n", b"other", 1)
    assert (await client.take()).payload == b"other"
    assert await client.silent()


async def test_a_will(gateways: Two, device: Device) -> None:
    listener = await PacketClient.open(gateways[0], device, "listener")
    await listener.subscribe("w/#", qos=2)

    def will(topic: str, **properties: int) -> Will:
        return Will(topic, b"gone", 1, properties=Properties(**properties) if properties else Properties())

    client = await PacketClient.open(gateways[1], device, "client", will=will("w/1"))
    await client.bye()
    client = await PacketClient.open(gateways[1], device, "client", will=will("w/2"))
    await client.abort()
    assert (await listener.take()).topic == "w/2"
    client = await PacketClient.open(gateways[1], device, "client", will=will("w/3"))
    await client.bye(reason=0x04)
    assert (await listener.take()).topic == "w/3"
    client = await PacketClient.open(gateways[1], device, "client", will=will("w/4", will_delay_s=600), session_expiry_s=1)
    await client.abort()
    assert (await listener.take()).topic == "w/4", "the session ends before the delay does"
    client = await PacketClient.open(gateways[1], device, "client", will=will("w/5", will_delay_s=1), session_expiry_s=600)
    await client.abort()
    client = await PacketClient.open(gateways[0], device, "client", clean_start=False, session_expiry_s=600)
    assert client.connack.session_present
    await asyncio.sleep(1.5)  # longer than the delay: nothing may come
    assert await listener.silent()


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_shared_subscription(gateways: Two, device: Device, qos: int) -> None:
    members = [await PacketClient.open(gateways[n % 2], device, f"member-{n}") for n in range(3)]
    for member in members:
        await member.subscribe("$share/team/s/#", qos=qos)
    other = await PacketClient.open(gateways[0], device, "other")
    await other.subscribe("s/#", qos=qos)
    speaker = await PacketClient.open(gateways[1], device, "speaker")
    sent = {f"{n}".encode() for n in range(30)}
    for payload in sorted(sent):
        await speaker.publish("s/x", payload, qos)
    assert {(await other.take()).payload for _ in range(30)} == sent
    got: list[bytes] = []

    async def collect(member: PacketClient) -> None:
        while True:
            got.append((await member.take(60)).payload)

    tasks = [asyncio.create_task(collect(member)) for member in members]
    await eventually(lambda: len(got) >= 30, "all are delivered")
    await asyncio.sleep(0.3)  # one too many would come now
    for task in tasks:
        task.cancel()
    assert sorted(got) == sorted(sent)


async def test_a_slow_subscriber_reads_on_from_the_log(gateways: Two, device: Device) -> None:
    listener = await PacketClient.open(gateways[0], device, "listener", receive_maximum=10)
    await listener.subscribe("a", qos=1)
    speaker = await PacketClient.open(gateways[1], device, "speaker")
    for number in range(3_000):
        await speaker.send(Publish("a", str(number).encode(), 1, packet_id=number % 200 + 1))
        if number % 200 == 199:
            for _ in range(200):
                await speaker.expect(PubAck)
    assert [int((await listener.take()).payload) for _ in range(3_000)] == list(range(3_000))


async def test_a_connection_that_ends_as_the_log_answers_has_not_had_the_answer(
    gateways: Two, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.wait_for` forgets a cancellation that comes at the same moment as what it waits for."""
    listener = await PacketClient.open(gateways[0], device, "listener", session_expiry_s=600)
    await listener.subscribe("a", qos=1)
    await listener.bye()
    speaker = await PacketClient.open(gateways[1], device, "speaker")
    for number in range(5):
        await speaker.publish("a", b"%d" % number, 1)
    reading, read = asyncio.Event(), MessageLog.read

    async def read_and_forget(*args: Any, **options: Any) -> list[LoggedBatch]:
        found = await read(*args, **options)
        if not reading.is_set():
            reading.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(10)
        return found

    monkeypatch.setattr(MessageLog, "read", read_and_forget)
    listener = await PacketClient.open(gateways[0], device, "listener", clean_start=False, session_expiry_s=600)
    await reading.wait()
    await listener.send(Publish("b", b"", 2, packet_id=1))  # whose end the end of the session waits for
    await listener.bye()
    listener = await PacketClient.open(gateways[1], device, "listener", clean_start=False, session_expiry_s=600)
    assert [(await listener.take()).payload for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_narrower_profile_ends_what_it_no_longer_allows(
    gateways: Two, device: Device, database_urls: DatabaseURLs, nats_url: str
) -> None:
    client = await PacketClient.open(gateways[0], device, "client", session_expiry_s=600)
    await client.subscribe("a/#", "b", qos=1)
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await owner.execute(
            "UPDATE profile SET version = version + 1, definition = $2"
            " WHERE id = (SELECT profile_id FROM device WHERE id = $1)",
            device.id,
            json.dumps({"publish": ["#"], "subscribe": ["b"]}),
        )
    finally:
        await owner.close()
    connection = await nats.connect(nats_url)
    await connection.publish(subjects.registry(device.tenant_id, "device", device.id), b"")
    assert (await client.expect(Disconnect)).reason == 0x98
    await connection.close()
    client = await PacketClient.open(gateways[1], device, "client", clean_start=False, session_expiry_s=600)
    assert client.connack.session_present
    speaker = await PacketClient.open(gateways[0], device, "speaker")
    await speaker.publish("a/1", b"not any more", 1)
    await speaker.publish("b", b"still", 1)
    assert (await client.take()).payload == b"still"
    assert await client.silent()


async def test_a_client_may_come_back_while_messages_flow(gateways: Two, device: Device) -> None:
    steady = await PacketClient.open(gateways[0], device, "steady")
    await steady.subscribe("flow/#", qos=1)
    speaker = await PacketClient.open(gateways[1], device, "speaker")
    stop, sent = asyncio.Event(), 0

    async def speak() -> None:
        nonlocal sent
        while not stop.is_set():
            await speaker.publish("flow/0", b"", 0)
            await speaker.publish("flow/1", str(sent).encode(), 1)
            sent += 1

    speaking = asyncio.create_task(speak())
    for _ in range(20):
        client = await PacketClient.open(gateways[0], device, "client", clean_start=False, session_expiry_s=600)
        await client.send(Subscribe(1, (Subscription("flow/0", 1), Subscription("flow/1", 0))))
        await client.abort()
    stop.set()
    await speaking
    got: list[int] = []
    while len(got) < sent:
        message = await steady.take()
        if message.qos:
            got.append(int(message.payload))
    assert got == list(range(sent))


async def test_a_tenant_has_so_many_sessions_and_retained_messages(
    gateways: Two, database_urls: DatabaseURLs, tenant_factory: TenantFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed, "COUNTED_S", 0.0)
    tenant_id = await tenant_factory(quotas={"sessions_max": 1, "retained_max": 1})
    device = await add_device(database_urls.owner, tenant_id, definition=OPEN)
    first = await PacketClient.open(gateways[0], device, "first", session_expiry_s=600)
    assert first.connack.reason == 0
    assert (await PacketClient.open(gateways[1], device, "second", session_expiry_s=600)).connack.reason == 0x97
    for clean_start in (False, True):
        again = await PacketClient.open(gateways[1], device, "first", clean_start=clean_start, session_expiry_s=600)
        assert again.connack.reason == 0
    client = await PacketClient.open(gateways[0], device, "third")
    await client.publish("one", b"1", 1, retain=True)
    await client.publish("one", b"2", 1, retain=True)
    await client.send(Publish("two", b"x", 1, True, False, 9))
    assert (await client.expect(PubAck)).reason == 0x97
    await client.publish("one", b"", 1, retain=True)


async def test_a_session_outlives_the_log(gateways: Two, device: Device, nats_url: str) -> None:
    client = await PacketClient.open(gateways[0], device, "client", session_expiry_s=600)
    await client.subscribe("a", qos=1)
    speaker = await PacketClient.open(gateways[1], device, "speaker")
    for _ in range(20):
        await speaker.publish("a", b"before", 1)
        await client.take()
    watcher = await PacketClient.open(gateways[0], device, "watcher")
    await watcher.subscribe("a", qos=1)
    await speaker.publish("a", b"seen", 1)
    await client.take()
    await watcher.take()
    await client.bye()
    await speaker.bye()
    connection = await nats.connect(nats_url)
    stream = connection.jetstream()
    await stream.delete_stream(MESSAGE_STREAM)
    await ensure(stream, Topology())
    await connection.close()
    client = await PacketClient.open(gateways[0], device, "client", clean_start=False, session_expiry_s=600)
    assert client.connack.session_present
    speaker = await PacketClient.open(gateways[1], device, "speaker")
    await speaker.publish("a", b"after", 1)
    assert (await client.take()).payload == b"after"
    assert (await watcher.take()).payload == b"after"


async def test_a_connection_has_so_many_subscriptions(gateways: Two, device: Device) -> None:
    client = await PacketClient.open(gateways[0], device, "client")
    codes = await client.subscribe(*(f"s/{n}" for n in range(SUBSCRIPTIONS_MAX + 5)))
    assert codes == (1,) * SUBSCRIPTIONS_MAX + (0x97,) * 5
    assert await client.subscribe("s/0", "one/more", "$share/team/one/more") == (1, 0x97, 0x97)
    await client.unsubscribe("s/0")
    assert await client.subscribe("one/more") == (1,)


@pytest.mark.parametrize("log_gap_s", [0.0, 0.3])  # the log has it before it is refused, or after
async def test_a_retained_message_that_was_refused_frees_its_packet_id(
    gateways: Two,
    database_urls: DatabaseURLs,
    tenant_factory: TenantFactory,
    nats_url: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    log_gap_s: float,
) -> None:
    monkeypatch.setattr(keyed, "COUNTED_S", 0.0)
    monkeypatch.setattr(router, "GAP_S", log_gap_s)
    device = await add_device(database_urls.owner, await tenant_factory(quotas={"retained_max": 1}), definition=OPEN)
    listener = await PacketClient.open(gateways[0], device, "listener")
    await listener.subscribe("a", qos=2)
    speaker = await PacketClient.open(gateways[0], device, "speaker", session_expiry_s=600)
    await speaker.publish("one", b"1", 1, retain=True)
    await speaker.send(Publish("two", b"2", 2, True, packet_id=7))
    assert (await speaker.expect(PubRec)).reason == 0x97
    connection = await nats.connect(nats_url)
    record = (await SessionStore(connection).find(device.tenant_id, "speaker")).record
    assert record is not None
    assert (record.received, record.published) == ([], await MessageLog(connection).last())  # also if the gateway dies now
    await connection.close()
    await speaker.bye()
    speaker = await PacketClient.open(gateways[1], device, "speaker", clean_start=False, session_expiry_s=600)
    await speaker.send(Publish("a", b"another", 2, packet_id=7))
    assert (await speaker.expect(PubRec)).packet_id == 7
    assert (await listener.take()).payload == b"another"


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_the_last_of_retained_messages_is_kept_however_fast_they_come(
    gateways: Two, device: Device, nats_url: str, qos: int
) -> None:
    speaker = await PacketClient.open(gateways[0], device, "speaker")
    for number, payload in enumerate((b"1", b"", b"2", b"")):
        for topic, text in (("a", payload), ("b", b"%d" % number)):
            await speaker.send(Publish(topic, text, qos, True, packet_id=speaker.packet_id() if qos else 0))
    connection = await nats.connect(nats_url)
    store = RetainedStore(connection)

    async def are_kept() -> bool:
        kept = await store.matching(device.tenant_id, "#")
        return [(message.topic, message.payload) for message in kept] == [("b", b"3")]

    await eventually(are_kept, "the last of each")
    await asyncio.sleep(0.3)  # an older one would come now
    assert await are_kept()
    await connection.close()

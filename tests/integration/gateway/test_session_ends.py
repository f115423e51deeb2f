"""How sessions end and change hands, and what clients that are gone leave behind: on two gateways that are one broker."""

from __future__ import annotations

import asyncio
from uuid import UUID

import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from tests.support.engines import DatabaseURLs
from tests.support.gateways import OPEN, Device, Two, add_device, eventually
from tests.support.packet_client import PacketClient

from headwater.gateway.mqtt import standstill
from headwater.gateway.mqtt.sessions import ABSENT_S
from headwater.ids import uuid7
from headwater.protocols.mqtt import (
    ConnAck,
    Connect,
    Disconnect,
    PacketReader,
    Properties,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Subscribe,
    Subscription,
    Will,
    encode_packet,
)
from headwater.stream import subjects
from headwater.stream.direct_get import read_from
from headwater.stream.envelope import Kind, Record, decode_batch
from headwater.stream.session_store import SessionStore
from headwater.stream.topology import UPLINK_STREAM, Topology


def will(qos: int = 1, **properties: int) -> Will:
    return Will("w", b"gone", qos, properties=Properties(**properties))


@pytest.fixture
async def listener(gateways: Two, device: Device) -> PacketClient:
    client = await PacketClient.open(gateways[0], device, "listener")
    await client.subscribe("w", qos=2)
    return client


@pytest.mark.parametrize("other", [0, 1])
async def test_another_device_that_takes_over_ends_the_session(
    gateways: Two, device: Device, listener: PacketClient, database_urls: DatabaseURLs, other: int
) -> None:
    rival = await add_device(database_urls.owner, device.tenant_id, definition=OPEN)
    older = await PacketClient.open(gateways[0], device, "same", will=will(will_delay_s=60), session_expiry_s=600)
    newer = await PacketClient.open(gateways[other], rival, "same", clean_start=False, session_expiry_s=600)
    assert not newer.connack.session_present
    assert (await listener.take()).payload == b"gone"
    older.vanish()


async def test_a_will_at_qos_2_takes_no_room_of_the_next_connections_publishes(
    gateways: Two, device: Device, listener: PacketClient
) -> None:
    client = await PacketClient.open(gateways[0], device, "client", will=will(qos=2), session_expiry_s=600)
    client.vanish()
    await listener.take()
    client = await PacketClient.open(gateways[1], device, "client", clean_start=False, session_expiry_s=600)
    assert client.connack.session_present
    for packet_id in range(1, (client.connack.properties.receive_maximum or 0) + 1):
        await client.send(Publish("x", b"", 2, packet_id=packet_id))
        await client.expect(PubRec)
    await client.send(PubRel(1))
    assert await client.expect(PubComp) == PubComp(1)


@pytest.mark.parametrize("is_dead", [True, False])
async def test_a_publisher_is_known_to_repeat_itself_where_its_session_was_not_written_to_the_end(
    gateways: Two, device: Device, nats_url: str, is_dead: bool
) -> None:
    """Its gateway died before it wrote what its client had published, and a worker has closed the record since; or it lives,
    and NATS was away for that moment."""
    listener = await PacketClient.open(gateways[0], device, "listener")
    await listener.subscribe("a", qos=2)
    speaker = await PacketClient.open(gateways[0], device, "speaker", session_expiry_s=600)
    connection = await nats.connect(nats_url)
    store = SessionStore(connection)
    record = (await store.find(device.tenant_id, "speaker")).record
    assert record is not None
    await speaker.send(Publish("a", b"once", 2, packet_id=7))
    await speaker.expect(PubRec)
    assert (await listener.take()).payload == b"once"
    await speaker.bye()

    async def revision_once_closed() -> int:
        stored = await store.find(device.tenant_id, "speaker")
        return 0 if stored.record is None or stored.record.connected else stored.revision

    record.connected, record.is_behind = not is_dead, is_dead
    await store.save(record, await eventually(revision_once_closed, "its gateway has closed the session"))
    for gateway in gateways:
        speaker = await PacketClient.open(gateway, device, "speaker", clean_start=False, session_expiry_s=600)
        assert speaker.connack.session_present
        await speaker.send(Publish("a", b"once", 2, dup=True, packet_id=7))
        assert (await speaker.expect(PubRec)).packet_id == 7
        await speaker.bye()
    assert await listener.silent()
    await connection.close()


async def away_with(gateways: Two, device: Device, store: SessionStore, owner: UUID) -> None:
    """The session of a "listener" is served by a gateway that only the test knows. It has sent the message that there is,
    and nobody else knows."""
    listener = await PacketClient.open(gateways[0], device, "listener", session_expiry_s=600)
    await listener.subscribe("a", qos=2)
    speaker = await PacketClient.open(gateways[0], device, "speaker")
    await speaker.publish("a", b"once", 1)
    await listener.expect(Publish)
    stored = await store.find(device.tenant_id, "listener")
    assert stored.record is not None
    stored.record.owner, stored.record.pending = owner.bytes, []
    await store.save(stored.record, stored.revision)


async def writes(store: SessionStore, device: Device, **changes: object) -> None:
    stored = await store.find(device.tenant_id, "listener")
    assert stored.record is not None
    await store.save(msgspec.structs.replace(stored.record, **changes), stored.revision)


async def test_a_gateway_that_is_on_its_way_back_to_nats_is_not_taken_for_dead(
    gateways: Two, device: Device, nats_url: str
) -> None:
    """What it still writes counts: here, that the client has had the message."""
    connection = await nats.connect(nats_url)
    store, owner = SessionStore(connection), uuid7()
    await away_with(gateways, device, store, owner)

    async def let_go(message: Msg) -> None:
        await writes(store, device, connected=False, sequence=2)
        await message.respond(b"")

    coming = asyncio.create_task(PacketClient.open(gateways[1], device, "listener", clean_start=False, session_expiry_s=600))
    await asyncio.sleep(0.6 * ABSENT_S)
    await connection.subscribe(subjects.release(owner), cb=let_go)
    listener = await coming
    assert listener.connack.session_present
    assert await listener.silent()
    await connection.close()


async def test_a_third_gateway_that_was_quicker_is_asked_to_let_go_as_well(
    gateways: Two, device: Device, nats_url: str
) -> None:
    connection = await nats.connect(nats_url)
    store, owner, quicker = SessionStore(connection), uuid7(), uuid7()
    await away_with(gateways, device, store, owner)

    async def lose(message: Msg) -> None:
        await writes(store, device, owner=quicker.bytes)
        await message.respond(b"")

    async def let_go(message: Msg) -> None:
        await writes(store, device, connected=False, sequence=2)
        await message.respond(b"")

    await connection.subscribe(subjects.release(owner), cb=lose)
    await connection.subscribe(subjects.release(quicker), cb=let_go)
    await connection.flush()
    listener = await PacketClient.open(gateways[1], device, "listener", clean_start=False, session_expiry_s=600)
    assert listener.connack.session_present
    assert await listener.silent()
    await connection.close()


async def test_a_gateway_that_stood_still_publishes_nothing_of_clients_that_are_elsewhere(
    gateways: Two, device: Device, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they sent at QoS 2 before, and was read only now: they send it again where they are."""
    listener = await PacketClient.open(gateways[1], device, "listener")
    await listener.subscribe("a", qos=2)
    last = Will("a", b"will", 1)
    gone, here = [
        await PacketClient.open(gateways[0], device, name, session_expiry_s=600, will=last) for name in ("gone", "here")
    ]
    connection = await nats.connect(nats_url)
    store = SessionStore(connection)
    stored = await store.find(device.tenant_id, "gone")
    assert stored.record is not None
    stored.record.owner = uuid7().bytes
    await store.save(stored.record, stored.revision)
    monkeypatch.setattr(standstill, "STANDSTILL_S", -1.0)  # it always has
    for client in (gone, here):
        await client.send(Publish("a", b"gone" if client is gone else b"here", 2, packet_id=1))
    assert (await gone.expect(Disconnect)).reason == Reason.SESSION_TAKEN_OVER
    await here.expect(PubRec)
    assert (await listener.take()).payload == b"here"
    assert await listener.silent(), "its will is the other gateway's, too"
    here.vanish()
    assert (await listener.take()).payload == b"will"
    await connection.close()


async def test_what_cannot_be_sent_again_frees_its_packet_id(gateways: Two, device: Device) -> None:
    speaker = await PacketClient.open(gateways[0], device, "speaker")
    await speaker.publish("gone", b"kept", 2, retain=True)
    await speaker.publish("large", b"x" * 200, 2, retain=True)
    client = await PacketClient.open(gateways[0], device, "client", session_expiry_s=600)
    await client.subscribe("gone", "large", qos=2)
    first = {(message := await client.expect(Publish)).topic: message.packet_id for _ in range(2)}
    await client.abort()
    await speaker.publish("gone", b"", 1, retain=True)
    client = await PacketClient.open(
        gateways[1], device, "client", clean_start=False, session_expiry_s=600, packet_bytes_max=100
    )
    assert {(await client.expect(PubRel)).packet_id for _ in range(2)} == set(first.values())
    for packet_id in first.values():
        await client.send(PubComp(packet_id))
    assert (await client.expect(Publish)).payload == b""  # the log goes on behind them


async def test_a_client_that_vanishes_while_it_subscribes_takes_nothing_from_others(gateways: Two, device: Device) -> None:
    member = await PacketClient.open(gateways[1], device, "member")
    await member.subscribe("$share/team/a", qos=0)
    for _ in range(5):
        client = await PacketClient.open(gateways[0], device, "client")
        await client.subscribe("b")
        await client.send(Subscribe(9, (Subscription("$share/team/a", 0),)))
        client.vanish()
    await asyncio.sleep(0.5)  # it is subscribed by now, if ever
    speaker = await PacketClient.open(gateways[0], device, "speaker")
    for number in range(20):
        await speaker.publish("a", b"%d" % number, 0)
        assert (await member.take()).payload == b"%d" % number


async def records(connection: Client) -> list[Record]:
    """Of telemetry, attributes and events, on whichever lane."""
    found = [
        each
        for lane in range(Topology().lanes)
        for each in await read_from(connection, UPLINK_STREAM, subjects.up(lane), 1, 100)
    ]
    return [record for stored in found for record in decode_batch(stored.data)]


@pytest.mark.parametrize("is_dead", [False, True])
async def test_a_will_that_is_a_record_outlives_its_gateway(
    gateways: Two, device: Device, nats_url: str, is_dead: bool
) -> None:
    connection = await nats.connect(nats_url)
    store = SessionStore(connection)
    last = Will(f"{device.prefix}telemetry", b'{"level": 7}', 1, properties=Properties(will_delay_s=60 if is_dead else 1))
    client = await PacketClient.open(gateways[0], device, "client", will=last, session_expiry_s=600)
    kept = await store.find(device.tenant_id, "client")
    assert kept.record is not None
    if is_dead:  # the gateway in the record does not answer, and the session ends
        kept.record.owner = uuid7().bytes
        await store.save(kept.record, kept.revision)
        client = await PacketClient.open(gateways[1], device, "client")
    else:
        client.vanish()
        await asyncio.sleep(0.5)
        assert await records(connection) == []

    async def found() -> list[Record]:
        return await records(connection)

    (record,) = await eventually(found, "the will is a record")
    assert (record.kind, record.body, record.device) == (Kind.TELEMETRY, {"level": 7}, device.id.bytes)
    await connection.close()


async def test_what_is_stored_meanwhile_does_not_cut_the_last_word_short(gateways: Two, device: Device) -> None:
    """A client that goes on writing, as one does before it has read why its connection ended, is not reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateways[0].mqtt_port)
    told = Connect("hasty", 5, username=str(device.id), password=device.token.encode())
    fault = b"\x00\x00"
    writer.write(encode_packet(told) + encode_packet(Publish("a", b"x", 1, packet_id=1), 5) + fault)
    said = PacketReader(5).feed(await reader.read())
    assert [type(each) for each in said] == [ConnAck, Disconnect]
    for _ in range(5):
        writer.write(encode_packet(PubRel(1), 5))
        await writer.drain()
        await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()

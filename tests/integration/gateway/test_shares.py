"""Shared subscriptions on two gateways: which messages wait for a group, for how long, and whose they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import DeliverPolicy
from tests.support.gateways import Device, Two, eventually
from tests.support.packet_client import PacketClient

from headwater.gateway.mqtt import share_consumer
from headwater.gateway.mqtt.sessions import RECEIPTS_SKIPPED
from headwater.gateway.mqtt.share_consumer import UNUSED_S
from headwater.gateway.mqtt.share_settling import MARK_S
from headwater.gateway.mqtt.shared import ALIVE_S
from headwater.ids import uuid7
from headwater.protocols.mqtt import Disconnect, Properties, PubAck, Publish, Reason, Will
from headwater.stream import subjects
from headwater.stream.envelope import Message, encode_messages
from headwater.stream.keyed import KeyedStream
from headwater.stream.message_log import MessageLog
from headwater.stream.session_store import SessionStore, StoredSession
from headwater.stream.share_store import Receipt, ShareStore
from headwater.stream.topology import MESSAGE_STREAM, SESSION_STREAM

SHARE = "$share/team/a"
KEPT: dict[str, Any] = {"session_expiry_s": 600}
BACK: dict[str, Any] = {"clean_start": False, "session_expiry_s": 600}
AT_ONCE_S = ALIVE_S / 2
"""Before anybody looks again at what has waited for long."""


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    connection = await nats.connect(nats_url)
    yield connection
    await connection.close()


async def ended(client: Client) -> None:
    """No group is left."""

    async def none() -> bool:
        return (await client.jetstream().stream_info(MESSAGE_STREAM)).state.consumer_count == 0

    await eventually(none, "the group has ended")


async def published(gateways: Two, device: Device, payload: bytes, qos: int = 1) -> None:
    speaker = await PacketClient.open(gateways[0], device, "speaker")
    await speaker.publish("a", payload, qos)
    await speaker.bye()


async def member_of(gateways: Two, device: Device, name: str, number: int = 0, qos: int = 1, **options: Any) -> PacketClient:
    member = await PacketClient.open(gateways[number], device, name, **options)
    assert await member.subscribe(SHARE, qos=qos) == (qos,)
    return member


@pytest.mark.parametrize("number", [0, 1])
async def test_messages_wait_for_a_kept_session_whoever_comes_and_goes(gateways: Two, device: Device, number: int) -> None:
    kept = await member_of(gateways, device, "kept", **KEPT)
    await kept.bye()
    passing = await member_of(gateways, device, "passing", number)
    await passing.bye()
    await asyncio.sleep(2 * UNUSED_S)  # by then an unused group has ended
    await published(gateways, device, b"waits")
    kept = await PacketClient.open(gateways[1 - number], device, "kept", **BACK)
    assert kept.connack.session_present
    assert (await kept.take()).payload == b"waits"


@pytest.mark.parametrize("end", ["unsubscribe", "no lifetime", "clean start", "a will"])
async def test_nothing_waits_for_a_group_that_no_session_waits_for(
    gateways: Two, device: Device, client: Client, end: str
) -> None:
    options: dict[str, Any] = {"will": Will("w", b"", 1)} if end == "a will" else KEPT
    member = await member_of(gateways, device, "member", **options)
    if end == "unsubscribe":
        await member.unsubscribe(SHARE)
    elif end == "no lifetime":
        await member.send(Disconnect(0, Properties(session_expiry_s=0)))
    elif end == "clean start":
        await member.abort()
        member = await PacketClient.open(gateways[1], device, "member")
        await member.bye()
    else:
        await member.bye()
    if end != "clean start":  # which nobody tells the group
        await ended(client)
    await published(gateways, device, b"for nobody")
    newcomer = await member_of(gateways, device, "newcomer", 1)
    await published(gateways, device, b"for it")
    assert (await newcomer.take()).payload == b"for it"


async def test_a_session_that_ends_with_its_connection_keeps_no_message(gateways: Two, device: Device) -> None:
    """Also where it is kept for its will."""
    mortal = await member_of(gateways, device, "mortal", will=Will("w", b"", 1))
    await published(gateways, device, b"1")
    await mortal.expect(Publish)
    other = await member_of(gateways, device, "other")
    mortal.vanish()
    assert (await other.take()).payload == b"1"


@pytest.mark.parametrize("options", [{}, KEPT], ids=["passing", "kept"])
async def test_what_waits_at_qos_2_comes_as_soon_as_its_member_has_room(
    gateways: Two, device: Device, options: dict[str, Any]
) -> None:
    """Room that a message of the member's own subscription took."""
    member = await member_of(gateways, device, "member", qos=2, receive_maximum=1, **options)
    await member.subscribe("own", qos=1)
    speaker = await PacketClient.open(gateways[0], device, "speaker")
    await speaker.publish("own", b"own", 1)
    own = await member.expect(Publish)
    await speaker.publish("a", b"shared", 2)
    await asyncio.sleep(0.5)
    await member.send(PubAck(own.packet_id))
    async with asyncio.timeout(AT_ONCE_S):
        assert (await member.take()).payload == b"shared"


def shares_of(client: Client, device: Device) -> ShareStore:
    return ShareStore(KeyedStream(client, SESSION_STREAM), subjects.share(device.tenant_id, "team", "a"), 600)


async def as_of_a_dead_gateway(client: Client, device: Device) -> StoredSession:
    """The member's session, as if the gateway that served it had died now."""
    sessions = SessionStore(client)

    async def closed() -> StoredSession | None:
        stored = await sessions.find(device.tenant_id, "member")
        return stored if stored.record is not None and not stored.record.connected else None

    stored = await eventually(closed, "its gateway has closed the session")
    stored.record.connected, stored.record.owner = True, uuid7().bytes
    return StoredSession(stored.record, await sessions.save(stored.record, stored.revision))


async def test_a_noted_message_is_its_members_when_the_gateway_dies_before_it_is_sent(
    gateways: Two, device: Device, client: Client
) -> None:
    member = await member_of(gateways, device, "member", qos=2, **KEPT)
    await published(gateways, device, b"first", 2)
    assert (await member.take()).payload == b"first"
    await member.bye()
    await published(gateways, device, b"second", 2)
    stored = await as_of_a_dead_gateway(client, device)
    assert stored.record is not None
    assert stored.record.receipts == 1
    batch = (await MessageLog(client).read(device.tenant_id, 1, 10))[-1]
    assert batch.messages[0].payload == b"second"
    shares = shares_of(client, device)
    receipt = Receipt(subjects.client_key("member"), 2)
    await shares.note(batch.sequence, {0: receipt}, ())
    other = await member_of(gateways, device, "other", 1, qos=2)
    assert await other.silent(), "it is the member's"
    member = await PacketClient.open(gateways[0], device, "member", **BACK)
    message = await member.take()
    assert (message.payload, message.qos) == (b"second", 2)
    await member.bye()
    await as_of_a_dead_gateway(client, device)
    member = await PacketClient.open(gateways[1], device, "member", **BACK)
    assert await member.silent(), "it had that one"
    for number in range(10):
        await published(gateways, device, b"%d" % number, 2)
    assert {(await each.take()).payload for each in (member, other) for _ in range(5)} == {b"%d" % n for n in range(10)}


async def test_what_a_member_of_a_dead_gateway_has_stays_its_own_when_others_are_done_with_the_rest(
    gateways: Two, device: Device, client: Client
) -> None:
    member = await member_of(gateways, device, "member", qos=2, **KEPT)
    await published(gateways, device, b"before", 2)
    assert (await member.take()).payload == b"before"
    await member.bye()
    await as_of_a_dead_gateway(client, device)
    batch = encode_messages([Message("a", b"its", qos=2), Message("a", b"anybody's", qos=2)])
    sequence = (await client.jetstream().publish(subjects.message(device.tenant_id), batch)).seq
    await shares_of(client, device).note(sequence, {0: Receipt(subjects.client_key("member"), 2)}, ())
    other = await member_of(gateways, device, "other", 1, qos=2)
    for payload in (b"anybody's", b"1", b"2"):  # what is done with is forgotten as others are given something
        if payload != b"anybody's":
            await published(gateways, device, payload, 2)
        assert (await other.take()).payload == payload
        await asyncio.sleep(3 * MARK_S)
    member = await PacketClient.open(gateways[0], device, "member", **BACK)
    assert (await member.take()).payload == b"its"


async def test_a_gateway_that_was_taken_for_dead_gives_a_groups_message_to_somebody_else(
    gateways: Two, device: Device, client: Client
) -> None:
    """It finds out when it wants to note whom it gives the message."""
    member = await member_of(gateways, device, "member", qos=2, **KEPT)
    await shares_of(client, device).take_over(subjects.client_key("member"), RECEIPTS_SKIPPED)
    await published(gateways, device, b"1", 2)
    assert (await member.expect(Disconnect)).reason == Reason.SESSION_TAKEN_OVER
    other = await member_of(gateways, device, "other", 1, qos=2)
    assert (await other.take()).payload == b"1"
    await other.bye()
    member = await PacketClient.open(gateways[1], device, "member", **BACK)
    await published(gateways, device, b"2", 2)
    assert (await member.take()).payload == b"2"


async def test_a_new_session_is_given_messages_although_an_older_one_was_taken_over(
    gateways: Two, device: Device, client: Client
) -> None:
    member = await member_of(gateways, device, "member", qos=2, **KEPT)
    await shares_of(client, device).take_over(subjects.client_key("member"), RECEIPTS_SKIPPED)
    await member.bye()
    member = await member_of(gateways, device, "member", 1, qos=2, **KEPT)
    assert not member.connack.session_present
    await published(gateways, device, b"1", 2)
    assert (await member.take()).payload == b"1"


async def test_a_batch_that_nats_forgot_was_done_with_is_given_to_nobody_again(
    gateways: Two, device: Device, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NATS that is killed comes back with a consumer that is behind by some acknowledgements, and counts from 1. Here
    it is behind by all."""
    member = await member_of(gateways, device, "member", qos=2, **KEPT)
    for payload in (b"1", b"2", b"3"):
        await published(gateways, device, payload, 2)
        assert (await member.take()).payload == payload
    await member.bye()
    (consumer,) = await client.jetstream().consumers_info(MESSAGE_STREAM)
    await client.jetstream().delete_consumer(MESSAGE_STREAM, consumer.name)
    monkeypatch.setattr(share_consumer, "DeliverPolicy", SimpleNamespace(NEW=DeliverPolicy.ALL))
    other = await member_of(gateways, device, "other", 1, qos=2)
    await published(gateways, device, b"4", 2)
    assert (await other.take()).payload == b"4"

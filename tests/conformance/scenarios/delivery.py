"""Delivery: quality of service, order, flow control and packet sizes, both ways."""

from __future__ import annotations

from headwater.protocols.mqtt import (
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Subscription,
    encode_packet,
)
from tests.conformance.stage import Stage, scenario


@scenario("3.8.4-8", "3.3.4-1", "4.3.1-1", "4.3.2-2", "4.3.2-4", "4.3.3-2", "4.3.3-4", "4.3.3-8", "3.3.1-2", "2.2.1-2")
async def the_lower_qos_counts(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    for granted in (0, 1, 2):
        await listener.subscribe(stage.topic(), granted)
        for published in (0, 1, 2):
            await speaker.publish(stage.topic(), b"x", published)
            message = await listener.take()
            assert (message.payload, message.qos, message.dup, message.retain) == (
                b"x",
                min(granted, published),
                False,
                False,
            )
    await stage.quiet(listener)


@scenario("3.3.1-3", "3.3.1-3 v3")
async def dup_is_not_passed_on(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic(), 2)
    await speaker.send(Publish(stage.topic(), b"1", 1, dup=True, packet_id=1))
    await speaker.the(PubAck)
    await speaker.send(Publish(stage.topic(), b"2", 2, dup=True, packet_id=2))
    await speaker.the(PubRec)
    await speaker.send(PubRel(2))
    await speaker.the(PubComp)
    assert [(await listener.take()).dup for _ in range(2)] == [False, False]


@scenario("4.6.0-5", "4.6.0-6", "4.6.0-6 v3")
async def messages_of_one_client_keep_their_order(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic("+"), 2)
    count = min(50, speaker.connack.properties.receive_maximum or 20)
    for qos in (0, 1, 2):
        for number in range(count):
            packet_id = number + 1 if qos else 0
            await speaker.send(Publish(stage.topic(str(qos)), b"%d" % number, qos, packet_id=packet_id))
        for _ in range(count if qos else 0):
            if qos == 1:
                await speaker.the(PubAck)
            else:
                await speaker.send(PubRel((await speaker.the(PubRec)).packet_id))
        for _ in range(count if qos == 2 else 0):
            await speaker.the(PubComp)
        assert [(await listener.take()).payload for _ in range(count)] == [b"%d" % number for number in range(count)], qos


@scenario("4.6.0-1", "4.4.0-1", "4.6.0-1 v3")
async def what_is_sent_again_keeps_its_order(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.kept("listener")
    await listener.subscribe(stage.topic(), 1)
    for number in range(10):
        await speaker.publish(stage.topic(), b"%d" % number, 1)
    got = [await listener.message() for _ in range(10)]
    for at in (1, 4, 5):
        await listener.send(PubAck(got[at].packet_id))
    await listener.ping()
    await listener.drop()
    back = await stage.kept("listener")
    expected = [message for at, message in enumerate(got) if at not in (1, 4, 5)]
    again = [await back.take() for _ in expected]
    assert [(m.payload, m.packet_id, m.dup) for m in again] == [(m.payload, m.packet_id, True) for m in expected]


@scenario("4.6.0-2", "4.6.0-3", "4.6.0-2 v3")
async def receipts_come_in_the_order_of_their_publishes(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    for packet_id in range(1, 21):
        await speaker.send(Publish(stage.topic(), bytes(100 - packet_id), 1, packet_id=packet_id))
    assert [(await speaker.the(PubAck)).packet_id for _ in range(20)] == list(range(1, 21))
    for packet_id in range(1, 21):
        await speaker.send(Publish(stage.topic(), b"x", 2, packet_id=packet_id))
    assert [(await speaker.the(PubRec)).packet_id for _ in range(20)] == list(range(1, 21))


@scenario("4.6.0-4")
async def releases_come_in_the_order_of_their_receipts(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic(), 2)
    for number in range(5):
        await speaker.publish(stage.topic(), b"%d" % number, 2)
    packet_ids = [(await listener.message()).packet_id for _ in range(5)]
    received = [packet_ids[at] for at in (0, 1, 2, 3, 4)]
    for packet_id in received:
        await listener.send(PubRec(packet_id))
    assert [(await listener.the(PubRel)).packet_id for _ in received] == received


@scenario("3.3.4-9", "4.9.0-1", "4.9.0-2", "3.3.4-10", "4.9.0-3", "2.2.1-4", "4.3.2-1", "4.3.3-1", levels=(5,))
async def the_clients_receive_maximum_holds(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    listener = await stage.client("listener", properties=Properties(receive_maximum=2))
    await listener.subscribe(stage.topic("+"), 2)
    for number in range(6):
        await speaker.publish(stage.topic("q"), b"%d" % number, 1 + number % 2)
    first = [await listener.message() for _ in range(2)]
    await speaker.publish(stage.topic("zero"), b"zero", 0)
    assert (await listener.message()).payload == b"zero"  # QoS 0 does not count
    await listener.ping()
    assert not listener.inbox
    await listener.send(PubAck(first[0].packet_id))
    third = await listener.message()
    assert third.payload == b"2"
    await listener.send(PubRec(first[1].packet_id))
    await listener.the(PubRel)
    await listener.send(PubComp(first[1].packet_id))
    fourth = await listener.message()
    assert third.packet_id != fourth.packet_id
    await listener.send(PubAck(third.packet_id), PubRec(fourth.packet_id, 0x83))  # a refused one frees it too
    assert [(await listener.message()).payload for _ in range(2)] == [b"4", b"5"]


@scenario("3.3.4-9", levels=(5,))
async def a_qos_2_message_counts_until_its_pubcomp(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    listener = await stage.client("listener", properties=Properties(receive_maximum=1))
    await listener.subscribe(stage.topic(), 2)
    for number in range(2):
        await speaker.publish(stage.topic(), b"%d" % number, 2)
    message = await listener.message()
    await listener.send(PubRec(message.packet_id))
    await listener.the(PubRel)
    await listener.ping()
    assert not listener.inbox
    await listener.send(PubComp(message.packet_id))
    assert (await listener.take()).payload == b"1"


@scenario("3.3.4-9", "4.9.0-2", levels=(5,))
async def what_a_full_window_held_back_survives_the_connection(stage: Stage) -> None:
    narrow = Properties(receive_maximum=1, session_expiry_s=0xFFFF_FFFF)
    speaker, listener = await stage.client("speaker"), await stage.kept("listener", properties=narrow)
    await listener.subscribe(stage.topic(), 1)
    for number in range(5):
        await speaker.publish(stage.topic(), b"%d" % number, 1)
    await listener.message()
    await listener.drop()
    back = await stage.kept("listener", properties=narrow)
    assert [(await back.take()).payload for _ in range(5)] == [b"%d" % number for number in range(5)]


@scenario("3.1.2-24", "3.1.2-25", levels=(5,))
async def what_is_too_large_for_a_client_is_dropped(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    narrow = await stage.client("narrow", properties=Properties(packet_bytes_max=200))
    wide = await stage.client("wide")
    for client in (narrow, wide):
        await client.subscribe(stage.topic(), 1)
    for payload in (b"1", bytes(500), b"2"):
        await speaker.publish(stage.topic(), payload, 1)
    assert [(await narrow.take()).payload for _ in range(2)] == [b"1", b"2"]
    assert [len((await wide.take()).payload) for _ in range(3)] == [1, 500, 1]
    await stage.quiet(narrow)


@scenario("3.1.2-24", levels=(5,), mosquitto="leaves such a SUBSCRIBE without an answer")
async def who_has_no_room_for_a_suback_does_not_wait_for_it(stage: Stage) -> None:
    narrow = await stage.client("narrow", properties=Properties(packet_bytes_max=50))
    filters = tuple(Subscription(stage.topic(str(number))) for number in range(50))
    await narrow.send(Subscribe(1, filters))
    said = await narrow.closes()
    assert said is not None
    assert said.reason == 0x83


@scenario("3.1.2-25", "4.5.0-1", levels=(5,))
async def what_is_too_large_for_a_client_that_was_away_is_dropped(stage: Stage) -> None:
    narrow = Properties(packet_bytes_max=200, session_expiry_s=0xFFFF_FFFF)
    speaker, listener = await stage.client("speaker"), await stage.kept("listener", properties=narrow)
    await listener.subscribe(stage.topic(), 1)
    await listener.drop()
    for payload in (b"1", bytes(500), b"2"):
        await speaker.publish(stage.topic(), payload, 1)
    back = await stage.kept("listener", properties=narrow)
    assert [(await back.take()).payload for _ in range(2)] == [b"1", b"2"]
    await stage.quiet(back)


@scenario("4.13.1-1", "4.3.2-4", "4.3.3-8")
async def a_receipt_that_is_not_due_ends_the_connection(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    for qos, answers in (
        (1, [PubRec]), (1, [PubComp]), (2, [PubAck]), (2, [PubComp]), (2, [PubRec, PubAck]),
    ):  # fmt: skip
        listener = await stage.client("listener")
        await listener.subscribe(stage.topic(), qos)
        await speaker.publish(stage.topic(), b"x", qos)
        packet_id = (await listener.message()).packet_id
        for answer in answers[:-1]:
            await listener.send(answer(packet_id))
            await listener.the(PubRel)
        await listener.send(answers[-1](packet_id))
        said = await listener.closes()
        assert said is None or said.reason == 0x82  # a mosquitto says nothing


@scenario("3.3.4-7", "4.13.1-1", levels=(5,), mosquitto="does not hold clients to the receive maximum that it announces")
async def the_servers_receive_maximum_holds(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    allowed = speaker.connack.properties.receive_maximum or 0xFFFF
    for packet_id in range(1, allowed + 1):
        await speaker.send(Publish(stage.topic(), b"x", 2, packet_id=packet_id))
    for _ in range(allowed):
        await speaker.the(PubRec)
    await speaker.send(Publish(stage.topic(), b"x", 2, packet_id=allowed + 1))
    said = await speaker.closes()
    assert said is not None
    assert said.reason == 0x93


@scenario("3.2.2-15", levels=(5,), mosquitto="announces no maximum packet size")
async def the_servers_maximum_packet_size_holds(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic(), 1)
    allowed = speaker.connack.properties.packet_bytes_max
    assert allowed is not None
    around = len(encode_packet(Publish(stage.topic(), bytes(allowed - 100), 1, packet_id=1), 5)) - (allowed - 100)
    await speaker.publish(stage.topic(), bytes(allowed - around), 1)
    assert len((await listener.take()).payload) == allowed - around
    await speaker.send(Publish(stage.topic(), bytes(allowed - around + 1), 1, packet_id=9))
    said = await speaker.closes()
    assert said is not None
    assert said.reason == 0x95
    await stage.quiet(listener)


@scenario("4.2.0-1", "3.3.4-1")
async def a_large_message_arrives_whole(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic(), 2)
    payload = bytes(range(256)) * 400
    for qos in (0, 1, 2):
        await speaker.publish(stage.topic(), payload, qos)
        assert (await listener.take()).payload == payload


@scenario("3.3.4-1")
async def an_empty_message_arrives(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic(), 2)
    for qos in (0, 1, 2):
        await speaker.publish(stage.topic(), b"", qos)
        message = await listener.take()
        assert (message.payload, message.qos) == (b"", qos)


@scenario("4.6.0-6")
async def many_subscribers_get_the_same(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    listeners = [await stage.client(f"listener-{number}", level=4 + number % 2) for number in range(10)]
    for number, listener in enumerate(listeners):
        await listener.subscribe(stage.topic(), number % 3)
    for number in range(10):
        await speaker.publish(stage.topic(), b"%d" % number, 2)
    for at, listener in enumerate(listeners):
        got = [await listener.take() for _ in range(10)]
        assert [(m.payload, m.qos) for m in got] == [(b"%d" % number, at % 3) for number in range(10)]


@scenario("3.3.4-1", levels=(3,))
async def version_3_1_speaks_with_the_others(stage: Stage) -> None:
    old, new = await stage.client("old"), await stage.client("new", level=5)
    await old.subscribe(stage.topic("a"), 2)
    await new.subscribe(stage.topic("b"), 2)
    await new.publish(stage.topic("a"), b"x", 2, properties=Properties(user_properties=(("a", "1"),)))
    assert (await old.take()).payload == b"x"
    await old.publish(stage.topic("b"), b"y", 2)
    message = await new.take()
    assert (message.payload, message.properties) == (b"y", None)

"""Sessions that outlive their connections: what is kept, what is sent again, how they end, who takes them over."""

from __future__ import annotations

import pytest

from headwater.protocols.mqtt import Disconnect, Properties, PubAck, PubComp, Publish, PubRec, PubRel
from tests.conformance.client import Client, Closed
from tests.conformance.stage import FOR_EVER, Stage, scenario


@scenario("3.2.2-2", "3.2.2-3", "3.1.2-6", "3.1.3-2", "3.2.2-3 v3", "3.1.2-4 v3")
async def session_present_says_the_truth(stage: Stage) -> None:
    first = await stage.kept("c")
    assert first.connack.session_present is False
    await first.drop()
    second = await stage.kept("c")
    assert second.connack.session_present is True
    await second.leave()
    other = await stage.kept("d")
    assert other.connack.session_present is False
    clean = await stage.client("c", clean=True)
    assert clean.connack.session_present is False


@scenario("3.1.2-4", "3.1.4-4", "3.1.2-6 v3")
async def a_clean_start_discards_the_session(stage: Stage) -> None:
    first = await stage.kept("c")
    await first.subscribe(stage.topic(), 1)
    await first.drop()
    speaker = await stage.client("speaker")
    await speaker.publish(stage.topic(), b"x", 1)
    clean = await stage.client("c", clean=True)
    await stage.quiet(clean)
    await speaker.publish(stage.topic(), b"y", 1)
    await stage.quiet(clean)
    await clean.leave()
    again = await stage.kept("c")
    await stage.quiet(again)


@scenario("3.1.2-5", "3.1.2-23", "4.5.0-1", "3.1.2-5 v3", "4.1.0-1")
async def messages_wait_for_an_absent_client(stage: Stage) -> None:
    absent = await stage.kept("absent")
    await absent.subscribe(stage.topic(), 2)
    await absent.leave()
    speaker = await stage.client("speaker")
    for number in range(10):
        await speaker.publish(stage.topic(), b"%d" % number, 1 + number % 2)
    back = await stage.kept("absent")
    assert back.connack.session_present
    got = [await back.take() for _ in range(10)]
    assert not any(message.dup for message in got)
    for qos in (1, 2):  # the order of messages of one QoS is promised, and no other [MQTT-4.6.0-5]
        assert [message.payload for message in got if message.qos == qos] == [b"%d" % n for n in range(qos - 1, 10, 2)]
    await speaker.publish(stage.topic(), b"live", 1)
    assert (await back.take()).payload == b"live"  # its subscription is part of the session
    await stage.quiet(back)


@scenario("4.4.0-1", "3.3.1-1", "4.3.2-3", "4.3.3-3", "2.3.1-4 v3")
async def what_was_not_acknowledged_comes_again(stage: Stage) -> None:
    listener = await stage.kept("listener")
    await listener.subscribe(stage.topic(), 2)
    speaker = await stage.client("speaker")
    for number in range(4):
        await speaker.publish(stage.topic(), b"%d" % number, 1 + number % 2)
    first = [await listener.message() for _ in range(4)]
    assert not any(message.dup for message in first)
    assert len({message.packet_id for message in first}) == 4
    await listener.drop()
    back = await stage.kept("listener")
    again = [await back.take() for _ in range(4)]
    for qos in (1, 2):
        assert [(m.payload, m.packet_id, m.dup) for m in again if m.qos == qos] == [
            (m.payload, m.packet_id, True) for m in first if m.qos == qos
        ]
    await stage.quiet(back)


@scenario("4.4.0-1")
async def nothing_is_sent_again_while_the_connection_lasts(stage: Stage) -> None:
    listener, speaker = await stage.client("listener"), await stage.client("speaker")
    await listener.subscribe(stage.topic(), 1)
    await speaker.publish(stage.topic(), b"x", 1)
    message = await listener.message()
    await stage.later(1.5)
    await stage.quiet(listener)
    await listener.send(PubAck(message.packet_id))


@scenario("4.3.3-5", "4.3.3-6", "4.4.0-1")
async def a_release_that_was_not_completed_comes_again(stage: Stage) -> None:
    listener = await stage.kept("listener")
    await listener.subscribe(stage.topic(), 2)
    speaker = await stage.client("speaker")
    await speaker.publish(stage.topic(), b"x", 2)
    message = await listener.message()
    await listener.send(PubRec(message.packet_id))
    assert (await listener.the(PubRel)).packet_id == message.packet_id
    await listener.drop()
    back = await stage.kept("listener")
    packet = await back.next()  # and not the PUBLISH
    assert isinstance(packet, PubRel)
    assert packet.packet_id == message.packet_id
    await back.send(PubComp(message.packet_id))
    await stage.quiet(back)
    await back.drop()
    await stage.quiet(await stage.kept("listener"))


@scenario("4.3.3-10", "4.3.3-8", "4.3.3-12", "4.1.0-1")
async def a_publish_at_qos_2_is_delivered_once_over_two_connections(stage: Stage) -> None:
    listener = await stage.client("listener")
    await listener.subscribe(stage.topic(), 2)
    speaker = await stage.kept("speaker")
    await speaker.send(Publish(stage.topic(), b"x", 2, packet_id=7))
    await speaker.the(PubRec)
    await speaker.drop()
    back = await stage.kept("speaker")
    await back.send(Publish(stage.topic(), b"x", 2, dup=True, packet_id=7))
    assert (await back.the(PubRec)).packet_id == 7
    await back.send(PubRel(7))
    assert (await back.the(PubComp)).reason == 0
    assert (await listener.take()).payload == b"x"
    await stage.quiet(listener)
    await back.send(Publish(stage.topic(), b"y", 2, packet_id=7))
    await back.the(PubRec)
    await back.send(PubRel(7))
    await back.the(PubComp)
    assert (await listener.take()).payload == b"y"


@scenario("4.3.3-10", "4.3.3-11", "2.2.1-5")
async def a_repeated_publish_at_qos_2_is_one_message(stage: Stage) -> None:
    listener, speaker = await stage.client("listener"), await stage.client("speaker")
    await listener.subscribe(stage.topic(), 2)
    for dup in (False, True):
        await speaker.send(Publish(stage.topic(), b"x", 2, dup=dup, packet_id=7))
        assert (await speaker.the(PubRec)).packet_id == 7
    for _ in range(2):  # a release that is repeated is answered too
        await speaker.send(PubRel(7))
        assert (await speaker.the(PubComp)).packet_id == 7
    await listener.take()
    await stage.quiet(listener)


@scenario("4.3.2-5")
async def a_packet_id_at_qos_1_is_free_after_its_acknowledgement(stage: Stage) -> None:
    listener, speaker = await stage.client("listener"), await stage.client("speaker")
    await listener.subscribe(stage.topic(), 1)
    for dup in (False, True):
        await speaker.send(Publish(stage.topic(), b"x", 1, dup=dup, packet_id=7))
        await speaker.the(PubAck)
        assert (await listener.take()).dup is False


@scenario("4.4.0-2", "4.8.2-6", levels=(5,))
async def a_refused_message_is_over(stage: Stage) -> None:
    listener = await stage.kept("listener")
    await listener.subscribe(stage.topic(), 2)
    speaker = await stage.client("speaker")
    for qos, refusal in ((1, PubAck), (2, PubRec)):
        await speaker.publish(stage.topic(), b"x", qos)
        message = await listener.message()
        await listener.send(refusal(message.packet_id, 0x83))
    await stage.quiet(listener)
    await listener.drop()
    await stage.quiet(await stage.kept("listener"))


@scenario("4.1.0-2", "3.1.2-23", levels=(5,))
async def a_session_expires(stage: Stage) -> None:
    short = Properties(session_expiry_s=1)
    first = await stage.kept("c", properties=short)
    await first.subscribe(stage.topic(), 1)
    await first.drop()
    back = await stage.kept("c", properties=short)
    assert back.connack.session_present  # in time
    await back.leave()
    await stage.later(2.5)
    late = await stage.kept("c", properties=short)
    assert not late.connack.session_present
    speaker = await stage.client("speaker")
    await speaker.publish(stage.topic(), b"x", 1)
    await stage.quiet(late)


@scenario("4.1.0-2", "3.14.2-2", levels=(5,))
async def a_disconnect_may_end_the_session(stage: Stage) -> None:  # section 3.14.2.2.2
    first = await stage.kept("c")
    await first.leave(0, Properties(session_expiry_s=0))
    assert not (await stage.kept("c")).connack.session_present


@scenario("4.1.0-2")
async def a_session_without_expiry_ends_with_its_connection(stage: Stage) -> None:
    first = await stage.client("c", clean=stage.level == 4)
    await first.subscribe(stage.topic(), 1)
    await first.drop()
    await stage.later(0.2)
    assert not (await stage.kept("c")).connack.session_present


@scenario("3.1.4-3", "3.1.4-2 v3", "3.14.4-2")
async def a_new_connection_takes_over(stage: Stage) -> None:
    older = await stage.kept("c")
    await older.subscribe(stage.topic(), 1)
    newer = await stage.kept("c")
    assert newer.connack.session_present
    await older.closes()
    speaker = await stage.client("speaker")
    await speaker.publish(stage.topic(), b"x", 1)
    assert (await newer.take()).payload == b"x"


@scenario("3.1.4-3", "3.14.2-1", "3.14.2-2", levels=(5,), mosquitto="closes the older connection without a word")
async def who_is_taken_over_is_told(stage: Stage) -> None:
    older = await stage.kept("c")
    await stage.kept("c")
    said = await older.closes()
    assert isinstance(said, Disconnect)
    assert said.reason == 0x8E
    assert said.properties.session_expiry_s is None


@scenario("3.1.4-3", "4.4.0-1")
async def a_take_over_loses_nothing(stage: Stage) -> None:
    older = await stage.kept("c")
    await older.subscribe(stage.topic(), 1)
    speaker = await stage.client("speaker")
    for number in range(5):
        await speaker.publish(stage.topic(), b"%d" % number, 1)
        await older.message()
    newer = await stage.kept("c")
    assert [(await newer.take()).payload for _ in range(5)] == [b"%d" % number for number in range(5)]


@scenario("3.1.3-2")
async def client_identifiers_are_compared_exactly(stage: Stage) -> None:
    lower, upper = await stage.client("c"), await stage.client("C")
    await lower.ping()
    await upper.ping()


@scenario("3.2.2-16", "3.1.3-6", "3.1.3-7", levels=(5,))
async def assigned_identifiers_differ(stage: Stage) -> None:
    given = set()
    for _ in range(3):
        nameless = await stage.connect_as("")
        given.add(nameless.connack.properties.assigned_client_id)
    assert None not in given
    assert "" not in given
    assert len(given) == 3


@scenario("3.1.3-7", levels=(5,))
async def an_assigned_identifier_is_the_clients(stage: Stage) -> None:
    nameless = await stage.connect_as("", clean=False, properties=FOR_EVER)
    assigned = nameless.connack.properties.assigned_client_id
    assert assigned
    await nameless.leave()
    again = await stage.connect_as(assigned, clean=False, properties=FOR_EVER)
    assert again.connack.session_present


@scenario("3.10.4-3")
async def unsubscribing_completes_what_is_under_way(stage: Stage) -> None:
    listener, speaker = await stage.client("listener"), await stage.client("speaker")
    await listener.subscribe(stage.topic(), 2)
    await speaker.publish(stage.topic(), b"x", 2)
    message = await listener.message()
    await listener.unsubscribe(stage.topic())
    await listener.send(PubRec(message.packet_id))
    assert (await listener.the(PubRel)).packet_id == message.packet_id
    await listener.send(PubComp(message.packet_id))
    await speaker.publish(stage.topic(), b"y", 2)
    await stage.quiet(listener)


@scenario("3.1.2-5")
async def subscriptions_outlive_several_connections(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    listener: Client = await stage.kept("listener")
    await listener.subscribe(stage.topic("a"), 1)
    await listener.subscribe(stage.topic("b"), 2)
    await listener.leave()
    listener = await stage.kept("listener")
    await listener.unsubscribe(stage.topic("a"))
    await listener.leave()
    await speaker.publish(stage.topic("a"), b"a", 2)
    await speaker.publish(stage.topic("b"), b"b", 2)
    listener = await stage.kept("listener")
    message = await listener.take()
    assert (message.payload, message.qos) == (b"b", 2)
    await stage.quiet(listener)


@scenario("3.1.2-23", levels=(4,))
async def a_session_may_change_its_version(stage: Stage) -> None:
    """Neither standard speaks of it; a client that is updated must not lose what waits for it."""
    listener = await stage.kept("listener")
    await listener.subscribe(stage.topic(), 1)
    await listener.leave()
    speaker = await stage.client("speaker", level=5)
    await speaker.publish(stage.topic(), b"x", 1, properties=Properties(content_type="text/plain"))
    back = await stage.kept("listener", level=5)
    assert back.connack.session_present
    message = await back.take()
    assert message.payload == b"x"
    assert message.properties is not None
    assert message.properties.content_type == "text/plain"


@scenario("3.1.4-6")
async def a_closed_session_hears_nothing(stage: Stage) -> None:
    first = await stage.kept("c")
    await stage.kept("c")
    await first.closes()
    with pytest.raises((Closed, ConnectionError)):
        await first.ping()

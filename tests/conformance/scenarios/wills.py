"""Wills (MQTT 5, sections 3.1.2.5 and 3.1.3.2)."""

from __future__ import annotations

from headwater.protocols.mqtt import Properties, Will
from tests.conformance.client import UPKEEP_S, Client
from tests.conformance.stage import FOR_EVER, Stage, scenario


async def listening(stage: Stage) -> Client:
    listener = await stage.client("listener")
    await listener.subscribe(stage.topic("will"), 2)
    return listener


@scenario("3.1.2-7", "3.1.2-8")
async def a_lost_connection_publishes_the_will(stage: Stage) -> None:
    listener = await listening(stage)
    for qos in (0, 1, 2):
        mortal = await stage.client(f"mortal-{qos}", will=Will(stage.topic("will"), b"gone", qos))
        await mortal.drop()
        message = await listener.take()
        assert (message.payload, message.qos, message.retain) == (b"gone", qos, False)


@scenario("3.14.4-3", "3.1.2-8", "3.1.2-10")
async def a_normal_disconnect_discards_the_will(stage: Stage) -> None:
    listener = await listening(stage)
    mortal = await stage.client("mortal", will=Will(stage.topic("will"), b"gone", 1))
    await mortal.leave()
    await stage.quiet(listener)


@scenario("3.1.2-8", levels=(5,))
async def a_client_may_ask_for_its_will(stage: Stage) -> None:  # section 3.14.2.1, reason code 0x04
    listener = await listening(stage)
    mortal = await stage.client("mortal", will=Will(stage.topic("will"), b"gone", 1))
    await mortal.leave(0x04)
    assert (await listener.take()).payload == b"gone"


@scenario("3.1.2-8", "4.13.1-1")
async def a_protocol_error_publishes_the_will(stage: Stage) -> None:
    listener = await listening(stage)
    mortal = await stage.client("mortal", will=Will(stage.topic("will"), b"gone", 1))
    await mortal.send_bytes(b"\x00\x00")
    await mortal.closes()
    assert (await listener.take()).payload == b"gone"


@scenario("3.1.2-14", "3.1.2-15")
async def a_will_is_retained_where_it_says_so(stage: Stage) -> None:
    for retain in (False, True):
        listener = await stage.client(f"listener-{retain}")
        topic = stage.topic(str(retain))
        await listener.subscribe(topic, 1)
        mortal = await stage.client("mortal", will=Will(topic, b"gone", 1, retain))
        await mortal.drop()
        await listener.take()
        later = await stage.client(f"later-{retain}")
        await later.subscribe(topic, 1)
        if retain:
            assert (await later.take()).payload == b"gone"
        else:
            await stage.quiet(later)


@scenario("3.1.2-10")
async def a_will_is_published_once(stage: Stage) -> None:
    listener = await listening(stage)
    mortal = await stage.client("mortal", will=Will(stage.topic("will"), b"gone", 1))
    await mortal.drop()
    await listener.take()
    again = await stage.client("mortal")
    await again.drop()
    await stage.client("mortal")
    await stage.quiet(listener)


@scenario("3.1.3-10", levels=(5,))
async def a_will_keeps_its_properties(stage: Stage) -> None:
    pairs = (("b", "2"), ("a", "1"), ("b", "1"))
    told = Properties(
        payload_format=1,
        content_type="text/plain",
        response_topic="r",
        correlation_data=b"c",
        message_expiry_s=60,
        user_properties=pairs,
    )
    listener = await listening(stage)
    mortal = await stage.client("mortal", will=Will(stage.topic("will"), b"gone", 1, properties=told))
    await mortal.drop()
    got = (await listener.take()).properties
    assert got is not None
    assert (got.payload_format, got.content_type, got.response_topic, got.correlation_data) == (1, "text/plain", "r", b"c")
    assert got.user_properties == pairs
    assert got.will_delay_s is None
    assert 55 <= (got.message_expiry_s or 0) <= 60


@scenario("3.1.2-8", levels=(5,))
async def a_will_waits_for_its_delay(stage: Stage) -> None:
    listener = await listening(stage)
    will = Will(stage.topic("will"), b"gone", 1, properties=Properties(will_delay_s=2))
    mortal = await stage.kept("mortal", will=will)
    await mortal.drop()
    await stage.quiet(listener)
    assert (await listener.take()).payload == b"gone"


@scenario("3.1.3-9", levels=(5,))
async def coming_back_in_time_cancels_the_will(stage: Stage) -> None:
    listener = await listening(stage)
    will = Will(stage.topic("will"), b"gone", 1, properties=Properties(will_delay_s=1))
    mortal = await stage.kept("mortal", will=will)
    await mortal.drop()
    await stage.kept("mortal")
    await stage.later(2.5)
    await stage.quiet(listener)


@scenario("3.1.2-8", levels=(5,))
async def the_end_of_the_session_publishes_the_will(stage: Stage) -> None:
    listener = await listening(stage)
    will = Will(stage.topic("will"), b"gone", 1, properties=Properties(will_delay_s=60))
    mortal = await stage.client("mortal", properties=Properties(session_expiry_s=1), will=will)
    await mortal.drop()
    assert (await listener.take()).payload == b"gone"


@scenario("3.1.2-8", levels=(5,), mosquitto="waits for the delay, though the session has ended")
async def a_session_that_ends_with_its_connection_publishes_its_will_at_once(stage: Stage) -> None:
    listener = await listening(stage)
    will = Will(stage.topic("will"), b"gone", 1, properties=Properties(will_delay_s=60))
    mortal = await stage.client("mortal", will=will)
    await mortal.drop()
    assert (await listener.take()).payload == b"gone"


@scenario("3.1.2-8", "3.1.4-4", levels=(5,), mosquitto="forgets the will of a session that a clean start ends")
async def a_clean_start_ends_the_session_and_publishes_the_will(stage: Stage) -> None:  # section 3.1.3.2.2
    listener = await listening(stage)
    will = Will(stage.topic("will"), b"gone", 1, properties=Properties(will_delay_s=60))
    mortal = await stage.client("mortal", properties=FOR_EVER, will=will)
    await mortal.drop()
    await stage.quiet(listener)
    await stage.client("mortal", clean=True)
    assert (await listener.take()).payload == b"gone"


@scenario("3.1.2-8")
async def a_take_over_publishes_a_will_without_delay(stage: Stage) -> None:  # section 3.1.4, "Session taken over"
    listener = await listening(stage)
    older = await stage.client("mortal", will=Will(stage.topic("will"), b"gone", 1))
    await stage.client("mortal")
    await older.closes()
    assert (await listener.take()).payload == b"gone"


@scenario("3.1.2-8", "3.1.4-3", levels=(5,), mosquitto="forgets the will of a session that ends")
async def a_take_over_that_ends_the_session_publishes_a_delayed_will(stage: Stage) -> None:
    """Section 3.1.4: where the older connection's session has no lifetime, or the newer one starts clean."""
    listener = await listening(stage)
    will = Will(stage.topic("will"), b"gone", 1, properties=Properties(will_delay_s=60))
    for properties, clean in ((Properties(), False), (FOR_EVER, True)):
        older = await stage.client("mortal", properties=properties, will=will)
        newer = await stage.client("mortal", clean=clean)
        await older.closes()
        assert (await listener.take()).payload == b"gone"
        await newer.leave()
    await stage.quiet(listener)


@scenario("3.1.3-9", levels=(5,))
async def a_take_over_that_goes_on_with_the_session_discards_a_delayed_will(stage: Stage) -> None:
    listener = await listening(stage)
    will = Will(stage.topic("will"), b"gone", 1, properties=Properties(will_delay_s=1))
    older = await stage.kept("mortal", will=will)
    await stage.kept("mortal")
    await older.closes()
    await stage.later(2)
    await stage.quiet(listener)


@scenario("3.1.2-12 v3")
async def without_a_will_nothing_is_published(stage: Stage) -> None:
    listener = await stage.client("listener")
    await listener.subscribe(stage.topic("#"), 1)
    mortal = await stage.client("mortal")
    await mortal.drop()
    await stage.client("mortal")
    await listener.unsubscribe(stage.topic("#"))
    await stage.quiet(listener)


@scenario("3.1.2-22")
async def a_silent_client_is_closed_and_its_will_published(stage: Stage) -> None:
    listener = await listening(stage)
    silent = await stage.client("silent", keep_alive_s=1, will=Will(stage.topic("will"), b"gone", 1))
    silent.patience_s = listener.patience_s = UPKEEP_S
    said = await silent.closes()
    assert said is None or (said.reason, stage.level) == (0x8D, 5)
    assert (await listener.take()).payload == b"gone"


@scenario("3.2.2-22")
async def any_packet_keeps_a_connection_alive(stage: Stage) -> None:
    lively = await stage.client("lively", keep_alive_s=1)
    assert lively.connack.properties.server_keep_alive_s in (None, 1)
    for _ in range(4):
        await stage.later(0.75)
        await lively.ping()

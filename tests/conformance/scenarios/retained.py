"""Retained messages (MQTT 5, sections 3.3.1.3 and 3.8.3.1)."""

from __future__ import annotations

from headwater.protocols.mqtt import Properties
from tests.conformance.stage import Stage, scenario


@scenario("3.3.1-5", "3.3.1-9", "3.3.1-8 v3")
async def a_retained_message_waits_for_subscribers(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    for qos in (0, 1, 2):
        await speaker.publish(stage.topic(f"q{qos}"), b"kept", qos, retain=True)
    listener = await stage.client("listener")
    await listener.subscribe(stage.topic("+"), 2)
    kept = [await listener.take() for _ in range(3)]
    assert sorted((message.topic[-2:], message.payload, message.retain, message.dup) for message in kept) == [
        (f"q{qos}", b"kept", True, False) for qos in (0, 1, 2)
    ]
    await stage.quiet(listener)


@scenario("3.3.1-5", "3.3.1-6 v3")
async def the_last_retained_message_counts(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    for payload in (b"1", b"2", b"3"):
        await speaker.publish(stage.topic(), payload, 1, retain=True)
    listener = await stage.client("listener")
    await listener.subscribe(stage.topic(), 1)
    assert (await listener.take()).payload == b"3"
    await stage.quiet(listener)


@scenario("3.3.1-6", "3.3.1-7")
async def an_empty_message_removes_it(stage: Stage) -> None:
    speaker, before = await stage.client("speaker"), await stage.client("before")
    await before.subscribe(stage.topic(), 1)
    await speaker.publish(stage.topic(), b"x", 1, retain=True)
    await speaker.publish(stage.topic(), b"", 1, retain=True)
    assert [(await before.take()).payload for _ in range(2)] == [b"x", b""]  # processed as any other message
    after = await stage.client("after")
    await after.subscribe(stage.topic(), 1)
    await stage.quiet(after)


@scenario("3.3.1-8")
async def an_ordinary_message_leaves_it_alone(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    await speaker.publish(stage.topic(), b"kept", 1, retain=True)
    await speaker.publish(stage.topic(), b"passing", 1)
    await speaker.publish(stage.topic(), b"", 1)
    listener = await stage.client("listener")
    await listener.subscribe(stage.topic(), 1)
    message = await listener.take()
    assert (message.payload, message.retain) == (b"kept", True)
    await stage.quiet(listener)


@scenario("3.3.1-12", "3.3.1-9 v3")
async def an_established_subscription_sees_no_retain_flag(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic(), 1)
    await speaker.publish(stage.topic(), b"x", 1, retain=True)
    assert (await listener.take()).retain is False


@scenario("3.3.1-13", levels=(5,))
async def retain_as_published(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic(), 1, retain_as_published=True)
    await speaker.publish(stage.topic(), b"x", 1, retain=True)
    await speaker.publish(stage.topic(), b"y", 1)
    assert [(await listener.take()).retain for _ in range(2)] == [True, False]


@scenario("3.3.1-9", "3.8.4-4", "3.8.4-3")
async def subscribing_again_sends_them_again(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await speaker.publish(stage.topic(), b"kept", 1, retain=True)
    for _ in range(2):
        await listener.subscribe(stage.topic(), 1)
        assert (await listener.take()).payload == b"kept"
    await speaker.publish(stage.topic(), b"new", 1)
    assert (await listener.take()).payload == b"new"
    await stage.quiet(listener)  # one subscription, not two


@scenario("3.3.1-10", levels=(5,))
async def retain_handling_1_sends_them_to_a_new_subscription(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await speaker.publish(stage.topic(), b"kept", 1, retain=True)
    await listener.subscribe(stage.topic(), 1, retain_handling=1)
    assert (await listener.take()).payload == b"kept"
    await listener.subscribe(stage.topic(), 0, retain_handling=1)
    await stage.quiet(listener)
    await listener.unsubscribe(stage.topic())
    await listener.subscribe(stage.topic(), 1, retain_handling=1)
    assert (await listener.take()).payload == b"kept"


@scenario("3.3.1-11", levels=(5,))
async def retain_handling_2_never_sends_them(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await speaker.publish(stage.topic(), b"kept", 1, retain=True)
    await listener.subscribe(stage.topic(), 1, retain_handling=2)
    await stage.quiet(listener)


@scenario("3.8.4-8", "3.8.4-6 v3")
async def a_retained_message_goes_at_the_granted_qos(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await speaker.publish(stage.topic("2"), b"x", 2, retain=True)
    await speaker.publish(stage.topic("0"), b"x", 0, retain=True)
    for name, wanted, got in (("2", 0, 0), ("2", 1, 1), ("2", 2, 2), ("0", 2, 0)):
        await listener.subscribe(stage.topic(name), wanted)
        assert (await listener.take()).qos == got


@scenario("3.3.2-6", levels=(5,))
async def a_retained_message_keeps_its_properties(stage: Stage) -> None:
    told = Properties(content_type="text/plain", user_properties=(("a", "1"),), message_expiry_s=60)
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await speaker.publish(stage.topic(), b"x", 1, retain=True, properties=told)
    await listener.subscribe(stage.topic(), 1, identifier=7)
    got = (await listener.take()).properties
    assert got is not None
    assert (got.content_type, got.user_properties, got.subscription_identifiers) == ("text/plain", (("a", "1"),), (7,))
    assert 55 <= (got.message_expiry_s or 0) <= 60


@scenario("3.3.2-5", levels=(5,))
async def a_retained_message_expires(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    await speaker.publish(stage.topic("short"), b"x", 1, retain=True, properties=Properties(message_expiry_s=1))
    await speaker.publish(stage.topic("long"), b"x", 1, retain=True, properties=Properties(message_expiry_s=60))
    await stage.later(2.1)
    listener = await stage.client("listener")
    await listener.subscribe(stage.topic("+"), 1)
    assert (await listener.take()).topic == stage.topic("long")
    await stage.quiet(listener)


@scenario("3.1.2-7 v3")
async def a_retained_message_is_not_part_of_a_session(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    await speaker.publish(stage.topic(), b"kept", 1, retain=True)
    await speaker.leave()
    await stage.client("speaker")
    listener = await stage.client("listener")
    await listener.subscribe(stage.topic(), 1)
    assert (await listener.take()).payload == b"kept"


@scenario("4.8.2-1", levels=(5,), mosquitto="sends retained messages to shared subscriptions")
async def a_shared_subscription_gets_no_retained_messages(stage: Stage) -> None:  # section 4.8.2
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await speaker.publish(stage.topic(), b"kept", 1, retain=True)
    await listener.subscribe(f"$share/g/{stage.topic()}", 1)
    await stage.quiet(listener)

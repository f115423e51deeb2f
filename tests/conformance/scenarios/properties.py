"""What MQTT 5 adds to a message: properties passed on, expiry, topic aliases both ways."""

from __future__ import annotations

from headwater.protocols.mqtt import Properties, PubAck, Publish, PubRec
from tests.conformance.client import Client
from tests.conformance.stage import FOR_EVER, Stage, scenario

PAIRS = (("b", "2"), ("a", "1"), ("b", "1"), ("", ""))


@scenario("3.3.2-4", "3.3.2-15", "3.3.2-16", "3.3.2-17", "3.3.2-18", "3.3.2-20", levels=(5,))
async def properties_are_passed_on_unaltered(stage: Stage) -> None:
    told = Properties(
        payload_format=1,
        content_type="text/plain; charset=utf-8",
        response_topic=stage.topic("answers"),
        correlation_data=bytes(range(256)),
        user_properties=PAIRS,
    )
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic("+"), 2)
    for qos in (0, 1, 2):
        await speaker.publish(stage.topic(), b"x", qos, properties=told)
        assert (await listener.take()).properties == told
    for payload_format in (0, None):
        some = Properties(payload_format=payload_format, user_properties=PAIRS)
        await speaker.publish(stage.topic(), b"x", 1, properties=some)
        assert (await listener.take()).properties == some
    await speaker.publish(stage.topic(), b"x", 1)
    assert (await listener.take()).properties is None


@scenario("3.3.2-4", levels=(5,), mosquitto="passes on what claims to be text and is not")
async def what_claims_to_be_text_is_text(stage: Stage) -> None:
    text = Properties(payload_format=1)
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic(), 2)
    await speaker.publish(stage.topic(), b"\xff", 0, properties=text)
    await speaker.send(Publish(stage.topic(), b"\xff", 1, packet_id=1, properties=text))
    assert (await speaker.the(PubAck)).reason == 0x99
    await speaker.send(Publish(stage.topic(), b"\xff", 2, packet_id=2, properties=text))
    assert (await speaker.the(PubRec)).reason == 0x99
    for payload in ("größe".encode(), b"\0", b""):
        await speaker.publish(stage.topic(), payload, 2, properties=text)
        assert (await listener.take()).payload == payload
    await speaker.publish(stage.topic(), b"\xff", 1, properties=Properties(payload_format=0))
    assert (await listener.take()).payload == b"\xff"


@scenario("3.3.2-17", "3.3.2-16", "4.5.0-1", levels=(5,))
async def properties_wait_with_their_message(stage: Stage) -> None:
    told = Properties(payload_format=1, response_topic="r", correlation_data=b"\0\xff", user_properties=PAIRS)
    speaker, listener = await stage.client("speaker"), await stage.kept("listener")
    await listener.subscribe(stage.topic(), 1, identifier=9)
    await listener.drop()
    await speaker.publish(stage.topic(), b"x", 1, properties=told)
    back = await stage.kept("listener")
    got = (await back.take()).properties
    assert got is not None
    assert (got.payload_format, got.response_topic, got.correlation_data) == (1, "r", b"\0\xff")
    assert (got.user_properties, got.subscription_identifiers) == (PAIRS, (9,))


@scenario("3.3.2-6", "3.3.2-5", levels=(5,))
async def expiry_counts_the_time_that_a_message_waits(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.kept("listener")
    await listener.subscribe(stage.topic(), 1)
    await listener.drop()
    for expiry_s in (60, 1, None):
        await speaker.publish(stage.topic(), b"%d" % (expiry_s or 0), 1, properties=Properties(message_expiry_s=expiry_s))
    await stage.later(2.1)
    back = await stage.kept("listener")
    first, last = await back.take(), await back.take()
    assert (first.payload, last.payload) == (b"60", b"0")
    assert first.properties is not None
    assert 55 <= (first.properties.message_expiry_s or 0) <= 58
    assert last.properties is None
    await stage.quiet(back)


@scenario("3.3.2-6", levels=(5,))
async def expiry_is_told_to_who_is_there(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic(), 1)
    await speaker.publish(stage.topic(), b"x", 1, properties=Properties(message_expiry_s=100))
    properties = (await listener.take()).properties
    assert properties is not None
    assert 98 <= (properties.message_expiry_s or 0) <= 100


@scenario("4.3.3-7", "4.3.3-13", levels=(5,), mosquitto="drops an expired message that it has already sent")
async def expiry_does_not_break_an_exchange(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.kept("listener")
    await listener.subscribe(stage.topic(), 2)
    await speaker.publish(stage.topic(), b"x", 2, properties=Properties(message_expiry_s=1))
    first = await listener.message()
    await listener.drop()
    await stage.later(2.1)
    back = await stage.kept("listener")
    again = await back.take()
    assert (again.payload, again.packet_id, again.dup) == (b"x", first.packet_id, True)


# -- topic aliases -----------------------------------------------------------------------------------------------------


@scenario("3.3.2-12", levels=(5,))
async def a_client_uses_aliases(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    allowed = speaker.connack.properties.topic_alias_maximum or 0
    assert allowed > 0
    await listener.subscribe(stage.topic("+"), 1)

    async def say(topic: str, alias: int, payload: bytes) -> None:
        await speaker.publish(topic, payload, 1, properties=Properties(topic_alias=alias))

    for alias in (1, allowed):
        await say(stage.topic(str(alias)), alias, b"named")
        await say("", alias, b"aliased")
        for payload in (b"named", b"aliased"):
            message = await listener.take()
            assert (message.topic, message.payload) == (stage.topic(str(alias)), payload)
            assert message.properties is None or message.properties.topic_alias is None
    await say(stage.topic("other"), 1, b"set again")
    await say("", 1, b"aliased")
    assert [(await listener.take()).topic for _ in range(2)] == [stage.topic("other")] * 2


@scenario("3.3.2-7", levels=(5,))
async def aliases_end_with_the_connection(stage: Stage) -> None:
    speaker = await stage.kept("speaker")
    await speaker.publish(stage.topic(), b"x", 1, properties=Properties(topic_alias=1))
    await speaker.drop()
    back = await stage.kept("speaker")
    await back.send(Publish("", b"x", 1, packet_id=1, properties=Properties(topic_alias=1)))
    said = await back.closes()
    assert said is None or said.reason in (0x82, 0x94)


@scenario("3.3.2-7", levels=(5,))
async def aliases_are_each_connections_own(stage: Stage) -> None:
    one, two, listener = [await stage.client(name) for name in ("one", "two", "listener")]
    await listener.subscribe(stage.topic("+"), 1)
    for client, name in ((one, "one"), (two, "two")):
        await client.publish(stage.topic(name), b"", 1, properties=Properties(topic_alias=1))
        await listener.take()
    for client, name in ((one, "one"), (two, "two")):
        await client.publish("", b"", 1, properties=Properties(topic_alias=1))
        assert (await listener.take()).topic == stage.topic(name)


async def named(client: Client, aliases: dict[int, str]) -> tuple[str, int | None]:
    """The topic of the next message, and its alias; `aliases` is what the client knows."""
    message = await client.take()
    alias = message.properties.topic_alias if message.properties is not None else None
    if message.topic and alias:
        aliases[alias] = message.topic
    assert message.topic or alias
    return message.topic or aliases[alias or 0], alias


@scenario(
    "3.1.2-26", "3.3.2-11", levels=(5,), mosquitto="uses no aliases of its own, though the client allows them (optional)"
)
async def the_server_uses_aliases(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    listener = await stage.client("listener", properties=Properties(topic_alias_maximum=2))
    await listener.subscribe(stage.topic("+"), 1)
    aliases: dict[int, str] = {}
    told = []
    for name in ("one", "two", "three", "one", "two", "three"):
        await speaker.publish(stage.topic(name), b"x", 1)
        topic, alias = await named(listener, aliases)
        assert topic == stage.topic(name)
        told.append(alias)
    assert any(told)
    assert all(alias in (None, 1, 2) for alias in told)


@scenario("3.1.2-27", levels=(5,))
async def a_client_that_allows_no_aliases_gets_none(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    for name, properties in (("absent", None), ("zero", Properties(topic_alias_maximum=0))):
        listener = await stage.client(name, properties=properties)
        await listener.subscribe(stage.topic(), 1)
        for _ in range(3):
            await speaker.publish(stage.topic(), b"x", 1)
            message = await listener.take()
            assert (message.topic, message.properties) == (stage.topic(), None)


@scenario("3.3.2-7", "3.3.1-1", levels=(5,))
async def what_is_sent_again_does_not_lean_on_old_aliases(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    properties = Properties(topic_alias_maximum=5, session_expiry_s=FOR_EVER.session_expiry_s)
    listener = await stage.kept("listener", properties=properties)
    await listener.subscribe(stage.topic(), 1)
    for number in range(3):
        await speaker.publish(stage.topic(), b"%d" % number, 1)
        await listener.message()
    await listener.drop()
    back = await stage.kept("listener", properties=properties)
    aliases: dict[int, str] = {}
    assert [(await named(back, aliases))[0] for _ in range(3)] == [stage.topic()] * 3


@scenario("3.1.2-28", levels=(5,))
async def response_information_is_not_told_unasked(stage: Stage) -> None:
    for asked in (None, 0):
        client = await stage.client("c", properties=Properties(request_response_information=asked))
        assert client.connack.properties.response_information is None


@scenario("3.3.2-15", "3.3.2-16", levels=(5,))
async def request_and_response(stage: Stage) -> None:  # section 4.10
    asker, answerer = await stage.client("asker"), await stage.client("answerer")
    await asker.subscribe(stage.topic("answers/asker"), 1)
    await answerer.subscribe(stage.topic("requests"), 1)
    ask = Properties(response_topic=stage.topic("answers/asker"), correlation_data=b"\x01\x02")
    await asker.publish(stage.topic("requests"), b"?", 1, properties=ask)
    request = (await answerer.take()).properties
    assert request is not None
    assert request.response_topic is not None
    await answerer.publish(request.response_topic, b"!", 1, properties=Properties(correlation_data=request.correlation_data))
    answer = await asker.take()
    assert answer.payload == b"!"
    assert answer.properties is not None
    assert answer.properties.correlation_data == b"\x01\x02"

"""Subscriptions: overlapping, identified, shared, without echo; topic filters and how they match."""

from __future__ import annotations

import asyncio
import unicodedata

from headwater.protocols.mqtt import Properties, PubAck, PubComp, PubRec, PubRel, SubAck, Subscribe, Subscription
from tests.conformance.client import Client
from tests.conformance.stage import Stage, scenario


def identifiers(message: object) -> tuple[int, ...]:
    properties = getattr(message, "properties", None)
    return tuple(sorted(properties.subscription_identifiers)) if properties is not None else ()


@scenario("3.3.4-2", "3.3.5-1 v3", mosquitto="delivers it at the QoS of the subscription that it finds first")
async def overlapping_subscriptions_deliver_once_at_the_highest_qos(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic("a/b"), 0)
    await listener.subscribe(stage.topic("a/+"), 2)
    await listener.subscribe(stage.topic("a/#"), 1)
    await speaker.publish(stage.topic("a/b"), b"x", 2)
    message = await listener.take()
    assert (message.payload, message.qos) == (b"x", 2)
    await stage.quiet(listener)


@scenario("3.3.4-3", "3.3.4-4", levels=(5,), mosquitto="tells the identifier of one of them")
async def every_identifier_of_overlapping_subscriptions_is_told(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic("a/b"), 1, identifier=1)
    await listener.subscribe(stage.topic("a/+"), 2, identifier=268_435_455)
    await listener.subscribe(stage.topic("a/#"), 0)
    await speaker.publish(stage.topic("a/b"), b"x", 2)
    message = await listener.take()
    assert (message.qos, identifiers(message)) == (2, (1, 268_435_455))
    await stage.quiet(listener)
    await speaker.publish(stage.topic("a/c"), b"x", 2)
    assert identifiers(await listener.take()) == (268_435_455,)


@scenario("3.8.4-3", "3.3.4-3", levels=(5,))
async def a_new_subscription_replaces_the_identifier(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    for identifier, told in ((1, (1,)), (2, (2,)), (None, ())):
        await listener.subscribe(stage.topic(), 1, identifier=identifier)
        await speaker.publish(stage.topic(), b"x", 1)
        assert identifiers(await listener.take()) == told
    await stage.quiet(listener)


@scenario("3.8.4-3", "3.8.4-7", "3.8.4-8")
async def a_new_subscription_replaces_the_qos(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    for qos in (2, 0, 1):
        suback = await listener.subscribe(stage.topic(), qos)
        assert suback.codes == (qos,)
        await speaker.publish(stage.topic(), b"x", 2)
        assert (await listener.take()).qos == qos
    await stage.quiet(listener)


@scenario("3.8.4-5", "3.8.4-6", "3.9.3-1")
async def one_subscribe_may_have_several_filters(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    wanted = tuple(Subscription(stage.topic(name), qos) for name, qos in (("a", 0), ("b", 2), ("c", 1), ("a", 1)))
    await listener.send(Subscribe(9, wanted))
    suback = await listener.the(SubAck)
    assert (suback.packet_id, suback.codes) == (9, (0, 2, 1, 1))
    for name, qos in (("a", 1), ("b", 2), ("c", 1)):
        await speaker.publish(stage.topic(name), b"x", 2)
        message = await listener.take()
        assert (message.topic, message.qos) == (stage.topic(name), qos)


@scenario("3.10.4-1", "3.10.4-2", "3.10.4-6")
async def unsubscribing(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    for name in ("a", "b", "#"):
        await listener.subscribe(stage.topic(name), 1)
    unsuback = await listener.unsubscribe(stage.topic("a"), stage.topic("+"), stage.topic("#"))
    assert unsuback.codes == ((0x00, 0x11, 0x00) if stage.level == 5 else ())
    await speaker.publish(stage.topic("a"), b"a", 1)
    await speaker.publish(stage.topic("b"), b"b", 1)
    assert (await listener.take()).payload == b"b"
    await stage.quiet(listener)


@scenario("3.8.3-3", levels=(5,))
async def no_local_keeps_a_clients_own_messages_from_it(stage: Stage) -> None:
    client, other = await stage.client("client"), await stage.client("other")
    await client.subscribe(stage.topic(), 1, no_local=True)
    await client.publish(stage.topic(), b"own", 1)
    await stage.quiet(client)
    await other.publish(stage.topic(), b"foreign", 1)
    assert (await client.take()).payload == b"foreign"


@scenario("3.8.3-3")
async def a_client_hears_itself_where_it_does_not_ask_otherwise(stage: Stage) -> None:
    client = await stage.client("client")
    await client.subscribe(stage.topic(), 1)
    await client.publish(stage.topic(), b"own", 1)
    assert (await client.take()).payload == b"own"


@scenario("3.8.3-3", levels=(5,))
async def no_local_holds_for_a_client_that_came_back(stage: Stage) -> None:
    client = await stage.kept("client")
    await client.subscribe(stage.topic(), 1, no_local=True)
    await client.drop()
    client = await stage.kept("client")
    await client.publish(stage.topic(), b"own", 1)
    await stage.quiet(client)


# -- shared ------------------------------------------------------------------------------------------------------------


async def group(stage: Stage, names: str = "abc", qos: int = 1) -> list[Client]:
    members = [await stage.client(name) for name in names]
    for member in members:
        await member.subscribe(f"$share/g/{stage.topic('+')}", qos)
    return members


async def heard(stage: Stage, members: list[Client], count: int) -> list[list[bytes]]:
    """What each member got, when so many messages have come to all of them together; no more come."""
    shares: list[list[bytes]] = [[] for _ in members]

    async def listen(member: Client, share: list[bytes]) -> None:
        while sum(map(len, shares)) < count:
            share.append((await member.take()).payload)

    listening = [asyncio.ensure_future(listen(*pair)) for pair in zip(members, shares, strict=True)]
    await asyncio.wait(listening, return_when=asyncio.FIRST_COMPLETED)  # the one that got the last message, or failed
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    await stage.quiet(*members)
    return shares


@scenario("4.8.2-1", "4.8.2-3", levels=(4, 5))
async def a_share_divides_messages(stage: Stage) -> None:
    members = await group(stage)
    whole = await stage.client("whole")
    await whole.subscribe(stage.topic("+"), 1)
    speaker = await stage.client("speaker")
    payloads = [b"%d" % number for number in range(30)]
    for payload in payloads:
        await speaker.publish(stage.topic(), payload, 2)
    shares = await heard(stage, members, len(payloads))
    assert sorted(payload for share in shares for payload in share) == sorted(payloads)
    assert all(shares)  # everybody works
    assert [(await whole.take()).payload for _ in payloads] == payloads


@scenario("4.8.2-3")
async def a_share_respects_each_members_qos(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    for qos in (0, 1, 2):
        member = await stage.client(f"member-{qos}")
        suback = await member.subscribe(f"$share/{qos}/{stage.topic('+')}", qos)
        assert suback.codes == (qos,)
        await speaker.publish(stage.topic(), b"x", 2)
        assert (await member.take()).qos == qos


@scenario("3.10.4-1", "4.8.2-1")
async def who_leaves_a_share_gets_nothing_more(stage: Stage) -> None:
    leaves, closes, stays = await group(stage)
    unsuback = await leaves.unsubscribe(f"$share/g/{stage.topic('+')}")
    assert unsuback.codes == ((0,) if stage.level == 5 else ())
    await closes.leave()
    speaker = await stage.client("speaker")
    for number in range(10):
        await speaker.publish(stage.topic(), b"%d" % number, 1)
    assert [(await stays.take()).payload for _ in range(10)] == [b"%d" % number for number in range(10)]
    await stage.quiet(leaves, stays)


@scenario("4.8.2-1")
async def shares_are_told_apart_by_name_and_filter(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    one, two, other = [await stage.client(name) for name in ("one", "two", "other")]
    await one.subscribe(f"$share/one/{stage.topic('+')}", 1)
    await two.subscribe(f"$share/two/{stage.topic('+')}", 1)
    await other.subscribe(f"$share/one/{stage.topic('a')}", 1)
    await speaker.publish(stage.topic("a"), b"x", 1)
    for client in (one, two, other):
        assert (await client.take()).payload == b"x"
        await stage.quiet(client)


@scenario("4.8.2-1", "3.3.4-4", levels=(5,))
async def a_member_may_subscribe_for_itself_too(stage: Stage) -> None:
    """Section 4.8.2: shared and non-shared subscriptions do not overlap, each has its own copy."""
    speaker, member = await stage.client("speaker"), await stage.client("member")
    await member.subscribe(f"$share/g/{stage.topic()}", 1, identifier=1)
    await member.subscribe(stage.topic(), 1, identifier=2)
    await speaker.publish(stage.topic(), b"x", 1)
    assert sorted([identifiers(await member.take()) for _ in range(2)]) == [(1,), (2,)]
    await stage.quiet(member)


@scenario("4.8.2-4", "4.3.3-5")
async def a_member_completes_its_qos_2_message_when_it_comes_back(stage: Stage) -> None:
    member, speaker = await stage.kept("member"), await stage.client("speaker")
    await member.subscribe(f"$share/g/{stage.topic()}", 2)
    await speaker.publish(stage.topic(), b"x", 2)
    message = await member.message()
    await member.send(PubRec(message.packet_id))
    await member.the(PubRel)
    await member.drop()
    other = await stage.client("other")
    await other.subscribe(f"$share/g/{stage.topic()}", 2)
    back = await stage.kept("member")
    assert (await back.the(PubRel)).packet_id == message.packet_id
    await back.send(PubComp(message.packet_id))
    await stage.quiet(other, back)


@scenario("4.8.2-5", levels=(5,))
async def a_qos_2_message_of_a_share_does_not_change_hands(stage: Stage) -> None:
    member, speaker = await stage.kept("member"), await stage.client("speaker")
    await member.subscribe(f"$share/g/{stage.topic()}", 2)
    await speaker.publish(stage.topic(), b"x", 2)
    await member.message()
    other = await stage.client("other")
    await other.subscribe(f"$share/g/{stage.topic()}", 2)
    await member.leave(0, Properties(session_expiry_s=0))
    await stage.quiet(other)


@scenario("4.8.2-6", levels=(5,))
async def a_refused_message_of_a_share_goes_to_nobody_else(stage: Stage) -> None:
    member, speaker = await stage.client("member"), await stage.client("speaker")
    await member.subscribe(f"$share/g/{stage.topic()}", 1)
    await speaker.publish(stage.topic(), b"x", 1)
    message = await member.message()
    other = await stage.client("other")
    await other.subscribe(f"$share/g/{stage.topic()}", 1)
    await member.send(PubAck(message.packet_id, 0x83))
    await stage.quiet(member, other)


# -- topics ------------------------------------------------------------------------------------------------------------


@scenario("3.3.2-3", "4.7.1-1", "4.7.1-2")
async def wildcards_match_as_they_should(stage: Stage) -> None:
    speaker = await stage.client("speaker")
    names = ("", "/", "a", "a/", "/a", "a/b", "a/b/c", "a//c")
    expected = {
        "#": names,
        "+": ("", "a"),
        "a/#": ("a", "a/", "a/b", "a/b/c", "a//c"),
        "a/+": ("a/", "a/b"),
        "+/+": ("/", "a/", "/a", "a/b"),
        "/+": ("/", "/a"),
        "a/+/c": ("a/b/c", "a//c"),
        "+/b/#": ("a/b", "a/b/c"),
        "a/b": ("a/b",),
    }
    for number, (topic_filter, matching) in enumerate(expected.items()):
        listener = await stage.client(f"listener-{number}")
        await listener.subscribe(stage.topic(topic_filter), 1)
        for name in names:
            await speaker.publish(stage.topic(name), name.encode(), 1)
        got = [await listener.take() for _ in matching]
        assert [message.payload.decode() for message in got] == list(matching), topic_filter
        assert [message.topic for message in got] == [stage.topic(name) for name in matching]
        await listener.unsubscribe(stage.topic(topic_filter))
        await stage.quiet(listener)
        await listener.leave()


@scenario("4.7.2-1")
async def a_leading_wildcard_matches_no_dollar_topic(stage: Stage) -> None:
    speaker, listener, exact = [await stage.client(name) for name in ("speaker", "listener", "exact")]
    await exact.subscribe(f"$own/{stage.topic()}", 1)
    await listener.subscribe(f"+/{stage.topic()}", 1)
    await speaker.publish(f"$own/{stage.topic()}", b"hidden", 1)
    await speaker.publish(f"own/{stage.topic()}", b"seen", 1)
    assert (await listener.take()).payload == b"seen"
    assert (await exact.take()).payload == b"hidden"
    await stage.quiet(exact)


@scenario("4.7.2-1")
async def a_lone_hash_matches_no_dollar_topic(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    mark = stage.topic("mark").encode()
    await listener.subscribe("#", 1)
    await speaker.publish(f"$own/{stage.topic()}", mark, 1)
    await speaker.publish(stage.topic(), mark, 1)
    while (message := await listener.take()).payload != mark:
        assert message.retain  # of other scenarios
    assert message.topic == stage.topic()


@scenario("4.7.3-4", "1.5.4-3", "4.7.3-4 v3")
async def topics_are_compared_as_they_are(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    composed = unicodedata.normalize("NFC", "é")
    decomposed = unicodedata.normalize("NFD", composed)
    names = ["Case", "case", composed, decomposed, "\ufeffbom", "bom", " space ", "a%2Fb", "漢字"]
    for name in names:
        await listener.subscribe(stage.topic(name), 1)
        await speaker.publish(stage.topic(name), name.encode(), 1)
        message = await listener.take()
        assert (message.topic, message.payload) == (stage.topic(name), name.encode())
        await listener.unsubscribe(stage.topic(name))
    await listener.subscribe(stage.topic("bom"), 1)
    for name in (name for name in names if name != "bom"):
        await speaker.publish(stage.topic(name), b"x", 1)
    await stage.quiet(listener)


@scenario("3.8.4-4", levels=(4, 5))
async def replacing_a_subscription_loses_nothing(stage: Stage) -> None:
    speaker, listener = await stage.client("speaker"), await stage.client("listener")
    await listener.subscribe(stage.topic(), 1)
    for number in range(20):
        await speaker.publish(stage.topic(), b"%d" % number, 1)
        if number % 4 == 0:
            await listener.subscribe(stage.topic(), 1)
    assert [(await listener.take()).payload for _ in range(20)] == [b"%d" % number for number in range(20)]
    await stage.quiet(listener)

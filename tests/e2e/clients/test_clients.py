"""Clients as they are installed, unchanged, doing what they are for. Each test is run for each client that can."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest

from .client import Client, Message, Options, Refused
from .variants import PLAIN, VARIANTS, Variant
from .world import WAIT_S, World, connect, publish, receive, subscribe

LARGE_BYTES = 200_000
"""Below the 256 KiB that a tenant's message may have, and larger than any buffer on the way."""


def for_each(variants: tuple[Variant, ...], *, level: int = 0, without: str = "") -> Any:
    able = [v for v in variants if v.level >= level and without not in v.lacks]
    return pytest.mark.parametrize("variant", able, ids=str)


@for_each(VARIANTS)
async def test_a_token_opens_the_door(world: World, variant: Variant) -> None:
    credential = world.broker.credential()
    client = await world.enter(variant, username=credential.username, password=credential.password)
    await publish(client, credential.topic, credential.payload, 1)


@for_each(VARIANTS)
async def test_a_wrong_token_is_told_so(world: World, variant: Variant) -> None:
    credential = world.broker.credential()
    client = world.make(variant)
    with pytest.raises(Refused) as refused:
        await connect(client, Options(world.client_id(), credential.username, credential.wrong))
    assert refused.value.reason == credential.refused[variant.level]


@pytest.mark.parametrize(
    ("variant", "qos"), [(v, qos) for v in VARIANTS for qos in (0, 1, 2) if qos < 2 or "qos2" not in v.lacks], ids=str
)
async def test_messages_go_both_ways(world: World, variant: Variant, qos: int) -> None:
    listener = await world.listener(world.topic("up"))
    client = await world.enter(variant)
    assert await subscribe(client, world.topic("down"), qos) == qos
    for number in range(5):
        await publish(client, world.topic("up"), b"up %d" % number, qos)
        await publish(listener, world.topic("down"), b"down %d" % number, qos)
    assert [await receive(listener) for _ in range(5)] == [Message(world.topic("up"), b"up %d" % n, qos) for n in range(5)]
    assert [await receive(client) for _ in range(5)] == [Message(world.topic("down"), b"down %d" % n, qos) for n in range(5)]


@for_each(PLAIN)
async def test_the_lower_qos_counts(world: World, variant: Variant) -> None:
    client = await world.enter(variant)
    other = await world.other()
    assert await subscribe(client, world.topic("zero"), 0) == 0
    await publish(other, world.topic("zero"), b"x", 1)
    assert (await receive(client)).qos == 0


@for_each(VARIANTS)
async def test_large_payloads(world: World, variant: Variant) -> None:
    payload = (b"0123456789abcdef" * (LARGE_BYTES // 16))[:LARGE_BYTES]
    listener = await world.listener(world.topic("up"), 1)
    client = await world.enter(variant)
    await subscribe(client, world.topic("down"), 1)
    await publish(client, world.topic("up"), payload, 1)
    await publish(listener, world.topic("down"), payload, 1)
    assert (await receive(listener)).payload == payload
    assert (await receive(client)).payload == payload


@for_each(PLAIN)
async def test_topics_in_any_script(world: World, variant: Variant) -> None:
    topic = world.topic("größe/温度/🌡 %+20/$x".replace("+", "p"))
    client = await world.enter(variant)
    other = await world.listener(topic, 1)
    await subscribe(client, world.topic("größe/+/#"), 1)
    await publish(client, topic, "21,5 °C".encode(), 1)
    assert await receive(client) == await receive(other) == Message(topic, "21,5 °C".encode(), 1)


@for_each(PLAIN)
async def test_retained(world: World, variant: Variant) -> None:
    topic = world.topic("state")
    client = await world.enter(variant)
    await publish(client, topic, b"on", 1, retain=True)
    assert await receive(await world.listener(topic)) == Message(topic, b"on", 1, retain=True)
    await subscribe(client, topic, 1)
    assert await receive(client) == Message(topic, b"on", 1, retain=True)
    # Published while it listens, the flag is gone: it was not kept for it.
    await publish(await world.other(), topic, b"off", 1, retain=True)
    assert await receive(client) == Message(topic, b"off", 1)
    await publish(client, topic, b"", 1, retain=True)
    assert await receive(client) == Message(topic, b"", 1)
    late = await world.listener(topic)
    await publish(client, topic, b"marker", 1)
    assert (await receive(late)).payload == b"marker"


@for_each(PLAIN)
async def test_the_last_will_of_one_that_is_cut_off(world: World, variant: Variant) -> None:
    listener = await world.listener(world.topic("gone"))
    wire, address = await world.wired(variant)
    client = await world.enter(variant, address, will=Message(world.topic("gone"), b"cut off", 1))
    await subscribe(client, world.topic("x"), 1)
    wire.cut()
    assert await receive(listener) == Message(world.topic("gone"), b"cut off", 1)


@for_each(PLAIN, without="good-bye")
async def test_no_will_of_one_that_says_good_bye(world: World, variant: Variant) -> None:
    listener = await world.listener(world.topic("gone"))
    client = await world.enter(variant, will=Message(world.topic("gone"), b"cut off", 1))
    await subscribe(client, world.topic("x"), 1)
    await client.disconnect()
    await publish(listener, world.topic("gone"), b"marker", 1)
    assert (await receive(listener)).payload == b"marker"


@for_each(PLAIN)
async def test_a_session_waits(world: World, variant: Variant) -> None:
    options = Options(world.client_id(), clean=False, session_expiry_s=300)
    qos = 1 if "qos2" in variant.lacks else 2
    client = world.make(variant)
    assert not await connect(client, options)
    await subscribe(client, world.topic("#"), qos)
    await client.disconnect()
    other = await world.other()
    sent = [Message(world.topic(f"{n}"), b"%d" % n, 1 + n % qos) for n in range(6)]
    for message in sent:
        await publish(other, message.topic, message.payload, message.qos)
    again = world.make(variant)
    present = await rejoin(again, variant, options, world.topic("#"), qos)
    assert present in ({True, None} if variant.level > 3 else {False, None})  # 3.1 cannot say it
    got = [await receive(again) for _ in sent]
    for each in (1, 2):  # a message of QoS 2 is the client's only after its PUBREL
        assert [m for m in got if m.qos == each] == [m for m in sent if m.qos == each]
    await again.disconnect()
    # Cleaned, it has neither the session nor the subscription.
    clean = world.make(variant)
    assert not await connect(clean, replace(options, clean=True, session_expiry_s=0))
    await subscribe(clean, world.topic("marker"), 1)
    await publish(other, world.topic("not/for/it"), b"", 1)
    await publish(other, world.topic("marker"), b"", 1)
    assert (await receive(clean)).topic == world.topic("marker")


@for_each(PLAIN, level=5)
async def test_properties_arrive(world: World, variant: Variant) -> None:
    told = {
        "content_type": "text/plain",
        "response_topic": world.topic("answers"),
        "correlation": b"number-7",
        "user": (("a", "1"), ("a", "2"), ("größe", "ü")),
    }
    listener = await world.listener(world.topic("up"))
    client = await world.enter(variant)
    await subscribe(client, world.topic("down"), 1)
    await publish(client, world.topic("up"), b"x", 1, **told)
    await publish(listener, world.topic("down"), b"x", 1, **told)
    assert await receive(listener) == Message(world.topic("up"), b"x", 1, **told)  # type: ignore[arg-type]  # as named
    assert await receive(client) == Message(world.topic("down"), b"x", 1, **told)  # type: ignore[arg-type]  # as named


@for_each(PLAIN, level=5)
async def test_a_request_of_mosquitto_rr_is_answered(world: World, variant: Variant) -> None:
    client = await world.enter(variant)
    await subscribe(client, world.topic("requests"), 1)
    port = world.broker.address("tcp").port
    asking = await asyncio.create_subprocess_exec(
        "mosquitto_rr", "-p", str(port), "-h", "127.0.0.1", "-q", "1", "-W", str(WAIT_S), "-t", world.topic("requests"),
        "-e", world.topic("answers"), "-m", "how warm?", "-D", "PUBLISH", "correlation-data", "number-7", "-F", "%D %p",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    request = await receive(client)
    assert (request.payload, request.response_topic, request.correlation) == (
        b"how warm?",
        world.topic("answers"),
        b"number-7",
    )
    assert request.response_topic is not None
    await publish(client, request.response_topic, b"21.5", 1, correlation=request.correlation)
    assert (await asking.communicate())[0] == b"number-7 21.5\n"
    assert asking.returncode == 0


@for_each(PLAIN, level=5)
async def test_a_shared_subscription_gives_each_message_to_one(world: World, variant: Variant) -> None:
    members = [await world.enter(variant) for _ in range(2)]
    for member in members:
        assert await subscribe(member, f"$share/group/{world.topic('work')}", 1) == 1
    other = await world.listener(world.topic("work"), 1)
    sent = [b"%d" % n for n in range(40)]
    for payload in sent:
        await publish(other, world.topic("work"), payload, 1)
    assert [(await receive(other)).payload for _ in sent] == sent
    async with asyncio.timeout(WAIT_S):
        while sum(member.received.qsize() for member in members) < len(sent):  # noqa: ASYNC110  # two queues, no event
            await asyncio.sleep(0.02)
    got = [[member.received.get_nowait().payload for _ in range(member.received.qsize())] for member in members]
    assert sorted(got[0] + got[1], key=int) == sent
    assert got[0] != []
    assert got[1] != []


@for_each(PLAIN, level=5)
async def test_messages_expire(world: World, variant: Variant) -> None:
    options = Options(world.client_id(), clean=False, session_expiry_s=300)
    client = world.make(variant)
    await connect(client, options)
    await subscribe(client, world.topic("#"), 1)
    await client.disconnect()
    other = await world.other()
    await publish(other, world.topic("short"), b"", 1, expiry_s=1)
    await publish(other, world.topic("long"), b"", 1, expiry_s=600)
    await asyncio.sleep(2)  # it has expired by then, however slow we are
    again = world.make(variant)
    await rejoin(again, variant, options, world.topic("#"))
    message = await receive(again)
    assert message.topic == world.topic("long")
    assert message.expiry_s is not None
    assert 0 < message.expiry_s < 600


async def test_a_broker_that_comes_back_is_found_again(world: World) -> None:
    """All at once: the supervisor takes its time with what dies again and again."""
    there = {variant: await _Returning.arrive(world, variant) for variant in VARIANTS}
    await asyncio.to_thread(world.broker.kill_and_restart)
    other = await world.other()
    for returning in there.values():
        await publish(other, returning.topic, b"while it was away, perhaps", 1)
    found = await asyncio.gather(*(r.is_back() for r in there.values()), return_exceptions=True)
    assert {str(v): repr(e) for v, e in zip(there, found, strict=True) if e is not None} == {}
    for returning in there.values():
        await publish(other, returning.topic, b"afterwards", 1)
        assert (await receive(returning.client)).payload == b"afterwards", returning.variant


@dataclass(frozen=True, slots=True)
class _Returning:
    """A client with a session, before and after its broker was killed."""

    variant: Variant
    client: Client
    options: Options
    topic: str
    connections: int

    @classmethod
    async def arrive(cls, world: World, variant: Variant) -> _Returning:
        options = Options(world.client_id(), clean=False, session_expiry_s=300)
        topic = world.topic(options.client_id)
        client = world.make(variant)
        await connect(client, options)
        await subscribe(client, topic, 1)
        return cls(variant, client, options, topic, client.connections)

    async def is_back(self) -> None:
        """By itself where the library does that, and with what came meanwhile."""
        if "reconnecting" in self.variant.lacks:
            await self.client.disconnect()
            await rejoin(self.client, self.variant, self.options, self.topic)
        async with asyncio.timeout(WAIT_S):
            while self.client.connections == self.connections:  # noqa: ASYNC110  # set by libraries that know no event
                await asyncio.sleep(0.02)
        assert (await receive(self.client)).payload == b"while it was away, perhaps"


async def rejoin(client: Client, variant: Variant, options: Options, topic_filter: str, qos: int = 1) -> bool | None:
    """Back into its session, as which it has the subscription. mosquitto_sub comes with it each time."""
    present = await connect(client, options)
    if variant.name == "mosquitto":
        await subscribe(client, topic_filter, qos)
    return present

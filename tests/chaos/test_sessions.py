"""Persistent sessions, and a shared subscription of some, on three gateways that are killed and started again at random."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from headwater.testing.load import Credentials
from tests.chaos.sessions import Publisher, Subscriber
from tests.chaos.waiting import until
from tests.chaos.world import BACK_S, register, what_they_said
from tests.support.installation import Installation, installation

SEED = int(os.environ.get("CHAOS_SEED", "20261125"))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "180"))
RATE = 500
"""Messages a second, of all publishers."""
PAIRS = 10
EXACTLY_ONCE = 3
"""Publishers at QoS 2, of the PAIRS."""
MEMBERS = 3
"""Of a shared subscription to everything, at QoS 2."""
PAUSE_S = (1.0, 8.0)
"""Between two kills: sometimes two of the three gateways are away."""
FROZEN_S = (6.0, 12.0)
"""Longer than gateways wait for each other."""
MIDWAY_MAX = 3
"""Of a publisher: a gateway may be stopped between the last look at a session and the socket."""
FROZEN_PATIENCE_S = 2.0
"""Of clients: much shorter than a gateway stands still."""
GATEWAYS = ("gateway-0", "gateway-1", "gateway-2")
DEFINITION = {"publish": ["#"], "subscribe": ["#"]}
SETTLE_S = 60.0

Strike = Callable[[Installation, random.Random], Coroutine[Any, Any, None]]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 400)
async def test_sessions_outlive_their_gateways(directory: Path) -> None:
    await _survives(directory, Ordeal(partial(_kill, GATEWAYS), SECONDS))


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_sessions_outlive_nats_and_the_registry_as_well(directory: Path) -> None:
    await _survives(directory, Ordeal(partial(_kill, (*GATEWAYS, "nats", "nats", "postgres")), SECONDS / 4))


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_sessions_outlive_gateways_that_stand_still(directory: Path) -> None:
    """For long enough that others take them for dead; and then they go on."""
    await _survives(directory, Ordeal(_freeze, SECONDS / 4, FROZEN_PATIENCE_S, MIDWAY_MAX))


@dataclass(frozen=True)
class Ordeal:
    """patience_s  of clients: a connection on which nothing comes for so long is given up
    twice_max   messages of a publisher at QoS 2 that may come twice; 0 wherever a test does not say why not
    """

    strike: Strike
    seconds: float
    patience_s: float = 15.0
    twice_max: int = 0


async def _survives(directory: Path, ordeal: Ordeal) -> None:
    with installation(directory, "--gateways", str(len(GATEWAYS))) as up:
        ready = await asyncio.to_thread(up.up)
        credentials = list(
            (
                await register(directory, ready["http_url"], ready["admin_token"], 2 * PAIRS + 1 + MEMBERS, DEFINITION)
            ).values()
        )
        try:
            await _go_through(up, credentials, ordeal)
        except BaseException as error:
            error.add_note(f"CHAOS_SEED={SEED}")
            error.add_note(what_they_said(up.home / "logs"))
            raise


async def _go_through(up: Installation, credentials: list[Credentials], ordeal: Ordeal) -> None:
    port = up.ports["mqtt"]
    publishers, subscribers = [], []
    for number in range(PAIRS):
        qos = 2 if number < EXACTLY_ONCE else 1
        publishers.append(Publisher(f"p{number}", port, credentials.pop(), topic=f"c/{number}", qos=qos))
        subscribers.append(Subscriber(f"s{number}", port, credentials.pop(), topic_filter=f"c/{number}", qos=2))
    everything = Subscriber("all", port, credentials.pop(), topic_filter="c/#", qos=1)
    share = "$share/team/c/#"
    members = [Subscriber(f"m{n}", port, credentials.pop(), topic_filter=share, qos=2) for n in range(MEMBERS)]
    listeners = [*subscribers, everything, *members]
    for client in (*publishers, *listeners):
        client.patience_s = ordeal.patience_s
    tasks = [asyncio.create_task(client.run()) for client in (*publishers, *listeners)]
    try:
        async with asyncio.timeout(BACK_S):
            for listener in listeners:
                await listener.subscribed.wait()
        striking = asyncio.create_task(ordeal.strike(up, random.Random(SEED)))
        await _publish(publishers, ordeal.seconds)
        striking.cancel()
        assert not [task.exception() for task in tasks if task.done()]
        await until(
            lambda: all(p.is_done for p in publishers), SETTLE_S, lambda: [p.sent - len(p.acknowledged) for p in publishers]
        )
        expected = sum(p.sent for p in publishers)
        await until(
            lambda: (
                sum(len(set(got)) for got in everything.got.values()) == expected
                and all(len(set(s.got.get(p.name, ()))) == p.sent for s, p in zip(subscribers, publishers, strict=True))
            ),
            SETTLE_S,
            lambda: [
                (p.name, p.sent, *(sorted(set(range(p.sent)) - set(one.got.get(p.name, ()))) for one in (s, everything)))
                for s, p in zip(subscribers, publishers, strict=True)
            ],
        )
        await until(
            lambda: all(len(set(_shared(p, members))) == p.sent for p in publishers), SETTLE_S,
            lambda: [(p.name, p.sent, len(set(_shared(p, members)))) for p in publishers],
        )  # fmt: skip
    finally:
        for client in (*publishers, *listeners):
            client.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
    _judge(publishers, subscribers, everything, ordeal.twice_max)
    for publisher in publishers:
        if publisher.qos == 2:
            copies = Counter(_shared(publisher, members))
            assert set(copies) == set(range(publisher.sent)), f"{publisher.name} to the group: lost"
            twice = [number for number, count in copies.items() if count > 1]
            assert len(twice) <= ordeal.twice_max, f"{publisher.name} to the group: QoS 2 delivered twice: {twice}"
    assert expected > 0.3 * RATE * ordeal.seconds, "they were away for most of the time"


async def _kill(victims: Sequence[str], up: Installation, chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        pid = up.children()[chance.choice(victims)]["pid"]
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


async def _freeze(up: Installation, chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        pid = up.children()[chance.choice(GATEWAYS)]["pid"]
        if pid is None:
            continue
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(chance.uniform(*FROZEN_S))
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def _publish(publishers: list[Publisher], seconds: float) -> None:
    """At RATE, as far as windows and connections allow."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for publisher in publishers:
            publisher.publish()
        await asyncio.sleep(len(publishers) / RATE)


def _shared(publisher: Publisher, members: list[Subscriber]) -> list[int]:
    """What the members of the group got of it."""
    return [number for member in members for number in member.got.get(publisher.name, ())]


def _judge(publishers: list[Publisher], subscribers: list[Subscriber], everything: Subscriber, twice_max: int) -> None:
    for publisher, subscriber in zip(publishers, subscribers, strict=True):
        for listener in (subscriber, everything):
            got = listener.got[publisher.name]
            firsts = list(dict.fromkeys(got))
            assert firsts == sorted(firsts), f"{publisher.name} to {listener.name}: order"
            assert firsts == list(range(publisher.sent)), f"{publisher.name} to {listener.name}: lost"
        if publisher.qos == 2:
            twice = len(subscriber.got[publisher.name]) - publisher.sent
            assert twice <= twice_max, f"{publisher.name}: QoS 2 delivered twice, {twice} messages"

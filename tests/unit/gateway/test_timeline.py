"""What a gateway says of its devices' timelines stays bounded, whoever makes it happen, and never waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from tests.support.clock import FakeClock

from headwater.device.authentication import Claim
from headwater.gateway import timeline as module
from headwater.gateway.timeline import BURST, HELD_MAX, STRANGERS_BURST, SUMMARY_S, Timeline, host_of
from headwater.ids import uuid7
from headwater.ingest.ports import StreamUnavailable
from headwater.stream.timeline import Event, TimelineEntry, decode_entries

TENANT, DEVICE, GATEWAY = uuid7(), uuid7(), uuid7()


@dataclass
class World:
    """A timeline whose time stands still, and a stream in memory that may be away."""

    entries: list[TimelineEntry] = field(default_factory=list)
    now: float = 1_000.0
    away: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.timeline = Timeline(self, GATEWAY, self.clock, now=lambda: self.now)

    async def publish(self, subject: str, payload: bytes) -> int:
        if self.away:
            raise StreamUnavailable("away")
        self.entries += decode_entries(payload)
        self.arrived.set()
        return len(self.entries)

    def denied(self, device: UUID = DEVICE, topic: str = "a/b") -> None:
        self.timeline.say(Event.TOPIC_DENIED, tenant_id=TENANT, device_id=device, address="203.0.113.7:1", detail=topic)

    def refused(self, address: str, *, code: str = "device.refused", claim: Claim = module.NO_CLAIM) -> None:
        self.timeline.say(Event.AUTHENTICATION_FAILED, address=address, code=code, client_id="c", claim=claim)

    async def told(self, *, summaries: bool = False) -> list[TimelineEntry]:
        if summaries:
            self.timeline.summarise()
        await self.timeline._publish_pending()
        return self.entries


@pytest.fixture
async def world() -> World:
    return World()


async def test_an_entry_holds_what_was_said(world: World) -> None:
    world.timeline.say(
        Event.CONNECTED, tenant_id=TENANT, device_id=DEVICE, address="[2001:db8::7]:51342", client_id="c-1",
        protocol="mqtt/5", listener="mqtts", code="x", detail="y" * 1_000,
    )  # fmt: skip
    [entry] = await world.told()
    assert (entry.tenant, entry.device, entry.gateway) == (TENANT.bytes, DEVICE.bytes, GATEWAY.bytes)
    assert (entry.event, entry.at, entry.count) == ("connected", world.clock.now_us(), 1)
    assert (entry.address, entry.client_id, entry.protocol, entry.listener) == ("2001:db8::7", "c-1", "mqtt/5", "mqtts")
    assert (entry.code, len(entry.detail)) == ("x", module.TEXT_LENGTH_MAX)


async def test_a_flood_of_one_device_is_a_few_entries_and_a_count(world: World) -> None:
    for n in range(10_000):
        world.denied(topic=f"a/{n}")
    world.timeline.say(Event.DISCONNECTED, tenant_id=TENANT, device_id=DEVICE, code="topic_denied")
    entries = await world.told(summaries=True)
    assert [entry.count for entry in entries] == [1] * BURST + [10_000 - BURST, 1]
    assert entries[-1].event == "disconnected"
    assert sum(entry.count for entry in entries) == world.timeline.said_total
    assert world.timeline.counted_total == 10_001 - BURST


async def test_after_a_flood_there_is_an_entry_and_a_count_a_minute(world: World) -> None:
    for _ in range(BURST):
        world.denied()
    for _ in range(3):
        world.now += SUMMARY_S
        for _ in range(100):
            world.denied()
        await world.told(summaries=True)
    assert [entry.count for entry in world.entries[BURST:]] == [1, 99] * 3


async def test_a_flood_of_one_takes_nothing_from_another(world: World) -> None:
    other = uuid7()
    for _ in range(1_000):
        world.denied()
    world.denied(other)
    assert [entry.count for entry in await world.told() if entry.device == other.bytes] == [1]


async def test_of_one_address_different_claims_are_counted_apart_up_to_a_bound(world: World) -> None:
    """A carrier's NAT has many devices behind it; somebody who tries names has no end of them."""
    claims = [Claim(uuid7()) for _ in range(100)]
    for _ in range(10):
        for claim in claims:
            world.refused("203.0.113.7:1", claim=claim)
    entries = (await world.told(summaries=True))[BURST:]
    assert len(entries) == HELD_MAX + 1
    named = [entry for entry in entries if entry.credential]
    assert len(named) == HELD_MAX
    [rest] = [entry for entry in entries if not entry.credential]
    assert (rest.client_id, rest.count) == ("", 1_000 - BURST - sum(entry.count for entry in named))


async def test_many_addresses_do_not_what_one_may_not(world: World) -> None:
    for n in range(3_000):
        world.refused(f"10.{n >> 8}.{n & 255}.1:5", claim=Claim(name=f"n{n}"))
    entries = await world.told(summaries=True)
    assert len(entries) == STRANGERS_BURST + 1
    assert (entries[-1].address, entries[-1].name, entries[-1].count) == ("", "", 3_000 - STRANGERS_BURST)
    world.denied()
    assert (await world.told())[-1].event == "topic.denied", "a device that we know has its own room"


async def test_all_addresses_of_an_ipv6_network_are_one(world: World) -> None:
    for n in range(1_000):
        world.refused(f"[2001:db8:0:1::{n:x}]:5")
    assert len(await world.told(summaries=True)) == BURST + 1


async def test_what_is_remembered_is_bounded_and_nothing_counted_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPEAKERS_MAX", 10)
    devices = [uuid7() for _ in range(50)]
    for device in devices:
        for _ in range(BURST + 5):
            world.denied(device)
    assert len(world.timeline._speakers) == 10
    assert sum(entry.count for entry in await world.told(summaries=True)) == 50 * (BURST + 5)
    world.now += BURST * module.REFILL_S
    world.timeline.summarise()
    assert world.timeline._speakers == {}


async def test_while_the_stream_is_away_entries_wait_up_to_a_bound_and_losses_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PENDING_MAX", 20)
    world.away = True
    for _ in range(BURST):
        world.denied()
    assert await world.told() == []
    assert world.timeline.lost_total == BURST - 20
    world.away = False
    assert len(await world.told()) == 20


async def test_it_tells_by_itself_and_what_is_left_at_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_S", 0.0)
    world.timeline.open()
    world.denied()
    async with asyncio.timeout(10):
        await world.arrived.wait()
    for _ in range(BURST + 1):
        world.denied()
    await world.timeline.close()
    assert sum(entry.count for entry in world.entries) == BURST + 2
    assert world.timeline.lost_total == 0


def test_addresses_lose_their_port() -> None:
    shown = {"203.0.113.7:1": "203.0.113.7", "203.0.113.7": "203.0.113.7", "[::1]:1": "::1", "fe80::1": "fe80::1", "": ""}
    assert {address: host_of(address) for address in shown} == shown

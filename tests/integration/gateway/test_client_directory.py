"""Which gateway has a client: each connection is told to one of them, and the older connection of a client gives way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import nats
import pytest

from headwater.gateway import roster as roster_module
from headwater.gateway.mqtt.client_directory import ClientDirectory, ClientKey
from headwater.gateway.roster import Roster


class Gateway:
    """As much of one as a directory needs: connections, each a client and when it came."""

    def __init__(self, nats_client: Any, gateway_id: UUID) -> None:
        self.nats = nats_client
        self.connections: dict[ClientKey, int] = {}
        self.ended: list[ClientKey] = []
        self.directory = ClientDirectory(nats_client, gateway_id)
        self.directory.here, self.directory.overtaken = self.connections.items, self._overtaken
        self.roster = Roster(nats_client, gateway_id)
        self.roster.changed = self.directory.share_out
        self.saying: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.directory.open()
        await self.roster.open()
        self.saying = asyncio.create_task(self.roster.say_for_ever())

    def connect(self, client: ClientKey, arrival: int) -> None:
        self.connections[client] = arrival
        self.directory.came((client, arrival))

    def disconnect(self, client: ClientKey) -> None:
        self.directory.left((client, self.connections.pop(client)))

    def _overtaken(self, client: ClientKey, arrival: int) -> None:
        if self.connections.get(client, arrival) < arrival:
            self.disconnect(client)
            self.ended.append(client)

    async def leave(self) -> None:
        await self.die(farewell=True)

    async def die(self, *, farewell: bool = False) -> None:
        assert self.saying is not None
        self.saying.cancel()
        if farewell:
            await self.roster.close()
        await self.nats.close()

    @property
    def heard(self) -> int:
        return int(self.nats.stats["in_msgs"])


class World:
    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self.gateways: list[Gateway] = []

    async def grow(self, count: int) -> list[Gateway]:
        for _ in range(count):
            self.gateways.append(await self._start())
        await self.until(lambda: all(len(each.roster.here) == len(self.gateways) for each in self.gateways))
        return self.gateways

    @staticmethod
    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110  # several clients of NATS: no event says that all have heard
                await asyncio.sleep(0.01)

    @property
    def kept(self) -> int:
        """Clients of whom somebody knows; an earlier keeper may know of one, too, until it refreshes."""
        return len({client for each in self.gateways for client in each.directory._kept})


@pytest.fixture
async def world(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(roster_module, "HELLO_S", 0.05)
    monkeypatch.setattr(roster_module, "BELIEVED_S", 2.0)
    async with AsyncExitStack() as stack:

        async def start() -> Gateway:
            gateway = Gateway(await nats.connect(nats_url, allow_reconnect=False), uuid4())
            stack.push_async_callback(gateway.die)
            await gateway.open()
            return gateway

        yield World(start)


def clients(count: int) -> list[ClientKey]:
    return [uuid4().bytes + uuid4().bytes for _ in range(count)]


async def test_the_older_connection_gives_way_wherever_the_client_comes_to(world: World) -> None:
    gateways = await world.grow(4)
    names = clients(200)
    for number, client in enumerate(names):
        gateways[number % 4].connect(client, 1_000)
    await world.until(lambda: world.kept == 200)
    for number, client in enumerate(names):
        gateways[(number + 1) % 4].connect(client, 2_000)
    await world.until(lambda: sum(len(each.ended) for each in gateways) == 200)
    for number, client in enumerate(names):
        assert client in gateways[number % 4].ended
        assert gateways[(number + 1) % 4].connections[client] == 2_000
    assert world.kept == 200


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1), (1, 1)], ids=["in turn", "late news", "at one moment"])
async def test_of_two_connections_exactly_one_stays(world: World, first: int, second: int) -> None:
    one, other, _ = await world.grow(3)
    names = clients(50)
    for client in names:
        one.connect(client, first)
        other.connect(client, second)
    await world.until(lambda: len(one.ended) + len(other.ended) == 50)
    assert {*one.connections, *other.connections} == {*names}
    if first != second:
        assert len((one if first < second else other).ended) == 50


async def test_who_has_left_is_forgotten_and_costs_nobody_anything(world: World) -> None:
    one, other = await world.grow(2)
    names = clients(100)
    for client in names:
        one.connect(client, 1)
        one.disconnect(client)
        one.connect(client, 2)
    await world.until(lambda: world.kept == 100)
    for client in names:
        one.disconnect(client)
        other.connect(client, 3)
    await world.until(lambda: world.kept == 100)
    for client in names:
        other.disconnect(client)
    await world.until(lambda: world.kept == 0)
    assert not one.ended
    assert not other.ended


@pytest.mark.parametrize("farewell", [True, False], ids=["stopped", "killed"])
async def test_clients_of_before_are_found_when_gateways_come_and_go(world: World, farewell: bool) -> None:
    """Those that came when a gateway was alone, and those whose keeper is gone."""
    first = (await world.grow(1))[0]
    names = clients(300)
    for client in names:
        first.connect(client, 1)
    assert world.kept == 0
    second, third = (await world.grow(2))[1:]
    await world.until(lambda: world.kept == 300 and min(len(each.directory) for each in world.gateways) > 50)
    world.gateways.remove(third)
    await third.die(farewell=farewell)
    await world.until(lambda: len(first.roster.here) == len(second.roster.here) == 2)
    await world.until(lambda: world.kept == 300)
    for client in names:
        second.connect(client, 2)
    await world.until(lambda: len(first.ended) == 300)
    assert not second.ended


async def test_what_a_keeper_forgot_is_told_again(world: World) -> None:
    one, other = await world.grow(2)
    names = clients(50)
    for client in names:
        one.connect(client, 1)
    await world.until(lambda: world.kept == 50)
    for each in world.gateways:
        each.directory._kept.clear()
    one.directory.refresh()
    other.directory.refresh()
    await world.until(lambda: world.kept == 50)


async def test_a_connection_is_told_to_one_gateway_however_many_there_are(world: World) -> None:
    gateways = await world.grow(8)
    for each in gateways:  # the hellos are no part of it
        assert each.saying is not None
        each.saying.cancel()
    await asyncio.sleep(0.1)
    before = sum(each.heard for each in gateways)
    for client in clients(400):
        gateways[0].connect(client, 1)
        await asyncio.sleep(0.006)  # each a message of its own
    await world.until(lambda: world.kept == 400)
    assert sum(each.heard for each in gateways) - before <= 400

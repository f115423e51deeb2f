"""Where scenarios play: a broker, a name for everything so that no scenario meets another, and the table of scenarios."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from headwater.protocols.mqtt import Connect, Properties, Will
from tests.conformance.client import ANSWER_S, Client

FOR_EVER = Properties(session_expiry_s=0xFFFF_FFFF)


class Stage:
    """One broker and one level. `topic` and `client_id` make names that only this scenario uses.

    ports  of the broker: clients connect to them in turn
    """

    def __init__(self, ports: tuple[int, ...], level: int, name: str, patience_s: float = ANSWER_S) -> None:
        self._ports = itertools.cycle(ports)
        self._patience_s = patience_s
        self.level = level
        self._name = f"{name}-v{level}"
        self._clients: list[Client] = []
        self._fences = 0

    def topic(self, name: str = "t") -> str:
        return f"{self._name}/{name}"

    def client_id(self, name: str) -> str:
        return f"{self._name}-{name}"

    async def connect(
        self,
        name: str,
        *,
        level: int = 0,
        clean: bool = True,
        keep_alive_s: int = 60,
        will: Will | None = None,
        properties: Properties | None = None,
    ) -> Client:
        """Whatever the CONNACK says. What a version does not have is left out."""
        level = level or self.level
        own = properties if properties and level == 5 else Properties()
        connect = Connect(self.client_id(name), level, clean, keep_alive_s, will=will, properties=own)
        return await self._open(connect)

    async def connect_as(self, client_id: str, *, clean: bool = True, properties: Properties | None = None) -> Client:
        """Under a name that the scenario has not chosen."""
        return await self._open(Connect(client_id, self.level, clean, 60, properties=properties or Properties()))

    async def _open(self, connect: Connect) -> Client:
        client = await Client.open(next(self._ports), connect, self._patience_s)
        self._clients.append(client)
        return client

    async def client(self, name: str, **connect: Any) -> Client:
        """Connected."""
        client = await self.connect(name, **connect)
        assert client.connack.reason == 0
        return client

    async def kept(self, name: str, *, properties: Properties = FOR_EVER, **connect: Any) -> Client:
        """Connected to a session that outlives the connection."""
        return await self.client(name, clean=False, properties=properties, **connect)

    async def quiet(self, *clients: Client) -> None:
        """Nothing is on its way to them: a message that is published now is the next that each of them gets."""
        fencer = await self.client(f"fencer-{self._fences}", level=4)
        for client in clients:
            self._fences += 1
            fence = self.topic(f"fence/{self._fences}")
            await client.subscribe(fence, 0)
            await fencer.publish(fence, b"fence", 1)
            packet = await client.next()
            topic = getattr(packet, "topic", None)
            assert topic == fence or (topic == "" and getattr(packet, "payload", b"") == b"fence"), packet
            await client.unsubscribe(fence)
        await fencer.leave()

    async def later(self, seconds: float) -> None:
        """What a standard counts in whole seconds cannot be hurried."""
        await asyncio.sleep(seconds)

    async def clear(self) -> None:
        """Leave no session and no connection behind."""
        for client in self._clients:
            await client.drop()


Play = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    clauses: tuple[str, ...]
    play: Play
    levels: tuple[int, ...]
    mosquitto: str
    """Why a mosquitto 2.0 fails it; checked too, so that no scenario claims a difference that is gone."""

    @property
    def name(self) -> str:
        return self.play.__name__


@dataclass
class Scenarios:
    table: list[Scenario] = field(default_factory=list)

    def __call__(self, *clauses: str, levels: tuple[int, ...] = (4, 5), mosquitto: str = "") -> Callable[[Play], Play]:
        """Clause ids of MQTT 5.0, without "MQTT-"; with " v3" those that only 3.1.1 has."""

        def add(play: Play) -> Play:
            self.table.append(Scenario(clauses, play, levels, mosquitto))
            return play

        return add


scenario = Scenarios()

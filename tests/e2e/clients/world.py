"""A scenario's world: the broker, the client that is tried, and others, which are Paho's and known to be good."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from .brokers import Broker
from .client import Address, Client, Message, Options
from .paho_client import PahoClient
from .variants import Variant
from .wire import Wire, wire

WAIT_S = 20
"""For a message that will come: much longer than it takes on a busy machine."""


class World:
    def __init__(self, broker: Broker, stack: contextlib.AsyncExitStack) -> None:
        self.broker = broker
        self._stack = stack
        self._name = f"t{uuid.uuid4().hex[:10]}"
        self._numbers = itertools.count()

    def topic(self, rest: str = "a") -> str:
        """One that no other scenario uses."""
        return f"{self._name}/{rest}"

    def client_id(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def make(self, variant: Variant, address: Address | None = None) -> Client:
        client = variant.make(address or self.broker.address(variant.transport), variant.level)
        self._stack.push_async_callback(_leave, client)
        return client

    async def enter(self, variant: Variant, address: Address | None = None, **options: Any) -> Client:
        """The client under trial, connected."""
        client = self.make(variant, address)
        await connect(client, Options(**{"client_id": self.client_id(), **options}))
        return client

    async def other(self, **options: Any) -> Client:
        client = PahoClient(self.broker.address("tcp"), 5)
        self._stack.push_async_callback(_leave, client)
        await connect(client, Options(**{"client_id": self.client_id(), **options}))
        return client

    async def listener(self, topic_filter: str, qos: int = 2) -> Client:
        """Another client that has subscribed."""
        other = await self.other()
        assert await subscribe(other, topic_filter, qos) == qos
        return other

    async def wired(self, variant: Variant) -> tuple[Wire, Address]:
        address = self.broker.address(variant.transport)
        made = await self._stack.enter_async_context(wire(address.port))
        return made, replace(address, port=made.port)


@contextlib.asynccontextmanager
async def world_of(broker: Broker) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        yield World(broker, stack)


async def connect(client: Client, options: Options) -> bool | None:
    async with asyncio.timeout(WAIT_S):
        return await client.connect(options)


async def subscribe(client: Client, topic_filter: str, qos: int = 2) -> int:
    async with asyncio.timeout(WAIT_S):
        return await client.subscribe(topic_filter, qos)


async def publish(client: Client, topic: str, payload: bytes = b"", qos: int = 0, **more: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        await client.publish(Message(topic, payload, qos, **more))


async def receive(client: Client) -> Message:
    async with asyncio.timeout(WAIT_S):
        return await client.received.get()


async def _leave(client: Client) -> None:
    """A client may have been cut off, or never have come in."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(WAIT_S):
            await client.disconnect()

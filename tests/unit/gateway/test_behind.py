"""Messages that come while the log is asked for older ones: they are in no answer, and must not be taken for gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from tests.support.gateways import eventually

from headwater.gateway.mqtt import space as space_module
from headwater.gateway.mqtt.delivery import Delivery
from headwater.gateway.mqtt.space import Space
from headwater.protocols.mqtt import Connect, Limits, PacketReader, Publish, ServerSession, encode_packet
from headwater.stream.envelope import Message
from headwater.stream.message_log import LoggedBatch
from headwater.stream.session_store import StoredSubscription

TENANT = UUID(int=1)
MESSAGE = Message("t", b"x", 1)


class Log:
    """Answers the first question before message 5 has come, which then does, and the others after that."""

    def __init__(self) -> None:
        self.asked = 0
        self.comes: Callable[[], Awaitable[None]]

    async def read(self, tenant_id: UUID, sequence: int, batches: int, *, known: int = 0) -> list[LoggedBatch]:
        self.asked += 1
        if self.asked == 1:
            await self.comes()
            return []
        return [LoggedBatch(5, [MESSAGE])] if sequence <= 5 else []


class Connection:
    alive = has_room = True
    client_key = b"listener"

    def __init__(self) -> None:
        self.session = ServerSession(Limits(), 0.0)
        self.session.receive(encode_packet(Connect("listener")), 0.0)
        self.session.accept(0.0)
        self.session.take_outgoing()

    client_id = "listener"
    closed_with = 0

    def flush(self) -> None:
        pass

    def close(self, reason: int, _detail: str) -> None:
        self.closed_with = reason

    def messages(self) -> list[Any]:
        return PacketReader().feed(self.session.take_outgoing())


def subscribed() -> tuple[Log, Space, Delivery, Connection]:
    log, connection = Log(), Connection()
    space = Space(TENANT, None, log)
    delivery = Delivery(connection, space, None)
    subscription = StoredSubscription("t", 1)
    delivery.subscriptions["t"] = subscription
    space.subscribers.insert(delivery, subscription)
    space.deliveries.add(delivery)
    space.place = (5, 0)
    return log, space, delivery, connection


async def test_a_client_that_resumes_is_sent_what_comes_meanwhile() -> None:
    log, space, delivery, connection = subscribed()
    log.comes = lambda: space._hand_out([MESSAGE], 5)
    delivery.begin_again([], (5, 0))
    delivery.resume({})
    await eventually(lambda: not delivery.lagging and delivery._reading is None, "it has caught up")
    assert connection.messages() == [Publish("t", b"x", 1, packet_id=1)]


async def test_a_space_that_repairs_itself_hands_out_what_comes_meanwhile() -> None:
    log, space, _, connection = subscribed()

    async def comes() -> None:
        space._seen = 5  # what `_receive` does of a message while the log is read

    log.comes = comes
    space.repair()
    await eventually(lambda: space._repairing is None, "it has caught up")
    assert connection.messages() == [Publish("t", b"x", 1, packet_id=1)]
    assert space.place == (6, 0)


async def test_one_client_that_cannot_be_served_keeps_nothing_from_the_others() -> None:
    _, space, delivery, connection = subscribed()
    broken = Connection()
    other = Delivery(broken, space, None)
    space.subscribers.insert(other, StoredSubscription("t", 1))
    broken.session.disconnect(0x8B)  # and nobody has taken it out of the space
    await space._hand_out([MESSAGE, MESSAGE], 5)
    assert [message.payload for message in connection.messages()] == [b"x", b"x"]
    assert (connection.closed_with, broken.closed_with) == (0, 0x89)
    assert space.place == (6, 0)
    assert delivery.connection is connection


async def test_nothing_is_sent_before_the_connack() -> None:
    _, space, _, connection = subscribed()
    connection.session = ServerSession(Limits(), 0.0)
    connection.session.receive(encode_packet(Connect("listener")), 0.0)
    await space._hand_out([Message("t", b"x", 0)], 0)
    assert connection.closed_with == 0
    assert connection.session.take_outgoing() == b""


async def test_what_is_published_here_keeps_its_order_when_others_have_their_turn_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(space_module, "TURN_DELIVERIES", 0)
    _, space, _, connection = subscribed()
    batches = [[Message("t", f"{batch} {n}".encode(), 0) for n in range(3)] for batch in range(3)]
    await asyncio.gather(*(space.hand_out(batch) for batch in batches))
    sent = [message.payload for message in connection.messages()]
    assert sent == [message.payload for batch in batches for message in batch]

"""The topic space of one tenant, as far as this gateway has subscribers in it.

Owns the way of messages from NATS to the deliveries: in the order of the log, each once. The stream says with each batch
which one of the tenant came before it; where that is one that was not seen (NATS was away, or this process too slow), what
is missing is read from the log first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import structlog
from nats.aio.client import Client

from headwater.errors import DomainError
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.delivery import Delivery
from headwater.gateway.mqtt.messages import deliverable_of
from headwater.gateway.mqtt.targets import Subscribers, Targets
from headwater.stream import subjects
from headwater.stream.envelope import Message, decode_messages
from headwater.stream.message_log import MessageLog, Place

log = structlog.get_logger(__name__)

TURN_DELIVERIES = 2_000
"""After so many others get their turn: some 5 ms."""
REPAIR_BATCHES = 64
REPAIR_AGAIN_S = 0.5
PENDING_BYTES_MAX = 32 << 20
"""What may wait for this gateway in memory; what NATS drops beyond it is read from the log."""


class Space:
    """place       everything in the log before it has been handed out
    sent_total  messages that were given to clients here, a message to two clients twice
    """

    def __init__(self, tenant_id: UUID, nats: Client, message_log: MessageLog) -> None:
        self.tenant_id = tenant_id
        self.log = message_log
        self.subscribers = Subscribers()
        self.deliveries: set[Delivery] = set()
        self.place: Place = (0, 0)
        self.sent_total = 0
        self._nats = nats
        self._subscription: Any = None
        self._opened: asyncio.Task[None] | None = None
        self._seen = 0
        self._heard = 0
        self._repairing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # of what comes from the log, live or read
        self._turn_here = asyncio.Lock()  # of what was published here at QoS 0

    async def open(self) -> None:
        """Returns when nothing that is published from now on is missed. Raises DomainErrors and NATS's; try again then."""
        if self._opened is None:
            self._opened = asyncio.ensure_future(self._open())
        try:
            await asyncio.shield(self._opened)
        except BaseException:
            if self._opened is not None and self._opened.done():
                self._opened = None
            raise

    async def _open(self) -> None:
        if self._subscription is None:
            self._subscription = await self._nats.subscribe(
                subjects.out(self.tenant_id), cb=self._receive, pending_bytes_limit=PENDING_BYTES_MAX
            )
        await self._nats.flush(timeout=5)
        self.place = (await self.log.end(self.tenant_id) + 1, 0)
        if self._seen >= self.place[0]:
            self.repair()

    async def close(self) -> None:
        if self._repairing is not None:
            self._repairing.cancel()
        if self._subscription is not None:
            try:
                await self._subscription.unsubscribe()
            except Exception as error:  # the connection to NATS is gone, and the subscription with it
                log.info("unsubscribe_failed", error=repr(error))

    async def _receive(self, message: Any) -> None:
        headers = message.headers
        if not headers or "Nats-Sequence" not in headers:
            await self._hand_out(decode_messages(message.data), 0)
            return
        sequence = int(headers["Nats-Sequence"])
        if sequence <= self._heard and await self._is_another_log():
            self._begin_anew(sequence)
        self._heard = max(self._heard, sequence)
        self._seen = max(self._seen, sequence)
        if not self.place[0] or self._repairing is not None:
            return  # which reads it from the log
        async with self._turn:
            if sequence < self.place[0]:
                return
            if int(headers["Nats-Last-Sequence"]) >= self.place[0]:
                self.repair()
                return
            await self._hand_out(decode_messages(message.data), sequence)

    async def _is_another_log(self) -> bool:
        """A batch came behind a newer one: two leaders may have passed them on, or its sequences began again."""
        try:
            return await self.log.last() < self._heard
        except DomainError:
            return False

    def _begin_anew(self, sequence: int) -> None:
        log.warning("log_made_anew", tenant=self.tenant_id.hex, heard=self._heard, sequence=sequence)
        self._heard, self._seen, self.place = 0, 0, (sequence, 0)
        for delivery in self.deliveries:
            delivery.begin_anew(self.place)

    def repair(self) -> None:
        """Read what was missed, if anything."""
        if self._repairing is None and self.place[0]:
            self._repairing = asyncio.ensure_future(self._repair())

    async def _repair(self) -> None:
        try:
            while True:
                seen = self._seen  # what comes while the log is asked may not be in its answer
                try:
                    batches = await self.log.read(self.tenant_id, self.place[0], REPAIR_BATCHES, known=seen)
                except DomainError as error:
                    log.warning("messages_not_read", tenant=self.tenant_id.hex, error=repr(error))
                    await asyncio.sleep(REPAIR_AGAIN_S)
                    continue
                async with self._turn:
                    for batch in batches:
                        if batch.sequence >= self.place[0]:
                            await self._hand_out(batch.messages, batch.sequence)
                if len(batches) < REPAIR_BATCHES and self._seen < self.place[0]:
                    return
                if not batches and seen >= self.place[0]:  # gone from the log already
                    self.place = (seen + 1, 0)
        finally:
            self._repairing = None

    async def hand_out(self, messages: list[Message]) -> None:
        """What is not in the log, and comes from this gateway itself: in the order of the calls."""
        async with self._turn_here:
            await self._hand_out(messages, 0)

    async def _hand_out(self, messages: list[Message], sequence: int) -> None:
        """sequence 0: they are not in the log."""
        of = self.subscribers.of
        touched: dict[Delivery, Any] = {}
        count = 0
        for index, message in enumerate(messages):
            targets = of(message.topic)
            if targets.only is not None and message.properties is None:  # nothing to share, and nothing that expires
                delivery, target = targets.only
                try:
                    delivery.offer_alone(message, target, targets.wire, sequence, index)
                except Exception:
                    _give_up(delivery)
                touched[delivery] = None
                count += 1
            elif targets.by_delivery:
                _offer_all(message, targets, sequence, index)
                touched.update(targets.by_delivery)
                count += len(targets.by_delivery)
            if count > TURN_DELIVERIES:
                self.sent_total += count
                if sequence:
                    self.place = (sequence, index + 1)
                count = 0
                _flush(touched)
                touched.clear()
                await asyncio.sleep(0)
        if sequence:
            self.place = (sequence + 1, 0)
        self.sent_total += count
        _flush(touched)


def _offer_all(message: Message, targets: Targets, sequence: int, index: int) -> None:
    deliverable = deliverable_of(message, targets.wire)
    if deliverable is None:
        return
    for delivery, target in targets.by_delivery.items():
        try:
            delivery.offer(deliverable, message, target, sequence, index)
        except Exception:
            _give_up(delivery)


def _give_up(delivery: Delivery) -> None:
    """One client's trouble, which must not keep the others' messages from them."""
    log.exception("delivery_failed", client_id=delivery.connection.client_id[:100])
    delivery.connection.close(reasons.SERVER_BUSY, "a message could not be delivered")


def _flush(deliveries: Iterable[Delivery]) -> None:
    for delivery in deliveries:
        delivery.connection.flush()

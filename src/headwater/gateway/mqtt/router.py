"""Ordinary messages: from a client of a tenant to the subscribers of the same tenant, on whichever gateway they are.

What is published at QoS 1 and 2 gathers in batches of its tenant, is stored in the log, and is acknowledged then; NATS
passes each stored batch on to every gateway with a subscriber of the tenant. At QoS 0 a batch goes to them directly. The
cost of a message is the same however many clients are connected: one place in a batch, and one look into the tree of each
gateway where the tenant has subscribers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import structlog
from nats.aio.client import Client

from headwater.errors import DomainError
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.authorisation import may_subscribe, prefix_of
from headwater.gateway.mqtt.delivery import Delivery, Waiting
from headwater.gateway.mqtt.figures import FIGURE, TenantFigures
from headwater.gateway.mqtt.shared import SharedSubscriptions
from headwater.gateway.mqtt.space import Space
from headwater.protocols.mqtt.deliverable import Deliverable
from headwater.protocols.mqtt.packets import Publish, Subscribe, Subscription, Unsubscribe
from headwater.protocols.mqtt.topics import match as topic_matches
from headwater.protocols.mqtt.topics import parse_share
from headwater.stream import subjects
from headwater.stream.batcher import Batch, Batcher, Publishes
from headwater.stream.envelope import Message
from headwater.stream.message_log import MessageLog
from headwater.stream.publisher import CorePublisher
from headwater.stream.retained_store import RetainedStore
from headwater.stream.session_store import (
    StoredSubscription,
    StoredWill,
    will_letter,
    will_message,
    will_records,
)
from headwater.stream.uplink import StreamUplink

if TYPE_CHECKING:
    from headwater.gateway.mqtt.connection import MQTTConnection
    from headwater.gateway.mqtt.sessions import Opened

log = structlog.get_logger(__name__)

SUBSCRIPTIONS_MAX = 100
"""A connection's; a device needs a handful."""
GAP_S = 0.001
"""Between two batches: shorter than telemetry's, because subscribers wait for them, and publishers for their subscribers.
With 6 ms, fan-in in a closed loop was a quarter slower."""
HERE_MAX = 20_000
"""Messages at QoS 0 that wait for their subscribers on this gateway; beyond it publishers are not read from."""
RECONNECTED_S = 0.5
"""How soon after NATS is back what was missed is read."""
RETAIN_UNDER_WAY_MAX = 1_000
"""Retained messages that are being stored; the rest waits, and so does whoever publishes it."""


HandOut = Callable[[list[Message]], "asyncio.Task[None] | None"]
"""None = there is nobody"""


class Outbox:
    """What a tenant's clients publish on this gateway, on its way out.

    hand_out  takes what is published at QoS 0 to the tenant's subscribers here: NATS does not bring a gateway its own
    """

    __slots__ = ("_hand_out", "_here", "_here_batch", "_here_waiting", "fleeting", "stored")

    def __init__(self, tenant_id: UUID, publisher: Publishes, core: CorePublisher, hand_out: HandOut) -> None:
        # One at a time: of two that are repeated after an outage the second could come first [MQTT-4.6.0-5].
        self.stored = Batcher(publisher, subjects.message(tenant_id), in_flight_max=1, gap_s=GAP_S)
        self.fleeting = Batcher(core, subjects.out(tenant_id), gap_s=GAP_S)

        self._hand_out = hand_out
        self._here: list[Message] = []
        self._here_batch: Batch | None = None
        self._here_waiting = 0

    def put_fleeting(self, message: Message) -> None:
        batch = self.fleeting.put_message(message)
        if batch is not self._here_batch:
            self._here_batch, self._here = batch, []
            batch.waiters.append((_Here(self._take_out, self._here), []))
        self._here.append(message)

    @property
    def full(self) -> bool:
        return self.stored.full or self.fleeting.full or self._here_waiting > HERE_MAX

    def _take_out(self, messages: list[Message]) -> None:
        taken = self._hand_out(messages)
        if taken is not None:
            self._here_waiting += len(messages)
            taken.add_done_callback(partial(self._taken_out, len(messages)))

    def _taken_out(self, count: int, _taken: asyncio.Task[None]) -> None:
        self._here_waiting -= count


class Router:
    """carrier: a connection of its own for messages on their way to gateways, which does not echo (NATS's no_echo)"""

    def __init__(
        self, nats: Client, carrier: Client, publisher: Publishes, *, message_log: MessageLog, retained: RetainedStore,
        uplink: StreamUplink,
    ) -> None:  # fmt: skip
        self._carrier = carrier
        self._publisher = publisher
        self._core = CorePublisher(carrier)
        self._log = message_log
        self._retained = retained
        self._uplink = uplink
        self._retain_slots = asyncio.Semaphore(RETAIN_UNDER_WAY_MAX)
        self._spaces: dict[UUID, Space] = {}
        self._outboxes: dict[UUID, Outbox] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.shared = SharedSubscriptions(nats)
        self.figures = TenantFigures(nats)
        self._dropped_before = 0

    # -- subscriptions --------------------------------------------------------------------------------------------------

    async def subscribe(self, connection: MQTTConnection, packet: Subscribe) -> None:
        """SUBACK, and then what is retained. Nothing that is published after the SUBACK is missed."""
        try:
            await self._subscribe(connection, packet)
        finally:
            self._leave_if_gone(connection)

    async def _subscribe(self, connection: MQTTConnection, packet: Subscribe) -> None:
        identifiers = packet.properties.subscription_identifiers
        identifier = identifiers[0] if identifiers else 0
        codes = self._grant_all(connection, packet.subscriptions)
        granted = [
            StoredSubscription(each.topic_filter, code, each.no_local, each.retain_as_published, identifier)
            for each, code in zip(packet.subscriptions, codes, strict=True)
            if code < 0x80
        ]
        first: list[Waiting] = []
        delivery: Delivery | None = None
        if granted:
            try:
                delivery = await self._delivery_of(connection)
                delivery.hold()
                handling = {each.topic_filter: each.retain_handling for each in packet.subscriptions}
                first = await self._add(connection, delivery, granted, handling)
                if connection.kept is not None and not await connection.kept.write():
                    return
            except Exception as error:  # whatever NATS says: these subscriptions cannot be promised
                log.warning("subscribe_failed", error=repr(error))
                codes = [reasons.UNSPECIFIED if code < 0x80 else code for code in codes]
                for each in granted:
                    await self._remove(connection, each.topic_filter)
        if not connection.alive:
            return
        connection.session.suback(packet.packet_id, codes)
        if delivery is not None:
            delivery.release(first)
        connection.flush()

    async def _delivery_of(self, connection: MQTTConnection) -> Delivery:
        if connection.delivery is None:
            space = await self._enter(connection.tenant_id)
            connection.delivery = Delivery(connection, space, connection.kept)
            if connection.kept is not None:
                connection.kept.delivery = connection.delivery
            space.deliveries.add(connection.delivery)
        return connection.delivery

    async def _add(
        self, connection: MQTTConnection, delivery: Delivery, granted: list[StoredSubscription], handling: dict[str, int]
    ) -> list[Waiting]:
        """Returns what is retained and due, in its order."""
        due: list[StoredSubscription] = []
        since = delivery.space.place[0] - 1
        for each in granted:
            subscription = msgspec.structs.replace(each, since=since)
            share = parse_share(each.topic_filter)
            if share is not None:
                await self.shared.join(connection.tenant_id, share, delivery, subscription)
                connection.shared = {**connection.shared, each.topic_filter: subscription}
                continue  # section 4.8.2: no retained messages
            known = delivery.subscriptions.get(each.topic_filter)
            if known is not None:
                subscription = msgspec.structs.replace(subscription, since=known.since)
            delivery.subscriptions[each.topic_filter] = subscription
            delivery.space.subscribers.insert(delivery, subscription)
            when = handling[each.topic_filter]
            if when == 0 or (when == 1 and known is None):  # [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
                due.append(subscription)
        found = await asyncio.gather(*(self._retained_for(connection.tenant_id, each) for each in due))
        return [waiting for each in found for waiting in each]

    async def _retained_for(self, tenant_id: UUID, subscription: StoredSubscription) -> list[Waiting]:
        identifiers = (subscription.identifier,) if subscription.identifier else ()
        messages = self.figures.of(tenant_id) if subscription.topic_filter.startswith("$SYS/") else []
        messages += await self._retained.matching(tenant_id, subscription.topic_filter)
        return [
            Waiting(m, None, min(m.qos, subscription.qos), True, identifiers, topic=m.topic)  # [MQTT-3.3.1-8]
            for m in messages
            if topic_matches(subscription.topic_filter, m.topic)
        ]

    def _grant_all(self, connection: MQTTConnection, subscriptions: Sequence[Subscription]) -> list[int]:
        """The SUBACK codes. What was subscribed to before may always be subscribed to again."""
        delivery = connection.delivery
        filters = {*connection.shared, *(delivery.subscriptions if delivery is not None else ())}
        codes = []
        for each in subscriptions:
            has_room = each.topic_filter in filters or len(filters) < SUBSCRIPTIONS_MAX
            codes.append(self._grant(connection, each, has_room=has_room))
            if codes[-1] < 0x80:
                filters.add(each.topic_filter)
        return codes

    def _grant(self, connection: MQTTConnection, subscription: Subscription, *, has_room: bool) -> int:
        is_v5 = connection.session.protocol_level >= 5
        if not may_subscribe(connection.granted, _filter_of(subscription.topic_filter)):
            connection.denied_subscription(subscription.topic_filter)
            return reasons.NOT_AUTHORISED if is_v5 else reasons.UNSPECIFIED
        if not has_room:
            return reasons.QUOTA_EXCEEDED if is_v5 else reasons.UNSPECIFIED
        return subscription.qos

    async def unsubscribe(self, connection: MQTTConnection, packet: Unsubscribe) -> None:
        codes = [0x00 if await self._remove(connection, each) else 0x11 for each in packet.topic_filters]
        if connection.kept is not None and 0x00 in codes and not await connection.kept.write():
            return
        if connection.alive:
            connection.session.unsuback(packet.packet_id, codes)
            connection.flush()

    async def _remove(self, connection: MQTTConnection, topic_filter: str) -> bool:
        """False = it was not there."""
        delivery = connection.delivery
        if delivery is None:
            return False
        share = parse_share(topic_filter)
        if share is not None:
            if topic_filter not in connection.shared:
                return False
            connection.shared = {each: known for each, known in connection.shared.items() if each != topic_filter}
            await self.shared.leave(connection.tenant_id, share, delivery, for_ever=True)
            return True
        subscription = delivery.subscriptions.pop(topic_filter, None)
        if subscription is None:
            return False
        delivery.space.subscribers.remove(delivery, subscription)
        return True

    async def resume(self, connection: MQTTConnection, opened: Opened) -> None:
        """Everything that a session of an earlier connection had subscribed to, before its CONNACK. Raises DomainErrors."""
        if not opened.subscriptions and not opened.pending:
            return
        try:
            await self._resume(connection, opened)
        finally:
            self._leave_if_gone(connection)

    async def _resume(self, connection: MQTTConnection, opened: Opened) -> None:
        record = opened.kept.record if opened.kept is not None else None
        assert record is not None
        place = (record.sequence, record.index)
        delivery = await self._delivery_of(connection)
        # At once, all of it: the record may be written at any moment from now on.
        delivery.begin_again(opened.pending, place)
        for subscription in opened.subscriptions:
            if not may_subscribe(connection.granted, _filter_of(subscription.topic_filter)):
                continue  # the profile has changed since
            if parse_share(subscription.topic_filter) is not None:
                connection.shared = {**connection.shared, subscription.topic_filter: subscription}
            else:
                delivery.subscriptions[subscription.topic_filter] = subscription
                delivery.space.subscribers.insert(delivery, subscription)
        if place > delivery.space.place and record.sequence > (last := await self._log.last()) + 1:
            log.warning("log_made_anew", client_id=record.client_id[:100], place=place, last=last)
            delivery.place = (last + 1, 0)  # of an earlier log: waiting for it, the client would miss what comes until then
        for topic_filter, subscription in connection.shared.items():
            share = parse_share(topic_filter)
            assert share is not None
            await self.shared.join(connection.tenant_id, share, delivery, subscription)

    async def _enter(self, tenant_id: UUID) -> Space:
        while True:
            space = self._spaces.get(tenant_id)
            if space is None:
                space = self._spaces[tenant_id] = Space(tenant_id, self._carrier, self._log)
            await space.open()
            if self._spaces.get(tenant_id) is space:  # its last subscriber may have left meanwhile
                return space

    def may_keep(self, connection: MQTTConnection) -> bool:
        """Whether everything that it has subscribed to is still granted."""
        delivery = connection.delivery
        filters = [*connection.shared, *(delivery.subscriptions if delivery is not None else ())]
        return all(may_subscribe(connection.granted, _filter_of(each)) for each in filters)

    def _leave_if_gone(self, connection: MQTTConnection) -> None:
        """The connection ended while something was added for it, and that came behind its `leave`."""
        if connection.has_left:
            self.leave(connection)

    def leave(self, connection: MQTTConnection) -> None:
        """The connection has ended. Safe to call again."""
        delivery = connection.delivery
        if delivery is None:
            return
        space = delivery.space
        delivery.stop()
        self._dropped_before += delivery.dropped
        delivery.dropped = 0
        for subscription in delivery.subscriptions.values():
            space.subscribers.remove(delivery, subscription)
        for_ever = not delivery.outlives or connection.is_resumed is False
        for topic_filter in connection.shared:
            share = parse_share(topic_filter)
            if share is not None:
                self._spawn(self.shared.leave(connection.tenant_id, share, delivery, for_ever=for_ever))
        space.deliveries.discard(delivery)
        if not space.deliveries and self._spaces.get(space.tenant_id) is space:
            del self._spaces[space.tenant_id]
            self._spawn(space.close())

    async def watch_connection(self) -> None:
        """After NATS was away: what was published meanwhile is in the log."""
        reconnects = self._carrier.stats["reconnects"]
        while True:
            await asyncio.sleep(RECONNECTED_S)
            if self._carrier.is_connected and self._carrier.stats["reconnects"] != reconnects:
                reconnects = self._carrier.stats["reconnects"]
                for space in self._spaces.values():
                    space.repair()

    # -- $SYS -----------------------------------------------------------------------------------------------------------

    def sent(self, tenant_id: UUID) -> int:
        """Messages that this gateway has handed to the tenant's subscribers, since the first of them came."""
        space = self._spaces.get(tenant_id)
        return space.sent_total if space is not None else 0

    @property
    def dropped_total(self) -> int:
        """Messages at QoS 0 that subscribers could not take."""
        return self._dropped_before + sum(each.dropped for space in self._spaces.values() for each in space.deliveries)

    def watched(self) -> list[UUID]:
        return [tenant_id for tenant_id, space in self._spaces.items() if space.subscribers.of(FIGURE).by_delivery]

    def hand_out_here(self, tenant_id: UUID, messages: list[Message]) -> asyncio.Task[None] | None:
        """To the tenant's subscribers on this gateway, where it has any."""
        space = self._spaces.get(tenant_id)
        return self._spawn(space.hand_out(messages)) if space is not None else None

    # -- publishing -----------------------------------------------------------------------------------------------------

    def is_behind(self, tenant_id: UUID) -> bool:
        """More of the tenant's messages wait here than should."""
        outbox = self._outboxes.get(tenant_id)
        return outbox is not None and outbox.full

    def publish_will(self, tenant_id: UUID, will: StoredWill) -> None:
        """Of a client that is not connected here any more."""
        if will.letter is not None:
            self._spawn(_ended(self._uplink.reject(tenant_id, will_letter(will.letter))))
            return
        if will.records is not None:
            self._uplink.lane.put(will_records(will))
            return
        message = will_message(will)
        if message.retain:
            self._spawn(self._keep(tenant_id, message))
        outbox = self.outbox(tenant_id)
        if message.qos:
            outbox.stored.put_message(message)
        else:
            outbox.put_fleeting(message)

    def publish_retained(self, connection: MQTTConnection, packet: Publish, message: Message, outbox: Outbox) -> None:
        """Acknowledged when the log has it and its topic, too."""
        assert connection.principal is not None
        kept = asyncio.ensure_future(self._keep(connection.tenant_id, message, connection.principal.quotas.retained_max))
        if not packet.qos:
            outbox.put_fleeting(message)
            connection.publishing.answer_later(packet, kept, lambda: None)
            return
        logged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        batch = outbox.stored.put_message(message)
        batch.waiters.append((_Logged(batch, logged), []))
        connection.publishing.await_logged(packet, logged)
        both = asyncio.ensure_future(_both(kept, logged))
        connection.publishing.answer_later(packet, both, partial(connection.publishing.stored, [packet.packet_id]))

    async def _keep(self, tenant_id: UUID, message: Message, count_max: int | None = None) -> None:
        async with self._retain_slots:
            await self._retained.keep(tenant_id, message, count_max)

    def outbox(self, tenant_id: UUID) -> Outbox:
        outbox = self._outboxes.get(tenant_id)
        if outbox is None:
            hand_out = partial(self.hand_out_here, tenant_id)
            outbox = self._outboxes[tenant_id] = Outbox(tenant_id, self._publisher, self._core, hand_out)
        return outbox

    async def drain(self) -> None:
        """Returns when everything that was published is stored, or refused."""
        for outbox in list(self._outboxes.values()):
            await outbox.stored.drain()
            await outbox.fleeting.drain()

    def tell_error(self, connection: MQTTConnection, packet: Publish, error: DomainError) -> None:
        """On the device's own errors topic, where it has subscribed to it: what MQTT 3.1.1 cannot say in a PUBACK."""
        assert connection.principal is not None
        topic = f"{prefix_of(connection.principal)}errors"
        delivery = connection.delivery
        if delivery is not None and any(topic_matches(each, topic) for each in delivery.subscriptions):
            body = {"topic": packet.topic, "packet_id": packet.packet_id, "code": error.code, "detail": error.detail}
            connection.session.deliver(Deliverable(topic, msgspec.json.encode({**error.fields, **body}), None), 0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _filter_of(topic_filter: str) -> str:
    """Without the share in front."""
    share = parse_share(topic_filter)
    return share.topic_filter if share is not None else topic_filter


class _Here:
    """Implements stream.batcher.Waiter for a batch at QoS 0: whether NATS took it or not, those who are here get it."""

    __slots__ = ("_hand_out", "_messages")

    def __init__(self, hand_out: Callable[[list[Message]], None], messages: list[Message]) -> None:
        self._hand_out = hand_out
        self._messages = messages

    def stored(self, token: list[int]) -> None:
        self._hand_out(self._messages)

    def refused(self, token: list[int], error: DomainError) -> None:
        self._hand_out(self._messages)


class _Logged:
    """Implements stream.batcher.Waiter for one message."""

    __slots__ = ("_batch", "_logged")

    def __init__(self, batch: Batch, logged: asyncio.Future[int]) -> None:
        self._batch = batch
        self._logged = logged

    def stored(self, token: list[int]) -> None:
        self._logged.set_result(self._batch.sequence)

    def refused(self, token: list[int], error: DomainError) -> None:
        self._logged.set_exception(error)


async def _ended(kept: asyncio.Future[None]) -> None:
    await kept


async def _both(kept: asyncio.Future[None], logged: asyncio.Future[int]) -> None:
    """Ends when both have: one that is refused may still be on its way to the log."""
    await asyncio.wait((kept, logged))
    await asyncio.gather(kept, logged)

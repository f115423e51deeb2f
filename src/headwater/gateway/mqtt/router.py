"""Ordinary messages: from a device of a tenant to the subscribers of the same tenant, on whichever gateway they are.

A QoS 1 message is stored in the stream MESSAGE before it is acknowledged, and delivered by core NATS to every gateway that
has a subscriber of that tenant. A gateway subscribes to a tenant's messages with its first subscriber and leaves with its
last.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import structlog
from nats.aio.client import Client

from headwater.errors import DomainError
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.authorisation import may_subscribe, prefix_of
from headwater.protocols.mqtt.packets import Publish, Subscribe, Unsubscribe
from headwater.protocols.mqtt.properties import Properties
from headwater.protocols.mqtt.topics import SubscriptionTree
from headwater.stream import subjects
from headwater.stream.envelope import Message, decode_message, encode_message
from headwater.stream.publisher import Publisher

if TYPE_CHECKING:
    from headwater.gateway.mqtt.connection import MQTTConnection

log = structlog.get_logger(__name__)

SUBSCRIPTIONS_MAX = 100
"""A connection's; a device needs a handful."""


@dataclass(slots=True)
class _TenantSpace:
    """The topic space of one tenant, as far as this gateway has subscribers in it."""

    tree: SubscriptionTree[MQTTConnection]
    nats: Any = None
    connections: set[MQTTConnection] = field(default_factory=set)


class Router:
    def __init__(self, nats: Client, publisher: Publisher) -> None:
        self._nats = nats
        self._publisher = publisher
        self._spaces: dict[UUID, _TenantSpace] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.dropped_total = 0

    # -- subscriptions --------------------------------------------------------------------------------------------------

    def subscribe(self, connection: MQTTConnection, packet: Subscribe) -> None:
        """SUBACK follows when NATS knows of the first subscription, so nothing published after it is missed."""
        self._spawn(self._subscribe(connection, packet))

    async def _subscribe(self, connection: MQTTConnection, packet: Subscribe) -> None:
        codes = [self._grant(connection, s.topic_filter, s.qos) for s in packet.subscriptions]
        if any(code < 0x80 for code in codes):
            try:
                await self._enter(connection)
            except Exception as error:  # whatever NATS says: this subscription cannot be promised
                log.warning("subscribe_failed", error=repr(error))
                codes = [reasons.UNSPECIFIED] * len(codes)
        space = self._spaces.get(connection.tenant_id)
        for subscription, code in zip(packet.subscriptions, codes, strict=True):
            if code < 0x80 and space is not None and connection.alive:
                if connection.subscribed is None:
                    connection.subscribed = {}
                connection.subscribed[subscription.topic_filter] = code
                space.tree.insert(subscription.topic_filter, connection)
        if connection.alive:
            connection.session.suback(packet.packet_id, codes)
            connection.flush()

    def _grant(self, connection: MQTTConnection, topic_filter: str, qos: int) -> int:
        """The SUBACK code of one subscription."""
        if not may_subscribe(connection.granted, topic_filter):
            return reasons.NOT_AUTHORISED if connection.session.protocol_level >= 5 else reasons.UNSPECIFIED
        if len(connection.subscribed or ()) >= SUBSCRIPTIONS_MAX:
            return reasons.QUOTA_EXCEEDED if connection.session.protocol_level >= 5 else reasons.UNSPECIFIED
        return min(qos, 1)

    def unsubscribe(self, connection: MQTTConnection, packet: Unsubscribe) -> None:
        codes = []
        space = self._spaces.get(connection.tenant_id)
        for topic_filter in packet.topic_filters:
            known = connection.subscribed is not None and connection.subscribed.pop(topic_filter, None) is not None
            if known and space is not None:
                space.tree.remove(topic_filter, connection)
            codes.append(0x00 if known else 0x11)
        connection.session.unsuback(packet.packet_id, codes)

    def leave(self, connection: MQTTConnection) -> None:
        """The connection has ended."""
        space = self._spaces.get(connection.tenant_id)
        if space is None or connection not in space.connections:
            return
        for topic_filter in connection.subscribed or ():
            space.tree.remove(topic_filter, connection)
        space.connections.discard(connection)
        if not space.connections:
            del self._spaces[connection.tenant_id]
            if space.nats is not None:
                self._spawn(self._unsubscribe_nats(space.nats))

    async def _enter(self, connection: MQTTConnection) -> None:
        tenant_id = connection.tenant_id
        space = self._spaces.get(tenant_id)
        if space is None:
            space = self._spaces[tenant_id] = _TenantSpace(SubscriptionTree())
            space.connections.add(connection)

            async def deliver(message: Any) -> None:
                self._deliver(tenant_id, message.data)

            space.nats = await self._nats.subscribe(subjects.messages_of(tenant_id), cb=deliver)
        space.connections.add(connection)
        await self._nats.flush(timeout=5)

    async def _unsubscribe_nats(self, subscription: Any) -> None:
        try:
            await subscription.unsubscribe()
        except Exception as error:  # the connection to NATS is gone, and the subscription with it
            log.info("unsubscribe_failed", error=repr(error))

    # -- publishing -----------------------------------------------------------------------------------------------------

    def publish(self, connection: MQTTConnection, packet: Publish) -> None:
        """From a device: stored, then acknowledged in its turn."""
        message = _message_of(packet)
        subject = subjects.message(connection.tenant_id, packet.topic)
        ended = asyncio.ensure_future(self._store(subject, message))
        connection.answer_later(packet, ended, partial(_acknowledge, connection, packet))

    async def _store(self, subject: str, message: Message) -> None:
        if message.qos:
            await self._publisher.publish(subject, encode_message(message))
        else:
            await self._nats.publish(subject, encode_message(message))

    def tell_error(self, connection: MQTTConnection, packet: Publish, error: DomainError) -> None:
        """On the device's own errors topic, where it has subscribed to it: what MQTT 3.1.1 cannot say in a PUBACK."""
        assert connection.principal is not None
        topic = f"{prefix_of(connection.principal)}errors"
        if connection.subscribed is not None and topic in connection.subscribed:
            body = {"topic": packet.topic, "packet_id": packet.packet_id, "code": error.code, "detail": error.detail}
            connection.deliver(topic, msgspec.json.encode({**error.fields, **body}), 0, None)

    # -- delivering -----------------------------------------------------------------------------------------------------

    def _deliver(self, tenant_id: UUID, data: bytes) -> None:
        space = self._spaces.get(tenant_id)
        if space is None:
            return
        message = decode_message(data)
        if message.expires_at and message.expires_at <= time.time_ns() // 1000:
            return
        for connection in dict.fromkeys(space.tree.match(message.topic)):
            self._send(connection, message)

    def _send(self, connection: MQTTConnection, message: Message) -> None:
        """Once per client, at the highest QoS of its matching subscriptions [MQTT-3.3.5-1]."""
        if not connection.alive:
            return
        qos = min(message.qos, connection.granted_qos(message.topic))
        if not connection.deliver(message.topic, message.payload, qos, _properties(message)):
            self.dropped_total += 1

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _acknowledge(connection: MQTTConnection, packet: Publish) -> None:
    if packet.qos:
        connection.stored([packet.packet_id])


def _message_of(packet: Publish) -> Message:
    properties = packet.properties
    if properties is None:
        return Message(packet.topic, packet.payload, packet.qos)
    expiry_s = properties.message_expiry_s
    return Message(
        topic=packet.topic,
        payload=packet.payload,
        qos=packet.qos,
        expires_at=time.time_ns() // 1000 + expiry_s * 1_000_000 if expiry_s is not None else 0,
        payload_format=properties.payload_format,
        content_type=properties.content_type,
        response_topic=properties.response_topic,
        correlation_data=properties.correlation_data,
        user_properties=properties.user_properties,
    )


def _properties(message: Message) -> Properties | None:
    remaining = None
    if message.expires_at:
        remaining = max(1, (message.expires_at - time.time_ns() // 1000) // 1_000_000)  # [MQTT-3.3.2-6]
    return Properties(
        message_expiry_s=remaining,
        payload_format=message.payload_format,
        content_type=message.content_type,
        response_topic=message.response_topic,
        correlation_data=message.correlation_data,
        user_properties=message.user_properties,
    )

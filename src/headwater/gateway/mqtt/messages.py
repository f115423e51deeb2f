"""Between packets and what travels in the stream."""

from __future__ import annotations

import time

from headwater.protocols.mqtt.deliverable import Deliverable
from headwater.protocols.mqtt.packets import Publish
from headwater.protocols.mqtt.properties import Properties
from headwater.stream.envelope import Message, MessageProperties


def now_us() -> int:
    return time.time_ns() // 1000


def message_of(packet: Publish, sender: bytes) -> Message:
    """sender: the publisher's client key"""
    packet_id = packet.packet_id if packet.qos == 2 else 0
    if packet.properties is None:
        return Message(packet.topic, packet.payload, packet.qos, packet.retain, sender, packet_id)
    properties = kept_properties(packet.properties, packet.properties.message_expiry_s)
    return Message(packet.topic, packet.payload, packet.qos, packet.retain, sender, packet_id, properties)


def kept_properties(properties: Properties, expiry_s: int | None) -> MessageProperties | None:
    """What is forwarded of a publisher's properties. The lifetime begins now."""
    kept = MessageProperties(
        expires_at=0 if expiry_s is None else now_us() + expiry_s * 1_000_000,
        payload_format=properties.payload_format,
        content_type=properties.content_type,
        response_topic=properties.response_topic,
        correlation_data=properties.correlation_data,
        user_properties=properties.user_properties,
    )
    return None if kept == _NOTHING else kept


_NOTHING = MessageProperties()


def deliverable_of(message: Message, topic_wire: bytes | None = None) -> Deliverable | None:
    """None = its time is over [MQTT-3.3.2-5]."""
    properties = message.properties
    if properties is None:
        return Deliverable(message.topic, message.payload, None, topic_wire)
    remaining_s = None
    if properties.expires_at:
        remaining_us = properties.expires_at - now_us()
        if remaining_us <= 0:
            return None
        remaining_s = -(-remaining_us // 1_000_000)  # [MQTT-3.3.2-6]
    return Deliverable(
        message.topic,
        message.payload,
        Properties(
            message_expiry_s=remaining_s,
            payload_format=properties.payload_format,
            content_type=properties.content_type,
            response_topic=properties.response_topic,
            correlation_data=properties.correlation_data,
            user_properties=properties.user_properties,
        ),
        topic_wire,
    )

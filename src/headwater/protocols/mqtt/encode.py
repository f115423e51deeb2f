"""Packets -> bytes, for both directions and all three versions.

Refuses (LocalProtocolError) what the wire cannot say; what a version lacks (properties before 5.0) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from headwater.protocols.mqtt.errors import LocalProtocolError
from headwater.protocols.mqtt.packet_types import PacketType as T
from headwater.protocols.mqtt.packets import (
    TYPE_OF,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    Publish,
    Receipt,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from headwater.protocols.mqtt.properties import EMPTY, encode_properties
from headwater.protocols.mqtt.reasons import Reason
from headwater.protocols.mqtt.topics import topic_filter_problem, topic_name_problem
from headwater.protocols.mqtt.wire import encode_binary, encode_text, encode_two, encode_variable_integer


def encode_packet(packet: Packet, level: int = 4) -> bytes:
    """The whole packet. A CONNECT goes by its own `protocol_level`."""
    if isinstance(packet, Publish):
        return encode_publish(packet, level)
    packet_type = TYPE_OF[type(packet)]
    body = _ENCODERS[packet_type](packet, level)
    flags = 2 if packet_type in (T.PUBREL, T.SUBSCRIBE, T.UNSUBSCRIBE) else 0  # [MQTT-2.1.3-1]
    return bytes((packet_type << 4 | flags,)) + encode_variable_integer(len(body)) + body


def encode_publish(packet: Publish, level: int) -> bytes:
    has_alias = packet.properties is not None and packet.properties.topic_alias is not None
    if packet.topic or level != 5 or not has_alias:
        _refuse(topic_name_problem(packet.topic), Reason.TOPIC_NAME_INVALID)
    first = 0x30 | packet.dup << 3 | _qos(packet.qos) << 1 | packet.retain
    head = encode_text(packet.topic)
    if packet.qos:
        head += _packet_id(packet.packet_id)
    elif packet.dup:
        raise LocalProtocolError(Reason.PROTOCOL_ERROR, "DUP at QoS 0")  # [MQTT-3.3.1-2]
    if level == 5:
        head += encode_properties(packet.properties, T.PUBLISH)
    return b"".join((bytes((first,)), encode_variable_integer(len(head) + len(packet.payload)), head, packet.payload))


def _refuse(problem: str | None, reason: int) -> None:
    if problem:
        raise LocalProtocolError(reason, problem)


def _qos(qos: int) -> int:
    if qos not in (0, 1, 2):
        raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"there is no QoS {qos}")
    return qos


def _packet_id(packet_id: int) -> bytes:
    if packet_id == 0:
        raise LocalProtocolError(Reason.PROTOCOL_ERROR, "a packet identifier is 0")  # [MQTT-2.2.1-3]
    return encode_two(packet_id)


def _encode_connect(packet: Connect, _level: int) -> bytes:
    level = packet.protocol_level
    if level not in (3, 4, 5):
        raise LocalProtocolError(Reason.UNSUPPORTED_PROTOCOL_VERSION, f"there is no protocol level {level}")
    if packet.password is not None and packet.username is None and level != 5:
        raise LocalProtocolError(Reason.PROTOCOL_ERROR, "a password without a user name")  # [MQTT-3.1.2-22] of 3.1.1
    flags = packet.clean_start << 1
    body = bytearray()
    if level == 5:
        body += encode_properties(packet.properties, T.CONNECT)
    body += encode_text(packet.client_id)
    if (will := packet.will) is not None:
        _refuse(topic_name_problem(will.topic), Reason.TOPIC_NAME_INVALID)
        flags |= 0x04 | _qos(will.qos) << 3 | will.retain << 5
        if level == 5:
            body += encode_properties(will.properties, T.WILL)
        body += encode_text(will.topic) + encode_binary(will.payload)
    if packet.username is not None:
        flags |= 0x80
        body += encode_text(packet.username)
    if packet.password is not None:
        flags |= 0x40
        body += encode_binary(packet.password)
    name = b"\0\6MQIsdp" if level == 3 else b"\0\4MQTT"
    return name + bytes((level, flags)) + encode_two(packet.keep_alive_s) + body


def _encode_connack(packet: ConnAck, level: int) -> bytes:
    if packet.reason and packet.session_present:
        raise LocalProtocolError(Reason.PROTOCOL_ERROR, "a refusal with session present")  # [MQTT-3.2.2-6]
    if level != 5:
        return bytes((packet.session_present and level == 4, packet.reason))
    return bytes((packet.session_present, packet.reason)) + encode_properties(packet.properties, T.CONNACK)


def _encode_receipt(packet: Receipt, level: int) -> bytes:
    if level != 5 or (packet.reason == 0 and packet.properties is EMPTY):
        return _packet_id(packet.packet_id)  # section 3.4.2.1: the reason code may be left out when it is 0
    properties = b"" if packet.properties is EMPTY else encode_properties(packet.properties, TYPE_OF[type(packet)])
    return _packet_id(packet.packet_id) + bytes((packet.reason,)) + properties


def _encode_subscribe(packet: Subscribe, level: int) -> bytes:
    body = bytearray(_packet_id(packet.packet_id))
    if level == 5:
        body += encode_properties(packet.properties, T.SUBSCRIBE)
    for each in packet.subscriptions:
        _refuse(topic_filter_problem(each.topic_filter), Reason.TOPIC_FILTER_INVALID)
        options = _qos(each.qos)
        if level == 5:
            options |= each.no_local << 2 | each.retain_as_published << 3 | each.retain_handling << 4
        body += encode_text(each.topic_filter)
        body.append(options)
    return bytes(body)


def _encode_suback(packet: SubAck, level: int) -> bytes:
    properties = encode_properties(packet.properties, T.SUBACK) if level == 5 else b""
    codes = packet.codes if level == 5 else (min(code, 0x80) for code in packet.codes)
    return _packet_id(packet.packet_id) + properties + bytes(codes)


def _encode_unsubscribe(packet: Unsubscribe, level: int) -> bytes:
    body = bytearray(_packet_id(packet.packet_id))
    if level == 5:
        body += encode_properties(packet.properties, T.UNSUBSCRIBE)
    for topic_filter in packet.topic_filters:
        _refuse(topic_filter_problem(topic_filter), Reason.TOPIC_FILTER_INVALID)
        body += encode_text(topic_filter)
    return bytes(body)


def _encode_unsuback(packet: UnsubAck, level: int) -> bytes:
    if level != 5:
        return _packet_id(packet.packet_id)
    return _packet_id(packet.packet_id) + encode_properties(packet.properties, T.UNSUBACK) + bytes(packet.codes)


def _encode_nothing(_packet: Packet, _level: int) -> bytes:
    return b""


def _encode_closing(packet: Disconnect | Auth, level: int) -> bytes:
    if level != 5 or (packet.reason == 0 and packet.properties is EMPTY):
        return b""
    properties = encode_properties(packet.properties, TYPE_OF[type(packet)])
    return bytes((packet.reason,)) + properties


_ENCODERS: Final[Mapping[T, Callable[[Any, int], bytes]]] = {
    T.CONNECT: _encode_connect,
    T.CONNACK: _encode_connack,
    T.PUBACK: _encode_receipt,
    T.PUBREC: _encode_receipt,
    T.PUBREL: _encode_receipt,
    T.PUBCOMP: _encode_receipt,
    T.SUBSCRIBE: _encode_subscribe,
    T.SUBACK: _encode_suback,
    T.UNSUBSCRIBE: _encode_unsubscribe,
    T.UNSUBACK: _encode_unsuback,
    T.PINGREQ: _encode_nothing,
    T.PINGRESP: _encode_nothing,
    T.DISCONNECT: _encode_closing,
    T.AUTH: _encode_closing,
}

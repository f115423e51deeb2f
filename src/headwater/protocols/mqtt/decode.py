"""Bytes -> packets, for both directions and all three versions.

`find_frame` says where a packet ends, `decode_packet` makes it; both look in place and copy only what the packet keeps.
`PacketReader` puts them together for whoever is not a server session: clients, tests, load tools. What a packet means in a
connection (order, limits, direction) is the session's business, not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeVar

from headwater.protocols.mqtt.errors import RemoteProtocolError
from headwater.protocols.mqtt.packet_types import PacketType as T
from headwater.protocols.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from headwater.protocols.mqtt.properties import EMPTY, decode_properties
from headwater.protocols.mqtt.reasons import ALLOWED, V3_SUBACK_CODES, Reason
from headwater.protocols.mqtt.topics import LEVELS_MAX, topic_filter_problem, topic_name_problem
from headwater.protocols.mqtt.wire import VARIABLE_INTEGER_MAX, Reader, decode_text, malformed, protocol_error

LEVEL_OF_NAME: Final[Mapping[bytes, tuple[int, ...]]] = {b"MQIsdp": (3,), b"MQTT": (4, 5)}

# The low four bits of the first byte: [MQTT-2.1.3-1], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1].
FLAGS: Final[Mapping[T, int]] = {T.PUBREL: 2, T.SUBSCRIBE: 2, T.UNSUBSCRIBE: 2}


class Frame(NamedTuple):
    """A packet is `data[at:stop]`, its body `data[body:stop]`. `stop` may lie beyond what has arrived."""

    body: int
    stop: int


def find_frame(data: bytes, at: int, level: int) -> Frame | None:
    """None when not even the fixed header is complete. Raises for a remaining length of more than four bytes."""
    size = len(data)
    length = 0
    for count in range(1, 5):
        if at + count >= size:
            return None
        byte = data[at + count]
        length |= (byte & 127) << 7 * (count - 1)
        if byte < 128:
            if byte == 0 and count > 1 and level == 5:
                raise malformed("the remaining length is longer than it needs to be")  # [MQTT-1.5.5-1]
            body = at + count + 1
            return Frame(body, body + length)
    raise malformed("the remaining length has more than four bytes")


def decode_packet(first: int, data: bytes, body: int, stop: int, level: int) -> Packet:
    """The packet whose first byte is `first` and whose body is `data[body:stop]`, all of it there.

    level    3, 4 or 5; a CONNECT brings its own
    Raises   RemoteProtocolError
    """
    packet_type = first >> 4
    if packet_type == T.WILL or (packet_type == T.AUTH and level != 5):
        raise malformed(f"packet type {packet_type} does not exist")
    _check_flags(first, level)
    return _DECODERS[packet_type](first, Reader(data, body, stop), level)


def _check_flags(first: int, level: int) -> None:
    packet_type = T(first >> 4)
    flags = first & 15
    if packet_type is T.PUBLISH:
        return
    if level == 3:
        if packet_type not in FLAGS:
            return  # 3.1 does not use them, and forbids nothing (3.1, sections 3.1 and 3.4 to 3.14)
        flags &= ~9  # these packets may carry DUP, and RETAIN is undefined (3.1, section 2.1)
    if flags != FLAGS.get(packet_type, 0):
        raise malformed(f"{packet_type.name} has the flags {flags}")


def _packet_id(reader: Reader) -> int:
    packet_id = reader.two()
    if packet_id == 0:
        raise protocol_error("a packet identifier is 0")  # [MQTT-2.2.1-3]; of 3.1.1 [MQTT-2.3.1-1]
    return packet_id


def read_protocol_level(data: bytes, body: int, stop: int) -> int:
    """The level of a CONNECT; raises 0x84 for one of MQTT that we do not speak."""
    reader = Reader(data, body, stop)
    name = reader.binary()
    levels = LEVEL_OF_NAME.get(name)
    if levels is None:
        raise protocol_error("the protocol is not MQTT")  # [MQTT-3.1.2-1]
    level = reader.byte()
    if level not in levels:
        raise RemoteProtocolError(Reason.UNSUPPORTED_PROTOCOL_VERSION, f"protocol level {level}")  # [MQTT-3.1.2-2]
    return level


def _decode_connect(_first: int, reader: Reader, _level: int) -> Connect:
    level = read_protocol_level(reader.data, reader.at, reader.end)
    reader.binary()
    reader.byte()
    flags = reader.byte()
    _check_connect_flags(flags, level)
    keep_alive_s = reader.two()
    properties = decode_properties(reader, T.CONNECT) if level == 5 else EMPTY
    client_id = reader.text()
    will = _decode_will(reader, flags, level) if flags & 0x04 else None
    # 3.1: "the Remaining Length field takes precedence over the User Name flag" (section 3.1), so either may be missing.
    has_username = flags & 0x80 and not (level == 3 and reader.empty)
    username = reader.text() if has_username else None
    has_password = flags & 0x40 and not (level == 3 and reader.empty)
    password = reader.binary() if has_password else None
    reader.finish()
    return Connect(client_id, level, bool(flags & 0x02), keep_alive_s, username, password, will, properties)


def _check_connect_flags(flags: int, level: int) -> None:
    if flags & 0x01 and level != 3:
        raise malformed("the reserved connect flag is set")  # [MQTT-3.1.2-3]
    if not flags & 0x04 and flags & 0x38 and level != 3:
        raise malformed("will QoS or will retain without a will")  # [MQTT-3.1.2-11], [MQTT-3.1.2-13]
    if flags & 0x18 == 0x18:
        raise malformed("the will QoS is 3")  # [MQTT-3.1.2-12]; of 3.1.1 [MQTT-3.1.2-14]
    if flags & 0x40 and not flags & 0x80 and level == 4:
        raise malformed("a password without a user name")  # [MQTT-3.1.2-22] of 3.1.1


def _decode_will(reader: Reader, flags: int, level: int) -> Will:
    properties = decode_properties(reader, T.WILL) if level == 5 else EMPTY
    _check_response_topic(properties.response_topic)
    topic = decode_topic_name(reader.binary())
    return Will(topic, reader.binary(), flags >> 3 & 3, bool(flags & 0x20), properties)


def _decode_connack(_first: int, reader: Reader, level: int) -> ConnAck:
    flags = reader.byte()
    reason = reader.byte()
    if flags & 0xFE and level != 3:
        raise malformed("a reserved CONNACK flag is set")  # [MQTT-3.2.2-1]
    if level != 5:
        if reason > 5:
            raise malformed(f"return code {reason}")  # section 3.2.2.3 of 3.1.1
        reader.finish()
        return ConnAck(bool(flags & 1), reason)
    _check_reason(reason, T.CONNACK)
    properties = decode_properties(reader, T.CONNACK)
    reader.finish()
    return ConnAck(bool(flags & 1), reason, properties)


def decode_topic_name(raw: bytes) -> str:
    topic = decode_text(raw)
    problem = topic_name_problem(topic)
    if problem:
        raise protocol_error(problem)
    return topic


def _check_response_topic(topic: str | None) -> None:
    if topic is not None and (problem := topic_name_problem(topic)):
        raise protocol_error(f"response topic: {problem}")  # [MQTT-3.3.2-14]


def _decode_publish(first: int, reader: Reader, level: int) -> Publish:
    qos = first >> 1 & 3
    if qos == 3:
        raise malformed("the QoS is 3")  # [MQTT-3.3.1-4]
    dup = bool(first & 8)
    if dup and qos == 0 and level != 3:
        raise malformed("DUP at QoS 0")  # [MQTT-3.3.1-2]
    raw_topic = reader.binary()
    packet_id = _packet_id(reader) if qos else 0
    properties = None
    if level == 5:
        properties = decode_properties(reader, T.PUBLISH)
        _check_response_topic(properties.response_topic)
    if raw_topic or properties is None or properties.topic_alias is None:
        topic = decode_topic_name(raw_topic) if raw_topic or level != 5 else _no_topic()
    else:
        topic = ""
    return Publish(topic, reader.rest(), qos, bool(first & 1), dup, packet_id, None if properties is EMPTY else properties)


def _no_topic() -> str:
    raise protocol_error("neither a topic name nor a topic alias")  # section 3.3.2.1


R = TypeVar("R", PubAck, PubRec, PubRel, PubComp)


def _receipt_decoder(make: type[R], packet_type: T) -> Callable[[int, Reader, int], R]:
    def decode(_first: int, reader: Reader, level: int) -> R:
        packet_id = _packet_id(reader)
        if reader.empty or level != 5:
            reader.finish()
            return make(packet_id)
        reason = reader.byte()
        _check_reason(reason, packet_type)
        properties = EMPTY if reader.empty else decode_properties(reader, packet_type)
        reader.finish()
        return make(packet_id, reason, properties)

    return decode


def _check_reason(reason: int, packet_type: T) -> None:
    if reason not in ALLOWED[packet_type]:
        raise protocol_error(f"{packet_type.name} may not carry reason code 0x{reason:02X}")


def _decode_subscribe(_first: int, reader: Reader, level: int) -> Subscribe:
    packet_id = _packet_id(reader)
    properties = decode_properties(reader, T.SUBSCRIBE) if level == 5 else EMPTY
    subscriptions = []
    while not reader.empty:
        topic_filter = _topic_filter(reader)
        subscriptions.append(_subscription(topic_filter, reader.byte(), level))
    if not subscriptions:
        raise protocol_error("a SUBSCRIBE without a topic filter")  # [MQTT-3.8.3-2]; of 3.1.1 [MQTT-3.8.3-3]
    return Subscribe(packet_id, tuple(subscriptions), properties)


def _subscription(topic_filter: str, options: int, level: int) -> Subscription:
    if options & 0x03 == 3:
        raise protocol_error("the requested QoS is 3")  # section 3.8.3.1; of 3.1.1 [MQTT-3.8.3-4]
    if level != 5:
        if options & 0xFC and level == 4:
            raise malformed("reserved bits of the requested QoS are set")  # [MQTT-3.8.3-4] of 3.1.1
        return Subscription(topic_filter, options & 3)
    if options & 0xC0:
        raise malformed("reserved bits of the subscription options are set")  # [MQTT-3.8.3-5]
    if options & 0x30 == 0x30:
        raise protocol_error("retain handling is 3")  # section 3.8.3.1
    no_local = bool(options & 0x04)
    if no_local and topic_filter.startswith("$share/"):
        raise protocol_error("no local on a shared subscription")  # [MQTT-3.8.3-4]
    return Subscription(topic_filter, options & 3, no_local, bool(options & 0x08), options >> 4 & 3)


def _topic_filter(reader: Reader) -> str:
    topic_filter = reader.text()
    problem = topic_filter_problem(topic_filter)
    if problem and topic_filter.count("/") >= LEVELS_MAX:  # a limit of ours, and not malformed (section 3.14.2.1)
        raise RemoteProtocolError(Reason.TOPIC_FILTER_INVALID, problem)
    if problem:
        raise protocol_error(problem)
    return topic_filter


def _decode_suback(_first: int, reader: Reader, level: int) -> SubAck:
    packet_id = _packet_id(reader)
    properties = decode_properties(reader, T.SUBACK) if level == 5 else EMPTY
    codes = tuple(reader.rest())
    allowed = ALLOWED[T.SUBACK] if level == 5 else V3_SUBACK_CODES
    if not codes or not allowed.issuperset(codes):
        raise malformed("a SUBACK without codes or with one that does not exist")  # [MQTT-3.9.3-2]
    return SubAck(packet_id, codes, properties)


def _decode_unsubscribe(_first: int, reader: Reader, level: int) -> Unsubscribe:
    packet_id = _packet_id(reader)
    properties = decode_properties(reader, T.UNSUBSCRIBE) if level == 5 else EMPTY
    topic_filters = []
    while not reader.empty:
        topic_filters.append(_topic_filter(reader))
    if not topic_filters:
        raise protocol_error("an UNSUBSCRIBE without a topic filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, tuple(topic_filters), properties)


def _decode_unsuback(_first: int, reader: Reader, level: int) -> UnsubAck:
    packet_id = _packet_id(reader)
    if level != 5:
        reader.finish()
        return UnsubAck(packet_id)
    properties = decode_properties(reader, T.UNSUBACK)
    codes = tuple(reader.rest())
    if not codes or not ALLOWED[T.UNSUBACK].issuperset(codes):
        raise malformed("an UNSUBACK without codes or with one that does not exist")  # [MQTT-3.11.3-2]
    return UnsubAck(packet_id, codes, properties)


def _decode_pingreq(_first: int, reader: Reader, _level: int) -> PingReq:
    reader.finish()
    return PingReq()


def _decode_pingresp(_first: int, reader: Reader, _level: int) -> PingResp:
    reader.finish()
    return PingResp()


def _decode_disconnect(_first: int, reader: Reader, level: int) -> Disconnect:
    if reader.empty or level != 5:
        reader.finish()
        return Disconnect()
    reason = reader.byte()
    _check_reason(reason, T.DISCONNECT)
    properties = EMPTY if reader.empty else decode_properties(reader, T.DISCONNECT)
    reader.finish()
    return Disconnect(reason, properties)


def _decode_auth(_first: int, reader: Reader, _level: int) -> Auth:
    if reader.empty:
        return Auth()
    reason = reader.byte()
    _check_reason(reason, T.AUTH)
    properties = decode_properties(reader, T.AUTH)
    reader.finish()
    return Auth(reason, properties)


_DECODERS: Final[Mapping[int, Callable[[int, Reader, int], Packet]]] = {
    T.CONNECT: _decode_connect,
    T.CONNACK: _decode_connack,
    T.PUBLISH: _decode_publish,
    T.PUBACK: _receipt_decoder(PubAck, T.PUBACK),
    T.PUBREC: _receipt_decoder(PubRec, T.PUBREC),
    T.PUBREL: _receipt_decoder(PubRel, T.PUBREL),
    T.PUBCOMP: _receipt_decoder(PubComp, T.PUBCOMP),
    T.SUBSCRIBE: _decode_subscribe,
    T.SUBACK: _decode_suback,
    T.UNSUBSCRIBE: _decode_unsubscribe,
    T.UNSUBACK: _decode_unsuback,
    T.PINGREQ: _decode_pingreq,
    T.PINGRESP: _decode_pingresp,
    T.DISCONNECT: _decode_disconnect,
    T.AUTH: _decode_auth,
}


class PacketReader:
    """A stream of bytes -> packets of either side, without any rule about their order.

    level             of the connection; a CONNECT that is read sets it
    packet_bytes_max  a larger packet is refused at its header, so no more than that is ever kept
    """

    __slots__ = ("_rest", "_wanted", "level", "packet_bytes_max")

    def __init__(self, level: int = 4, packet_bytes_max: int = VARIABLE_INTEGER_MAX) -> None:
        self.level = level
        self.packet_bytes_max = packet_bytes_max
        self._rest = bytearray()
        self._wanted = 0

    def feed(self, data: bytes) -> list[Packet]:
        """Every packet that is complete now. A RemoteProtocolError loses the earlier packets of its chunk."""
        self._rest += data
        if len(self._rest) < self._wanted:
            return []
        data = bytes(self._rest)
        packets: list[Packet] = []
        at = 0
        self._wanted = 0
        while (frame := find_frame(data, at, self.level)) is not None:
            if frame.stop - at > self.packet_bytes_max:
                raise RemoteProtocolError(Reason.PACKET_TOO_LARGE, f"a packet of {frame.stop - at} bytes")
            if frame.stop > len(data):
                self._wanted = frame.stop - at
                break
            packet = decode_packet(data[at], data, frame.body, frame.stop, self.level)
            if isinstance(packet, Connect):
                self.level = packet.protocol_level
            packets.append(packet)
            at = frame.stop
        del self._rest[:at]
        return packets

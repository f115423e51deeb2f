"""The properties of MQTT 5 (section 2.2.2.2): one row each, read by the decoder, the encoder and the documentation.

A row says which packets may carry the property, how its value looks and which values are legal. A property without a row,
in a packet outside its row, or twice when it may stand once, is the peer's fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import astuple

from headwater.protocols.mqtt.errors import LocalProtocolError, RemoteProtocolError
from headwater.protocols.mqtt.packet_types import PacketType as T
from headwater.protocols.mqtt.reasons import Reason
from headwater.protocols.mqtt.wire import (
    VARIABLE_INTEGER_MAX,
    Reader,
    encode_binary,
    encode_four,
    encode_text,
    encode_two,
    encode_variable_integer,
    malformed,
    protocol_error,
)


class Properties(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a packet carries beside its fields. None (or an empty tuple) = not on the wire."""

    payload_format: int | None = None
    message_expiry_s: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifiers: tuple[int, ...] = ()
    session_expiry_s: int | None = None
    assigned_client_id: str | None = None
    server_keep_alive_s: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay_s: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    packet_bytes_max: int | None = None
    wildcard_subscriptions_available: int | None = None
    subscription_identifiers_available: int | None = None
    shared_subscriptions_available: int | None = None

    def __repr__(self) -> str:  # authentication data is a secret
        shown = (
            f"{name}={'***' if name == 'authentication_data' else repr(value)}"
            for name in self.__struct_fields__
            if (value := getattr(self, name)) not in (None, ())
        )
        return f"Properties({', '.join(shown)})"


EMPTY: Final = Properties()


class Kind(Enum):
    BYTE = "byte"
    TWO = "two byte integer"
    FOUR = "four byte integer"
    VARIABLE = "variable byte integer"
    TEXT = "UTF-8 string"
    BINARY = "binary data"
    PAIR = "UTF-8 string pair"


class Property(NamedTuple):
    identifier: int
    name: str
    kind: Kind
    packets: frozenset[T]
    low: int = 0
    high: int = 0xFFFF_FFFF
    reason: int = Reason.PROTOCOL_ERROR
    """The reason code for a value outside low..high."""
    repeats: bool = False


_MESSAGE = frozenset({T.PUBLISH, T.WILL})
_CONNECT = frozenset({T.CONNECT})
_CONNACK = frozenset({T.CONNACK})
_BOTH = frozenset({T.CONNECT, T.CONNACK})
_AUTHENTICATION = frozenset({T.CONNECT, T.CONNACK, T.AUTH})
_EXPIRY = frozenset({T.CONNECT, T.CONNACK, T.DISCONNECT})
_ANSWERS = frozenset({T.CONNACK, T.PUBACK, T.PUBREC, T.PUBREL, T.PUBCOMP, T.SUBACK, T.UNSUBACK, T.DISCONNECT, T.AUTH})
_ANY = frozenset(T) - {T.PINGREQ, T.PINGRESP}

PROPERTIES: Final = (
    Property(0x01, "payload_format", Kind.BYTE, _MESSAGE, high=1),
    Property(0x02, "message_expiry_s", Kind.FOUR, _MESSAGE),
    Property(0x03, "content_type", Kind.TEXT, _MESSAGE),
    Property(0x08, "response_topic", Kind.TEXT, _MESSAGE),
    Property(0x09, "correlation_data", Kind.BINARY, _MESSAGE),
    Property(0x0B, "subscription_identifiers", Kind.VARIABLE, frozenset({T.PUBLISH, T.SUBSCRIBE}), low=1, repeats=True),
    Property(0x11, "session_expiry_s", Kind.FOUR, _EXPIRY),
    Property(0x12, "assigned_client_id", Kind.TEXT, _CONNACK),
    Property(0x13, "server_keep_alive_s", Kind.TWO, _CONNACK),
    Property(0x15, "authentication_method", Kind.TEXT, _AUTHENTICATION),
    Property(0x16, "authentication_data", Kind.BINARY, _AUTHENTICATION),
    Property(0x17, "request_problem_information", Kind.BYTE, _CONNECT, high=1),
    Property(0x18, "will_delay_s", Kind.FOUR, frozenset({T.WILL})),
    Property(0x19, "request_response_information", Kind.BYTE, _CONNECT, high=1),
    Property(0x1A, "response_information", Kind.TEXT, _CONNACK),
    Property(0x1C, "server_reference", Kind.TEXT, frozenset({T.CONNACK, T.DISCONNECT})),
    Property(0x1F, "reason_string", Kind.TEXT, _ANSWERS),
    Property(0x21, "receive_maximum", Kind.TWO, _BOTH, low=1),
    Property(0x22, "topic_alias_maximum", Kind.TWO, _BOTH),
    Property(
        0x23, "topic_alias", Kind.TWO, frozenset({T.PUBLISH}), low=1, reason=Reason.TOPIC_ALIAS_INVALID
    ),  # [MQTT-3.3.2-8]
    Property(0x24, "maximum_qos", Kind.BYTE, _CONNACK, high=1),
    Property(0x25, "retain_available", Kind.BYTE, _CONNACK, high=1),
    Property(0x26, "user_properties", Kind.PAIR, _ANY, repeats=True),
    Property(0x27, "packet_bytes_max", Kind.FOUR, _BOTH, low=1),
    Property(0x28, "wildcard_subscriptions_available", Kind.BYTE, _CONNACK, high=1),
    Property(0x29, "subscription_identifiers_available", Kind.BYTE, _CONNACK, high=1),
    Property(0x2A, "shared_subscriptions_available", Kind.BYTE, _CONNACK, high=1),
)

_BY_IDENTIFIER: Final[Mapping[int, Property]] = {row.identifier: row for row in PROPERTIES}

_READ: Final[Mapping[Kind, Callable[[Reader], Any]]] = {
    Kind.BYTE: Reader.byte,
    Kind.TWO: Reader.two,
    Kind.FOUR: Reader.four,
    Kind.VARIABLE: Reader.variable_integer,
    Kind.TEXT: Reader.text,
    Kind.BINARY: Reader.binary,
    Kind.PAIR: lambda reader: (reader.text(), reader.text()),
}

_WRITE: Final[Mapping[Kind, Callable[[Any], bytes]]] = {
    Kind.BYTE: lambda value: bytes((value,)),
    Kind.TWO: encode_two,
    Kind.FOUR: encode_four,
    Kind.VARIABLE: encode_variable_integer,
    Kind.TEXT: encode_text,
    Kind.BINARY: encode_binary,
    Kind.PAIR: lambda pair: encode_text(pair[0]) + encode_text(pair[1]),
}


def decode_properties(reader: Reader, packet: T) -> Properties:
    """The property block at the reader's place; EMPTY when its length is 0."""
    length = reader.variable_integer()
    if length == 0:
        return EMPTY
    if reader.at + length > reader.end:
        raise malformed("the properties reach beyond the end of their packet")
    block = Reader(reader.data, reader.at, reader.at + length)
    reader.at = block.end
    found: dict[str, Any] = {}
    while not block.empty:
        row = _BY_IDENTIFIER.get(block.variable_integer())
        if row is None or packet not in row.packets:
            raise malformed(f"{packet.name} carries a property that it may not have")  # section 2.2.2.2
        value = _READ[row.kind](block)
        if isinstance(value, int) and not row.low <= value <= row.high:
            raise RemoteProtocolError(row.reason, f"{row.name} may not be {value}")
        if row.repeats:
            found.setdefault(row.name, []).append(value)
        elif row.name in found:
            raise protocol_error(f"{row.name} stands twice")
        else:
            found[row.name] = value
    return _properties(found, packet)


def _properties(found: dict[str, Any], packet: T) -> Properties:
    for name in ("user_properties", "subscription_identifiers"):
        if name in found:
            found[name] = tuple(found[name])
    if packet is T.SUBSCRIBE and len(found.get("subscription_identifiers", ())) > 1:
        raise protocol_error("a SUBSCRIBE has more than one subscription identifier")  # section 3.8.2.1.2
    if "authentication_data" in found and "authentication_method" not in found:
        raise protocol_error("authentication data without a method")  # sections 3.1.2.11.10, 3.15.2.2.3
    return Properties(**found)


def encode_properties(properties: Properties | None, packet: T) -> bytes:
    """Length and properties, in the order of the table."""
    if properties is None or properties is EMPTY:
        return b"\0"
    block = bytearray()
    values = astuple(properties)
    for at, row, high, write in _ENCODING:
        value = values[at]
        if value is None or value == ():
            continue
        if packet not in row.packets:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"{packet.name} may not carry {row.name}")
        for each in value if row.repeats else (value,):
            if isinstance(each, int) and not row.low <= each <= high:
                raise LocalProtocolError(row.reason, f"{row.name} may not be {each}")
            block.append(row.identifier)
            block += write(each)
    return encode_variable_integer(len(block)) + block


_HIGHEST: Final[Mapping[Kind, int]] = {
    Kind.BYTE: 0xFF,
    Kind.TWO: 0xFFFF,
    Kind.FOUR: 0xFFFF_FFFF,
    Kind.VARIABLE: VARIABLE_INTEGER_MAX,
}

# In the order of the table: where the value stands in the struct, the row, the highest value, the writer.
_ENCODING: Final = tuple(
    (Properties.__struct_fields__.index(row.name), row, min(row.high, _HIGHEST.get(row.kind, 0)), _WRITE[row.kind])
    for row in PROPERTIES
)

"""One message on its way to many clients: what is the same for all of them is encoded once.

A client's version, the QoS and the flags are a *form* of the message: the first byte of the PUBLISH, and V5. A QoS 0 form is
a whole packet, one bytes object in every client's queue; a QoS 1 or 2 form is a head and a tail with room for the client's
packet identifier between them. Forms are made when the first client needs them and die with the message.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from headwater.protocols.mqtt.errors import LocalProtocolError
from headwater.protocols.mqtt.packet_types import PacketType
from headwater.protocols.mqtt.properties import Properties, encode_properties
from headwater.protocols.mqtt.reasons import Reason
from headwater.protocols.mqtt.topics import topic_name_problem
from headwater.protocols.mqtt.wire import encode_text, encode_variable_integer

V5: Final = 0x100
"""Beyond the first byte. Clients of MQTT 3 get no properties."""

HEAD_BYTES_MAX: Final = 5


class Split(NamedTuple):
    head: bytes
    tail: bytes
    size: int
    """Of the whole packet, with its packet identifier."""

    @property
    def joined(self) -> bytes:
        """A QoS 0 packet."""
        return self.head + self.tail


class Deliverable:
    """Topic, payload and properties; the properties are those of the message, so neither alias nor subscription identifier.

    topic_wire  the topic with its length in front, where the caller knows it: of a topic that is valid
    whole       form -> QoS 0 packet
    split       form -> head and tail of a QoS 1 or 2 packet
    The last two are read by the session itself, which asks `make_whole` and `make_split` for what is missing.
    """

    __slots__ = ("_block", "_topic_wire", "payload", "properties", "split", "topic", "whole")

    def __init__(
        self, topic: str, payload: bytes, properties: Properties | None = None, topic_wire: bytes | None = None
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.properties = properties
        self.whole: dict[int, bytes] | None = None
        self.split: dict[int, Split] | None = None
        self._topic_wire = topic_wire
        self._block: bytes | None = None

    def make_whole(self, form: int) -> bytes:
        """Of most messages the only form, and made once for each: put together at once."""
        topic, payload = self._topic_wire or self._encode_topic(), self.payload
        properties = self._properties_wire(b"") if form & V5 else b""
        head = publish_head(form, len(topic) + len(properties) + len(payload))
        packet = b"".join((head, topic, properties, payload))
        if self.whole is None:
            self.whole = {}
        self.whole[form] = packet
        return packet

    def make_split(self, form: int) -> Split:
        made = self._split(form, b"", 2, self._topic_wire or self._encode_topic())
        if self.split is None:
            self.split = {}
        self.split[form] = made
        return made

    def make_own(self, form: int, own: bytes, *, with_topic: bool) -> Split:
        """The form as one client alone gets it: with properties of its own, or with an alias in place of the topic."""
        topic = (self._topic_wire or self._encode_topic()) if with_topic else b"\0\0"
        return self._split(form, own, 2 if form & 0x06 else 0, topic)

    def _split(self, form: int, own: bytes, packet_id_bytes: int, topic: bytes) -> Split:
        tail = self._properties_wire(own) + self.payload if form & V5 else self.payload
        head = publish_head(form, len(topic) + packet_id_bytes + len(tail)) + topic
        return Split(head, tail, len(head) + packet_id_bytes + len(tail))

    def _properties_wire(self, own: bytes) -> bytes:
        """With the length in front."""
        if not own and self.properties is None:
            return b"\0"
        block = self._properties()
        return b"".join((encode_variable_integer(len(block) + len(own)), block, own))

    def _encode_topic(self) -> bytes:
        problem = topic_name_problem(self.topic)
        if problem:
            raise LocalProtocolError(Reason.TOPIC_NAME_INVALID, problem)
        self._topic_wire = encode_text(self.topic)
        return self._topic_wire

    def _properties(self) -> bytes:
        """Without the length in front."""
        block = self._block
        if block is None:
            properties = self.properties
            if properties is not None and (properties.topic_alias is not None or properties.subscription_identifiers):
                raise LocalProtocolError(Reason.PROTOCOL_ERROR, "an alias or subscription identifier for many clients")
            encoded = encode_properties(properties, PacketType.PUBLISH)
            block = self._block = encoded[_variable_integer_bytes(encoded) :]
        return block


def publish_head(form: int, length: int) -> bytes:
    """First byte and remaining length: at most HEAD_BYTES_MAX."""
    if length < 128:
        return ((form & 0xFF) << 8 | length).to_bytes(2, "big")
    if length < 16_384:
        return ((form & 0xFF) << 16 | (length & 127 | 128) << 8 | length >> 7).to_bytes(3, "big")
    return (form & 0xFF).to_bytes(1, "big") + encode_variable_integer(length)


def _variable_integer_bytes(encoded: bytes) -> int:
    return next(at for at, byte in enumerate(encoded) if byte < 128) + 1

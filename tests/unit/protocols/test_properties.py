"""The property table against MQTT 5, table 2-4, and the rules for what stands in a property block."""

from __future__ import annotations

import pytest

from headwater.protocols.mqtt import (
    EMPTY,
    PROPERTIES,
    LocalProtocolError,
    PacketReader,
    PacketType,
    Properties,
    Publish,
    RemoteProtocolError,
    SubAck,
    encode_packet,
)
from headwater.protocols.mqtt.properties import decode_properties, encode_properties
from headwater.protocols.mqtt.wire import Reader

T = PacketType
ANSWERS = "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"
SPECIFICATION = {  # identifier: (type, packets), copied from table 2-4
    0x01: ("byte", "PUBLISH WILL"),
    0x02: ("four byte integer", "PUBLISH WILL"),
    0x03: ("UTF-8 string", "PUBLISH WILL"),
    0x08: ("UTF-8 string", "PUBLISH WILL"),
    0x09: ("binary data", "PUBLISH WILL"),
    0x0B: ("variable byte integer", "PUBLISH SUBSCRIBE"),
    0x11: ("four byte integer", "CONNECT CONNACK DISCONNECT"),
    0x12: ("UTF-8 string", "CONNACK"),
    0x13: ("two byte integer", "CONNACK"),
    0x15: ("UTF-8 string", "CONNECT CONNACK AUTH"),
    0x16: ("binary data", "CONNECT CONNACK AUTH"),
    0x17: ("byte", "CONNECT"),
    0x18: ("four byte integer", "WILL"),
    0x19: ("byte", "CONNECT"),
    0x1A: ("UTF-8 string", "CONNACK"),
    0x1C: ("UTF-8 string", "CONNACK DISCONNECT"),
    0x1F: ("UTF-8 string", ANSWERS),
    0x21: ("two byte integer", "CONNECT CONNACK"),
    0x22: ("two byte integer", "CONNECT CONNACK"),
    0x23: ("two byte integer", "PUBLISH"),
    0x24: ("byte", "CONNACK"),
    0x25: ("byte", "CONNACK"),
    0x26: ("UTF-8 string pair", f"CONNECT PUBLISH WILL SUBSCRIBE UNSUBSCRIBE {ANSWERS}"),
    0x27: ("four byte integer", "CONNECT CONNACK"),
    0x28: ("byte", "CONNACK"),
    0x29: ("byte", "CONNACK"),
    0x2A: ("byte", "CONNACK"),
}


def test_the_table_is_the_specification() -> None:
    ours = {row.identifier: (row.kind.value, {packet.name for packet in row.packets}) for row in PROPERTIES}
    assert ours == {key: (kind, set(packets.split())) for key, (kind, packets) in SPECIFICATION.items()}
    assert {row.name for row in PROPERTIES} == set(Properties.__struct_fields__)


def decode(block: str, packet: PacketType = T.PUBLISH) -> Properties:
    data = bytes.fromhex(block)
    return decode_properties(Reader(data, 0, len(data)), packet)


@pytest.mark.parametrize(
    ("block", "packet", "reason"),
    [
        ("02 7f00", T.PUBLISH, 0x81),  # no such property
        ("03 110000", T.PUBLISH, 0x81),  # a property of other packets
        ("03 0102", T.PUBLISH, 0x81),  # the block reaches beyond the packet
        ("01 01", T.PUBLISH, 0x81),  # a value reaches beyond the block
        ("04 0100 0101", T.PUBLISH, 0x82),  # twice
        ("02 0102", T.PUBLISH, 0x82),  # payload format 2
        ("02 0b00", T.PUBLISH, 0x82),  # subscription identifier 0
        ("04 0b01 0b02", T.SUBSCRIBE, 0x82),  # two of them in a SUBSCRIBE
        ("03 230000", T.PUBLISH, 0x94),  # topic alias 0
        ("03 210000", T.CONNECT, 0x82),  # receive maximum 0
        ("05 2700000000", T.CONNECT, 0x82),  # maximum packet size 0
        ("02 1702", T.CONNECT, 0x82),  # request problem information 2
        ("04 16000161", T.CONNECT, 0x82),  # authentication data without a method
        ("04 030001ff", T.PUBLISH, 0x81),  # not UTF-8
        ("04 03000100", T.PUBLISH, 0x81),  # U+0000
        ("8000", T.PUBLISH, 0x81),  # length in two bytes where one is enough
        ("ffffffff01", T.PUBLISH, 0x81),  # length in five bytes
    ],
)
def test_what_a_block_may_not_say(block: str, packet: PacketType, reason: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(block, packet)
    assert caught.value.reason == reason


def test_user_properties_keep_order_and_repetition() -> None:
    pairs = (("b", "1"), ("a", "2"), ("b", "1"))
    encoded = encode_properties(Properties(user_properties=pairs), T.PUBLISH)
    assert decode(encoded.hex()).user_properties == pairs


def test_no_properties_are_one_zero_byte_and_one_object() -> None:
    assert encode_properties(None, T.PUBLISH) == encode_properties(Properties(), T.PUBLISH) == b"\0"
    assert decode("00") is EMPTY


@pytest.mark.parametrize(
    "wrong",
    [
        Properties(will_delay_s=1),
        Properties(payload_format=2),
        Properties(topic_alias=0),
        Properties(topic_alias=65_536),
        Properties(message_expiry_s=-1),
        Properties(content_type="\0"),
        Properties(content_type="\ud800"),
        Properties(correlation_data=bytes(65_536)),
    ],
)
def test_what_we_may_not_send(wrong: Properties) -> None:
    with pytest.raises(LocalProtocolError):
        encode_packet(Publish("a", b"", properties=wrong), 5)


def test_an_answer_may_explain_itself() -> None:
    answer = SubAck(7, (0x87,), Properties(reason_string="no", user_properties=(("k", "v"),)))
    assert PacketReader(5).feed(encode_packet(answer, 5)) == [answer]

"""decode(encode(packet)) == packet for every packet of every version, however the bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.protocols.strategies import packets

from headwater.protocols.mqtt import (
    Connect,
    Packet,
    PacketReader,
    Properties,
    Publish,
    RemoteProtocolError,
    Will,
    decode,
    encode_packet,
    find_frame,
)

LEVELS = st.sampled_from([3, 4, 5])


@st.composite
def versions(draw: st.DrawFn) -> tuple[int, list[Packet]]:
    level = draw(LEVELS)
    return level, draw(st.lists(packets(level), min_size=1, max_size=4))


@given(versions())
@settings(max_examples=150, deadline=None)
def test_whole_byte_by_byte_and_with_a_tail(case: tuple[int, list[Packet]]) -> None:
    level, sent = case
    stream = b"".join(encode_packet(packet, level) for packet in sent)

    assert PacketReader(level).feed(stream) == sent

    reader = PacketReader(level)
    assert [packet for byte in stream for packet in reader.feed(bytes((byte,)))] == sent

    reader = PacketReader(level)
    assert reader.feed(stream + stream[:1]) == sent  # the tail is the beginning of another packet
    assert reader.feed(stream[1:]) == sent


@given(versions(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_packet_cut_short_is_refused(case: tuple[int, list[Packet]], data: st.DataObject) -> None:
    """A body that ends early is malformed or another valid packet, but never reads beyond its end."""
    level, sent = case
    encoded = encode_packet(sent[0], level)
    body = _body(encoded)
    if not body:
        return
    cut = data.draw(st.integers(0, len(body) - 1))
    shorter = bytes((encoded[0],)) + _remaining_length(cut) + body[:cut]
    try:
        (packet,) = PacketReader(level).feed(shorter)
    except RemoteProtocolError:
        return
    level = packet.protocol_level if isinstance(packet, Connect) else level
    assert PacketReader(level).feed(encode_packet(packet, level)) == [packet]


def _body(encoded: bytes) -> bytes:
    at = 1
    while encoded[at] & 0x80:
        at += 1
    return encoded[at + 1 :]


def _remaining_length(count: int) -> bytes:
    return bytes((count,)) if count < 128 else bytes((count & 127 | 128, count >> 7))


def test_secrets_are_not_shown() -> None:
    connect = Connect("a", 5, username="token-1", password=b"hunter2", properties=Properties(authentication_data=b"secret"))
    shown = repr(connect) + repr(connect.properties)
    assert "hunter2" not in shown
    assert "token-1" not in shown
    assert "secret" not in shown


def test_a_connect_brings_its_own_level() -> None:
    reader = PacketReader(4)
    reader.feed(encode_packet(Connect("a", 5)))
    assert reader.level == 5


def test_a_large_packet_in_small_pieces_is_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not with every piece, each look being a copy: that would cost the square of its size."""
    looks = []

    def look(data: bytes, at: int, level: int) -> decode.Frame | None:
        looks.append(len(data))
        return find_frame(data, at, level)

    monkeypatch.setattr(decode, "find_frame", look)
    stream = encode_packet(Publish("a", bytes(262_144)))
    reader = PacketReader()
    for at in range(0, len(stream), 1024):
        received = reader.feed(stream[at : at + 1024])
    assert received == [Publish("a", bytes(262_144))]
    assert looks == [1024, len(stream), len(stream)]  # the last one finds nothing behind it


@pytest.mark.parametrize("level", [3, 4])
def test_what_a_version_lacks_is_left_out(level: int) -> None:
    plain = encode_packet(Publish("a", b"x"), level)
    assert encode_packet(Publish("a", b"x", properties=Properties(message_expiry_s=5)), level) == plain
    will = Will("a", b"", properties=Properties(will_delay_s=5))
    assert encode_packet(Connect("c", level, will=will)) == encode_packet(Connect("c", level, will=Will("a", b"")))

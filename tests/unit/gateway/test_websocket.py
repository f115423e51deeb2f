"""WebSocket frames in pieces, the opening handshake, and what a client may not do."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from headwater.gateway.mqtt.websocket.frames import FRAME_BYTES_MAX, SMALL_MAX, Frames, WebSocketFailed, frame, unmasked
from headwater.gateway.mqtt.websocket.handshake import HandshakeRefused, answer_handshake

REQUEST = (
    "GET /mqtt HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt"
)


def masked(opcode: Opcode, payload: bytes, fin: bool = True) -> bytes:
    """As the `websockets` library writes a client's frame."""
    return Frame(opcode, payload, fin).serialize(mask=True)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def feed(frames: Frames, data: bytes, piece_bytes: int) -> bytes:
    return b"".join(frames.receive(data[start : start + piece_bytes]) for start in range(0, len(data), piece_bytes))


@given(
    payloads=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
    fragments=st.integers(1, 4),
    cuts=st.lists(st.integers(0, 5000), max_size=12),
)
def test_the_bytes_come_out_whatever_the_frames_and_the_pieces(
    payloads: list[bytes], fragments: int, cuts: list[int]
) -> None:
    """[MQTT-6.0.0-2]: packets may span frames, frames may hold several packets; control frames come in between."""
    sent = b""
    for payload in payloads:
        size = max(1, -(-len(payload) // fragments))
        parts = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
        for number, part in enumerate(parts):
            sent += masked(Opcode.CONT if number else Opcode.BINARY, part, fin=number == len(parts) - 1)
            sent += masked(Opcode.PONG, b"unasked")
    frames = Frames()
    assert b"".join(frames.receive(piece) for piece in in_pieces(sent, cuts)) == b"".join(payloads)


@given(cuts=st.lists(st.integers(0, 200), max_size=6))
def test_pings_are_answered_and_a_close_ends_the_reading(cuts: list[int]) -> None:
    sent = masked(Opcode.PING, b"are you there") + masked(Opcode.BINARY, b"abc")
    sent += masked(Opcode.CLOSE, struct.pack("!H", 1001) + b"bye") + masked(Opcode.BINARY, b"behind")
    frames = Frames()
    got = b"".join(frames.receive(piece) for piece in in_pieces(sent, cuts))
    assert (got, frames.pong, frames.closed_with) == (b"abc", b"are you there", struct.pack("!H", 1001))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
def test_lengths(size: int) -> None:
    payload = bytes(i & 0xFF for i in range(size))
    assert Frames().receive(masked(Opcode.BINARY, payload)) == payload
    assert frame(Opcode.BINARY, payload) == Frame(Opcode.BINARY, payload).serialize(mask=False)


@given(st.binary(max_size=70), st.binary(min_size=4, max_size=4))
def test_masking(data: bytes, mask: bytes) -> None:
    assert unmasked(data, mask) == bytes(byte ^ mask[at & 3] for at, byte in enumerate(data))


@pytest.mark.parametrize(
    ("sent", "close_code"),
    [
        (masked(Opcode.TEXT, b"abc"), 1003),  # [MQTT-6.0.0-1]
        (Frame(Opcode.BINARY, b"abc").serialize(mask=False), 1002),
        (masked(Opcode.CONT, b"abc"), 1002),
        (masked(Opcode.BINARY, b"abc", fin=False) + masked(Opcode.BINARY, b"abc"), 1002),
        (b"\xc2" + masked(Opcode.BINARY, b"abc")[1:], 1002),  # RSV1: compression that nobody agreed to
        (b"\x83" + masked(Opcode.BINARY, b"abc")[1:], 1002),
        (b"\x89\xfe\x00\x7e" + bytes(4) + bytes(126), 1002),  # a ping of 126 bytes
        (b"\x09\x80" + bytes(4), 1002),  # a ping in fragments
        (b"\x82\xff" + (FRAME_BYTES_MAX + 1).to_bytes(8, "big") + bytes(4), 1009),
        (b"\x82\xff" + bytes([255] * 8) + bytes(4), 1009),
        (masked(Opcode.CLOSE, b"\x03"), 1002),
        (masked(Opcode.CLOSE, struct.pack("!H", 1005)), 1002),  # section 7.4.1: never on the wire
        (masked(Opcode.CLOSE, struct.pack("!H", 5000)), 1002),
    ],
    ids=[
        "text", "unmasked", "a continuation of nothing", "fragments", "compressed", "reserved", "a large ping",
        "a fragmented ping", "too large", "far too large", "half a close code",
        "a close code for oneself", "a close code of nobody",
    ],
)  # fmt: skip
def test_what_a_client_may_not_send(sent: bytes, close_code: int) -> None:
    for piece_bytes in (1, len(sent)):
        with pytest.raises(WebSocketFailed) as failed:
            feed(Frames(), sent, piece_bytes)
        assert failed.value.close_code == close_code


@pytest.mark.parametrize(
    "small",
    [masked(Opcode.BINARY, b""), masked(Opcode.PING, bytes(100)), masked(Opcode.BINARY, b"7 bytes")],
    ids=["empty frames", "pings", "a few bytes each"],
)
def test_a_flood_of_frames_that_carry_nothing_ends(small: bytes) -> None:
    frames = Frames()
    for _ in range(3):  # of each read
        frames.receive(small * SMALL_MAX)
        assert frames.small == SMALL_MAX
    with pytest.raises(WebSocketFailed) as failed:
        frames.receive(small * (SMALL_MAX + 1))
    assert failed.value.close_code == 1008


def test_frames_that_carry_something_are_as_many_as_there_are() -> None:
    frames = Frames()
    assert len(frames.receive(masked(Opcode.BINARY, b"8 bytes!") * 10_000)) == 80_000
    assert frames.small == 0


def test_little_is_kept_of_a_frame_that_is_not_whole() -> None:
    frames = Frames()
    sent = masked(Opcode.BINARY, bytes(100_000))
    assert len(feed(frames, sent[:90_000], 1000)) > 89_000
    assert frames._rest == b""


def test_the_handshake_of_rfc_6455() -> None:
    answer = answer_handshake(REQUEST.encode()).decode()
    assert answer.startswith("HTTP/1.1 101 ")
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer  # section 1.3
    assert "Sec-WebSocket-Protocol: mqtt\r\n" in answer


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [("mqttv3.1", "mqttv3.1"), ("mqttv3.1, mqtt", "mqtt"), ("chat\r\nSec-WebSocket-Protocol: mqtt", "mqtt")],
)
def test_the_subprotocol(offered: str, chosen: str) -> None:
    answer = answer_handshake(REQUEST.replace("Protocol: mqtt", f"Protocol: {offered}").encode()).decode()
    assert f"Sec-WebSocket-Protocol: {chosen}\r\n" in answer


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("GET", "POST", 405),
        ("HTTP/1.1", "HTTP/1.0", 405),
        ("/mqtt", "/", 404),
        ("/mqtt HTTP/1.1", "nothing", 400),
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("keep-alive, Upgrade", "keep-alive", 426),
        ("Version: 13", "Version: 8", 426),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "!", 400),
        ("Protocol: mqtt", "Protocol: MQTT, soap", 400),  # [MQTT-6.0.0-3]
        ("\r\nSec-WebSocket-Protocol: mqtt", "", 400),
        ("Host: gateway", "Host gateway", 400),
        ("Host: gateway", " Host: gateway", 400),
    ],
)
def test_a_handshake_that_is_refused(old: str, new: str, status: int) -> None:
    with pytest.raises(HandshakeRefused) as refused:
        answer_handshake(REQUEST.replace(old, new).encode())
    assert refused.value.answer.startswith(f"HTTP/1.1 {status} ".encode())


def test_a_path_may_carry_a_query() -> None:
    assert answer_handshake(REQUEST.replace("/mqtt HTTP", "/mqtt?client=1 HTTP").encode()).startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize(
    ("origin", "is_local"),
    [
        ("", True),  # not a browser
        ("\r\nOrigin: http://localhost:5173", True),
        ("\r\nOrigin: http://[::1]", True),
        ("\r\nOrigin: https://example.org", False),
        ("\r\nOrigin: http://localhost.example.org", False),
        ("\r\nOrigin: null", False),
    ],
)
def test_where_no_credential_is_asked_for_pages_of_other_sites_stay_outside(origin: str, is_local: bool) -> None:
    head = (REQUEST + origin).encode()
    assert answer_handshake(head).startswith(b"HTTP/1.1 101")
    if is_local:
        assert answer_handshake(head, local_origins=True).startswith(b"HTTP/1.1 101")
    else:
        with pytest.raises(HandshakeRefused) as refused:
            answer_handshake(head, local_origins=True)
        assert refused.value.answer.startswith(b"HTTP/1.1 403")

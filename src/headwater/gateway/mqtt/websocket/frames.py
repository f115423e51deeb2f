"""The frames of a WebSocket (RFC 6455, section 5), the server's side: bytes in any pieces in, bytes of MQTT out. No socket.

MQTT uses WebSocket as a stream of bytes [MQTT-6.0.0-2], so nothing is assembled: what has come of a frame is unmasked and
handed on, and a connection keeps at most the head of one frame. No extensions, no text.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

FRAME_BYTES_MAX: Final = 1 << 20
"""No client needs one larger than a packet; it is not kept, so this only ends nonsense early."""
CONTROL_BYTES_MAX: Final = 125  # RFC 6455, section 5.5
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FIN: Final = 0x80
NORMAL, PROTOCOL_ERROR, UNSUPPORTED_DATA, POLICY_VIOLATION, TOO_BIG = 1000, 1002, 1003, 1008, 1009
_CLOSE_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015)})
SMALL_BYTES: Final = 8
"""A data frame below it, and any control frame, is small: a microsecond of ours for a few bytes of theirs."""
SMALL_MAX: Final = 512
"""Small frames in what one read of the socket holds. The loop reads one socket many times in a turn, so a stranger who sends
nothing but empty frames would have it for himself."""


class WebSocketFailed(Exception):
    """The peer broke the rules of RFC 6455, or of MQTT over it."""

    def __init__(self, close_code: int, detail: str) -> None:
        super().__init__(detail)
        self.close_code = close_code
        self.detail = detail


class _Head(NamedTuple):
    fin: bool
    opcode: int
    length: int
    mask: bytes
    body: int
    """where the payload begins"""


class Frames:
    """A client's frames in any pieces; out come the bytes of MQTT, and what must be answered."""

    __slots__ = ("_left", "_mask", "_rest", "_within", "closed_with", "pong", "small")

    def __init__(self) -> None:
        self._rest = b""
        """the head of a frame, or a whole control frame, of which not all has come"""
        self._left = 0
        """bytes still to come of the data frame that we are in"""
        self._mask = b""
        self._within = False
        """a message has begun whose last frame has not come"""
        self.pong: bytes | None = None
        """what the last ping said; only the last one need be answered (section 5.5.3)"""
        self.closed_with: bytes | None = None
        """the client's close code, as it came; nothing is read behind it"""
        self.small = 0
        """frames in what was received last that hardly carried anything"""

    def receive(self, data: bytes) -> bytes:
        """The bytes of MQTT that it holds. Raises WebSocketFailed."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        self.small = 0
        parts: list[bytes] = []
        at, size = 0, len(data)
        while at < size and self.closed_with is None:
            if self._left:
                at = self._take(data, at, parts)
                continue
            head = _head(data, at)
            if head is None:
                self._rest = data[at:]
                break
            self._judge(head)
            if head.length < SMALL_BYTES or head.opcode >= CLOSE:
                self._count_small()
            if head.opcode >= CLOSE:
                end = head.body + head.length
                if end > size:
                    self._rest = data[at:]
                    break
                self._control(head.opcode, unmasked(data[head.body : end], head.mask))
                at = end
            else:
                self._within = not head.fin
                self._left, self._mask, at = head.length, head.mask, head.body
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take(self, data: bytes, at: int, parts: list[bytes]) -> int:
        piece = data[at : at + self._left]
        parts.append(unmasked(piece, self._mask))
        taken = len(piece)
        self._left -= taken
        if self._left:
            turn = taken & 3
            self._mask = self._mask[turn:] + self._mask[:turn]
        return at + taken

    def _judge(self, head: _Head) -> None:
        if head.opcode >= CLOSE:
            if not head.fin or head.length > CONTROL_BYTES_MAX:
                raise WebSocketFailed(PROTOCOL_ERROR, "a control frame is fragmented or too long")
        elif head.opcode == TEXT:  # [MQTT-6.0.0-1]
            raise WebSocketFailed(UNSUPPORTED_DATA, "MQTT comes in binary frames only")
        elif (head.opcode == CONTINUATION) is not self._within:
            raise WebSocketFailed(PROTOCOL_ERROR, "a continuation without a beginning, or a beginning within a message")
        elif head.length > FRAME_BYTES_MAX:
            raise WebSocketFailed(TOO_BIG, f"a frame of {head.length} bytes, {FRAME_BYTES_MAX} are allowed")

    def _count_small(self) -> None:
        self.small += 1
        if self.small > SMALL_MAX:
            raise WebSocketFailed(POLICY_VIOLATION, f"more than {SMALL_MAX} frames at once that carry hardly anything")

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.pong = payload
        elif opcode == CLOSE:
            if payload and not _may_be_sent(payload[:2]):
                raise WebSocketFailed(PROTOCOL_ERROR, "a close frame has no code that may be sent")
            self.closed_with = payload[:2]


def _may_be_sent(close_code: bytes) -> bool:
    """Section 7.4, and what IANA has registered since."""
    code = int.from_bytes(close_code, "big")
    return len(close_code) == 2 and (code in _CLOSE_CODES or 3000 <= code < 5000)


def _head(data: bytes, at: int) -> _Head | None:
    """None: not all of it has come. Raises WebSocketFailed."""
    if len(data) < at + 2:
        return None
    first, second = data[at], data[at + 1]
    opcode = first & 0x0F
    if first & 0x70 or opcode not in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}:
        raise WebSocketFailed(PROTOCOL_ERROR, "a frame has reserved bits or a reserved opcode")
    if not second & 0x80:
        raise WebSocketFailed(PROTOCOL_ERROR, "a client must mask its frames")  # section 5.1
    length, body = second & 0x7F, at + 2
    if length >= 126:
        wide = 2 if length == 126 else 8
        if len(data) < body + wide:
            return None
        length = int.from_bytes(data[body : body + wide], "big")
        body += wide
    if len(data) < body + 4:
        return None
    return _Head(bool(first & _FIN), opcode, length, data[body : body + 4], body + 4)


def unmasked(data: bytes, mask: bytes) -> bytes:
    """XOR with the mask, again and again, as one large number: section 5.3 without a loop over bytes."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def frame(opcode: int, payload: bytes) -> bytes:
    """A server's frame: whole, not masked."""
    size = len(payload)
    if size < 126:
        return bytes((_FIN | opcode, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", _FIN | opcode, 126, size) + payload
    return struct.pack("!BBQ", _FIN | opcode, 127, size) + payload

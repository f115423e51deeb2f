"""MQTT over WebSocket (MQTT 5, section 6; RFC 6455, the server's side): to the MQTT connection it is a transport.

MQTT uses WebSocket as a stream of bytes [MQTT-6.0.0-2], so nothing is assembled here: what has come of a frame is unmasked
and handed on, and a connection keeps at most the head of one frame. No extensions, no text. What a peer does wrong ends the
connection with the close code that RFC 6455 names for it.

Own code, because the libraries that are fast enough only hand out connections that they have accepted themselves: no PROXY
header before them, no door, and a buffer of whole messages for each.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from headwater.gateway.mqtt.door import Refusal
from headwater.gateway.mqtt.hang_up import hang_up

PATH: Final = "/mqtt"
PROTOCOLS: Final = ("mqtt", "mqttv3.1")
"""[MQTT-6.0.0-3]; the second is what clients of MQTT 3.1 were told to say."""
HEAD_BYTES_MAX: Final = 8_192
"""Of the request. Cookies and a proxy's headers fit."""
HEAD_S: Final = 10.0
FRAME_BYTES_MAX: Final = 1 << 20
"""No client needs one larger than a packet; it is not kept, so this only ends nonsense early."""
FRAME_HEAD_BYTES_MAX: Final = 14
CONTROL_BYTES_MAX: Final = 125  # RFC 6455, section 5.5
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FIN: Final = 0x80
NORMAL, PROTOCOL_ERROR, UNSUPPORTED_DATA, TOO_BIG = 1000, 1002, 1003, 1009


class WebSocketFailed(Exception):
    """The peer broke the rules of RFC 6455, or of MQTT over it."""

    def __init__(self, close_code: int, detail: str) -> None:
        super().__init__(detail)
        self.close_code = close_code
        self.detail = detail


# -- the opening handshake ----------------------------------------------------------------------------------------------


class HandshakeRefused(Exception):
    """Answered with an HTTP status."""

    def __init__(self, status: str, detail: str, *headers: str) -> None:
        super().__init__(detail)
        self.detail = detail
        lines = (f"HTTP/1.1 {status}", "Connection: close", "Content-Type: text/plain", *headers)
        body = f"{detail}\n"
        self.answer = ("\r\n".join((*lines, f"Content-Length: {len(body)}")) + "\r\n\r\n" + body).encode()


def answer_handshake(head: bytes, *, local_origins: bool = False) -> bytes:
    """The 101 for a request's head (all up to the empty line). Raises HandshakeRefused.

    local_origins  where no credential is asked for: pages of other sites, which any browser on this machine may have open,
                   stay outside. Elsewhere an origin says nothing, because MQTT brings its credential itself.
    """
    lines = head.decode("latin-1").split("\r\n")
    request = lines[0].split(" ")
    if len(request) != 3 or not request[2].startswith("HTTP/"):
        raise HandshakeRefused("400 Bad Request", "this is no HTTP request; MQTT without WebSocket has another port")
    if request[0] != "GET" or request[2] != "HTTP/1.1":
        raise HandshakeRefused("405 Method Not Allowed", "a WebSocket begins with GET over HTTP/1.1", "Allow: GET")
    if request[1].partition("?")[0] != PATH:
        raise HandshakeRefused("404 Not Found", f"MQTT is at {PATH}")
    headers = _headers(lines[1:])
    if "websocket" not in _words(headers, "upgrade") or "upgrade" not in _words(headers, "connection"):
        raise HandshakeRefused("426 Upgrade Required", "this is for WebSocket only", "Upgrade: websocket")
    if headers.get("sec-websocket-version") != "13":
        raise HandshakeRefused("426 Upgrade Required", "WebSocket version 13 is spoken here", "Sec-WebSocket-Version: 13")
    origin = headers.get("origin")
    if local_origins and origin is not None and urlsplit(origin).hostname not in _LOCAL:
        raise HandshakeRefused("403 Forbidden", "a page of another site may not come in where no credential is asked for")
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise HandshakeRefused("400 Bad Request", "Sec-WebSocket-Key is missing or malformed")
    offered = [word.strip() for word in headers.get("sec-websocket-protocol", "").split(",")]
    chosen = next((one for one in PROTOCOLS if one in offered), None)
    if chosen is None:  # [MQTT-6.0.0-3]
        raise HandshakeRefused("400 Bad Request", "the client must offer the WebSocket subprotocol mqtt")
    accepted = base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accepted}\r\nSec-WebSocket-Protocol: {chosen}\r\n\r\n"
    ).encode()


def _headers(lines: list[str]) -> dict[str, str]:
    """By lower-case name; the values of a name that comes again are one list (RFC 9110, section 5.3)."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HandshakeRefused("400 Bad Request", "a header is malformed")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _words(headers: dict[str, str], name: str) -> list[str]:
    return [word.strip().lower() for word in headers.get(name, "").split(",")]


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (ValueError, binascii.Error):
        return False


# -- frames -------------------------------------------------------------------------------------------------------------


class _Head(NamedTuple):
    fin: bool
    opcode: int
    length: int
    mask: bytes
    body: int
    """where the payload begins"""


class Frames:
    """A client's frames in any pieces; out come the bytes of MQTT, and what must be answered."""

    __slots__ = ("_left", "_mask", "_rest", "_within", "closed_with", "pong")

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

    def receive(self, data: bytes) -> bytes:
        """The bytes of MQTT that it holds. Raises WebSocketFailed."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
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
            if head.opcode >= _CLOSE:
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
        if head.opcode >= _CLOSE:
            if not head.fin or head.length > CONTROL_BYTES_MAX:
                raise WebSocketFailed(PROTOCOL_ERROR, "a control frame is fragmented or too long")
        elif head.opcode == _TEXT:  # [MQTT-6.0.0-1]
            raise WebSocketFailed(UNSUPPORTED_DATA, "MQTT comes in binary frames only")
        elif (head.opcode == _CONTINUATION) is not self._within:
            raise WebSocketFailed(PROTOCOL_ERROR, "a continuation without a beginning, or a beginning within a message")
        elif head.length > FRAME_BYTES_MAX:
            raise WebSocketFailed(TOO_BIG, f"a frame of {head.length} bytes, {FRAME_BYTES_MAX} are allowed")

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self.pong = payload
        elif opcode == _CLOSE:
            self.closed_with = payload[:2]


def _head(data: bytes, at: int) -> _Head | None:
    """None: not all of it has come. Raises WebSocketFailed."""
    if len(data) < at + 2:
        return None
    first, second = data[at], data[at + 1]
    opcode = first & 0x0F
    if first & 0x70 or opcode not in {_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG}:
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


# -- the socket ---------------------------------------------------------------------------------------------------------


class WebSocketTransport(asyncio.Protocol):
    """The protocol of a socket, and the transport of the MQTT connection behind it.

    begin          makes the connection that speaks MQTT, once the handshake is done
    refused        hears, once, why it was not done; None = it ended without a word, as health checks do
    local_origins  see answer_handshake
    """

    __slots__ = (
        "_begin", "_closing", "_connection", "_deadline", "_frames", "_head", "_local_origins", "_refused", "_transport",
    )  # fmt: skip

    def __init__(
        self,
        begin: Callable[[], asyncio.Protocol],
        refused: Callable[[Refusal | None], None],
        *,
        local_origins: bool = False,
    ) -> None:
        self._begin = begin
        self._refused = refused
        self._local_origins = local_origins
        self._connection: Any = None
        self._transport: Any = None
        self._head: bytes | None = b""
        self._frames = Frames()
        self._deadline: asyncio.TimerHandle | None = None
        self._closing = False

    # -- as the protocol of the socket ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._deadline = asyncio.get_running_loop().call_later(HEAD_S, self._late)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._head is not None:
            data = self._shake_hands(self._head + data)
            if not data:
                return
        try:
            received = self._frames.receive(data)
        except WebSocketFailed as error:
            self._end(error.close_code, error.detail)
            return
        pong = self._frames.pong
        if pong is not None:
            self._frames.pong = None
            self._transport.write(frame(_PONG, pong))
        if received:
            self._connection.data_received(received)
        if self._frames.closed_with is not None and not self._closing:
            # The same code back (section 5.5.1), and for MQTT the stream has ended.
            self._closing = True
            self._transport.write(frame(_CLOSE, self._frames.closed_with))
            self._connection.eof_received()
            hang_up(self._transport, self)

    def eof_received(self) -> bool:
        if self._connection is not None and not self._closing:
            self._connection.eof_received()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._closing = True
        if self._connection is not None:
            self._connection.connection_lost(error)
        elif self._head:
            self._say(Refusal("websocket", "websocket.closed", "the connection ended before the WebSocket began"))
        else:
            self._say(None)

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.resume_writing()

    # -- the beginning and the end --------------------------------------------------------------------------------------

    def _shake_hands(self, head: bytes) -> bytes:
        """What came behind the request."""
        end = head.find(b"\r\n\r\n")
        try:
            if end > HEAD_BYTES_MAX or (end < 0 and len(head) > HEAD_BYTES_MAX):
                raise HandshakeRefused("431 Request Header Fields Too Large", f"more than {HEAD_BYTES_MAX} bytes of headers")
            if not head[:1].isupper():
                raise HandshakeRefused("400 Bad Request", "this is no HTTP request; MQTT without WebSocket has another port")
            if end < 0:
                self._head = head
                return b""
            answer = answer_handshake(head[:end], local_origins=self._local_origins)
        except HandshakeRefused as refusal:
            self._give_up(refusal.detail, "websocket.refused", refusal.answer)
            return b""
        self._head = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._transport.write(answer)
        self._connection = self._begin()
        self._connection.connection_made(self)
        return head[end + 4 :]

    def _late(self) -> None:
        self._deadline = None
        self._give_up(f"no WebSocket request within {HEAD_S:.0f} s", "websocket.timeout", b"")

    def _give_up(self, detail: str, code: str, answer: bytes) -> None:
        self._closing = True
        if answer:
            self._transport.write(answer)
        hang_up(self._transport, self)
        self._say(Refusal("websocket", code, detail))

    def _say(self, refusal: Refusal | None) -> None:
        refused, self._refused = self._refused, _nobody
        refused(refusal)

    def _end(self, close_code: int, detail: str) -> None:
        """We end it: the peer is told, and MQTT hears that it was lost."""
        self._closing = True
        self._transport.write(frame(_CLOSE, struct.pack("!H", close_code) + detail.encode()[: CONTROL_BYTES_MAX - 2]))
        self._connection.eof_received()
        hang_up(self._transport, self)

    # -- as the transport of MQTT ---------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self._closing:
            self._transport.write(frame(_BINARY, data))

    def close(self) -> None:
        """What was written is still sent, then the close frame."""
        if not self._closing:
            self._closing = True
            self._transport.write(frame(_CLOSE, struct.pack("!H", NORMAL)))
        hang_up(self._transport, self)

    def can_write_eof(self) -> bool:
        return False  # a close frame is the end of both sides

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._closing or bool(self._transport.is_closing())

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        return int(self._transport.get_write_buffer_size())

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high=high, low=low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Not the socket: nobody may write past the frames."""
        return default if name == "socket" else self._transport.get_extra_info(name, default)


def _nobody(_refusal: Refusal | None) -> None:
    return

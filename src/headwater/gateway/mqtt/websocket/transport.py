"""A WebSocket's socket: to the event loop it is a protocol, to the MQTT connection behind it a transport.

What a peer does wrong ends the connection with the close code that RFC 6455 names for it.

Own code, because the libraries that are fast enough only hand out connections that they have accepted themselves: no PROXY
header before them, no door, and a buffer of whole messages for each.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, Final

from headwater.gateway.mqtt.hang_up import hang_up
from headwater.gateway.mqtt.visitor import Refusal
from headwater.gateway.mqtt.websocket.frames import (
    BINARY,
    CLOSE,
    CONTROL_BYTES_MAX,
    NORMAL,
    PONG,
    Frames,
    WebSocketFailed,
    frame,
)
from headwater.gateway.mqtt.websocket.handshake import HEAD_BYTES_MAX, HandshakeRefused, answer_handshake

HEAD_S: Final = 10.0
SMALL_PER_MESSAGE: Final = 8
"""So many small frames count as a message of the device's quota: they cost as much. A client that writes a packet in two or
three frames has them for nothing."""


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
            self._transport.write(frame(PONG, pong))
        if self._frames.small >= SMALL_PER_MESSAGE:
            self._connection.charge(self._frames.small // SMALL_PER_MESSAGE)
        if received:
            self._connection.data_received(received)
        if self._frames.closed_with is not None and not self._closing:
            # The same code back (section 5.5.1), and for MQTT the stream has ended.
            self._closing = True
            self._transport.write(frame(CLOSE, self._frames.closed_with))
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
        """We end it: the peer is told, and MQTT hears why."""
        self._closing = True
        self._transport.write(frame(CLOSE, struct.pack("!H", close_code) + detail.encode()[: CONTROL_BYTES_MAX - 2]))
        self._connection.failed_below(detail)
        hang_up(self._transport, self)

    # -- as the transport of MQTT ---------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self._closing:
            self._transport.write(frame(BINARY, data))

    def close(self) -> None:
        """What was written is still sent, then the close frame."""
        if not self._closing:
            self._closing = True
            self._transport.write(frame(CLOSE, struct.pack("!H", NORMAL)))
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

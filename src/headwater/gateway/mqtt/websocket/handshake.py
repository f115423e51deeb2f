"""The opening handshake (RFC 6455, section 4.2): a request's head in, an answer or a refusal out. No socket."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final
from urllib.parse import urlsplit

PATH: Final = "/mqtt"
PROTOCOLS: Final = ("mqtt", "mqttv3.1")
"""[MQTT-6.0.0-3]; the second is what clients of MQTT 3.1 were told to say."""
HEAD_BYTES_MAX: Final = 8_192
"""Of the request. Cookies and a proxy's headers fit."""
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3


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

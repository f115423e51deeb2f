"""What came instead of a CONNECT: whoever looks for a mistake wants to hear of the wrong port, not of reserved flags."""

from __future__ import annotations

from headwater.protocols.mqtt.events import ProtocolFailed

_BEGINNINGS = {
    b"\x16\x03": "TLS",  # a handshake record; as a CONNECT it has reserved flags
    b"GET ": "an HTTP request",
    b"HEAD ": "an HTTP request",
    b"POST ": "an HTTP request",
    b"PUT ": "an HTTP request",
    b"OPTIONS ": "an HTTP request",
    b"CONNECT ": "a request to an HTTP proxy",
    b"PRI * HTTP/2": "an HTTP request",
    b"\r\n\r\n\0\r\nQUIT\n": "a PROXY header, which is not expected here",
    b"PROXY ": "a PROXY header, which is not expected here",
    b"SSH-": "SSH",
}


def recognised(failure: ProtocolFailed, data: bytes) -> ProtocolFailed:
    """The failure in words that help, where what came first on a connection is another protocol's beginning."""
    for beginning, name in _BEGINNINGS.items():
        if data.startswith(beginning):
            return ProtocolFailed(failure.reason, f"what came is not MQTT but {name}")
    return failure

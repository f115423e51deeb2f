"""MQTT's data types (MQTT 5, section 1.5) as bytes.

`Reader` walks one packet's body in place; every read is checked against the packet's own end, so a length inside the
packet can never reach into the next one.
"""

from __future__ import annotations

from headwater.protocols.mqtt.errors import LocalProtocolError, RemoteProtocolError
from headwater.protocols.mqtt.reasons import Reason

VARIABLE_INTEGER_MAX = 268_435_455


def malformed(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(Reason.MALFORMED_PACKET, detail)


def protocol_error(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(Reason.PROTOCOL_ERROR, detail)


class Reader:
    """A cursor over `data[at:end]`."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def _advance(self, count: int) -> int:
        start = self.at
        if start + count > self.end:
            raise malformed("a field reaches beyond the end of its packet")
        self.at = start + count
        return start

    def byte(self) -> int:
        return self.data[self._advance(1)]

    def two(self) -> int:
        start = self._advance(2)
        return self.data[start] << 8 | self.data[start + 1]

    def four(self) -> int:
        start = self._advance(4)
        return int.from_bytes(self.data[start : start + 4], "big")

    def variable_integer(self) -> int:
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                if byte == 0 and shift:
                    raise malformed("a variable byte integer is longer than it needs to be")  # [MQTT-1.5.5-1]
                return value
        raise malformed("a variable byte integer has more than four bytes")

    def binary(self) -> bytes:
        count = self.two()
        start = self._advance(count)
        return self.data[start : start + count]

    def text(self) -> str:
        return decode_text(self.binary())

    def rest(self) -> bytes:
        start = self.at
        self.at = self.end
        return self.data[start : self.end]

    @property
    def empty(self) -> bool:
        return self.at == self.end

    def finish(self) -> None:
        if self.at != self.end:
            raise malformed(f"{self.end - self.at} bytes behind the last field")


def decode_text(raw: bytes) -> str:
    """UTF-8 without surrogates [MQTT-1.5.4-1] and without U+0000 [MQTT-1.5.4-2]; U+FEFF stays [MQTT-1.5.4-3]."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise malformed("a string is not UTF-8") from None
    if "\0" in text:
        raise malformed("a string contains U+0000")
    return text


def is_text(payload: bytes) -> bool:
    """Whether a payload is what the format indicator 1 says: well-formed UTF-8 (section 3.3.2.3.2)."""
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def encode_two(value: int) -> bytes:
    if not 0 <= value <= 0xFFFF:
        raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"{value} does not fit two bytes")
    return value.to_bytes(2, "big")


def encode_four(value: int) -> bytes:
    if not 0 <= value <= 0xFFFF_FFFF:
        raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"{value} does not fit four bytes")
    return value.to_bytes(4, "big")


def encode_variable_integer(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    if value > VARIABLE_INTEGER_MAX:
        raise LocalProtocolError(Reason.PACKET_TOO_LARGE, f"{value} does not fit a variable byte integer")
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_binary(value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise LocalProtocolError(Reason.PACKET_TOO_LARGE, "binary data has more than 65,535 bytes")
    return len(value).to_bytes(2, "big") + value


def encode_text(value: str) -> bytes:
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError:
        raise LocalProtocolError(Reason.MALFORMED_PACKET, "a string contains a surrogate") from None  # [MQTT-1.5.4-1]
    if b"\0" in raw:
        raise LocalProtocolError(Reason.MALFORMED_PACKET, "a string contains U+0000")  # [MQTT-1.5.4-2]
    return encode_binary(raw)

"""The few packets of MQTT 3.1.1 that a load generator sends, packed by hand: it shares the machine with what it measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MQTT_3_1_1 = 4
PUBACK, PUBREC, PUBREL, PUBCOMP = b"\x40\x02", b"\x50\x02", b"\x62\x02", b"\x70\x02"
"""Each with a packet identifier behind it."""
CONNACK_BYTES = 4


@dataclass(frozen=True, slots=True)
class Credentials:
    client_id: str
    username: str = ""
    password: str = ""


def read_credentials(path: Path) -> list[Credentials]:
    """Lines of `client_id username password`."""
    return [Credentials(*line.split()) for line in path.read_text().splitlines() if line.strip()]


def connect(person: Credentials) -> bytes:
    """A clean session without a keep-alive."""
    flags = 0x02 | (0x80 if person.username else 0) | (0x40 if person.password else 0)
    body = text("MQTT") + bytes((MQTT_3_1_1, flags, 0, 0)) + text(person.client_id)
    body += (text(person.username) if person.username else b"") + (text(person.password) if person.password else b"")
    return b"\x10" + length(len(body)) + body


def accepts(connack: bytes) -> bool:
    return len(connack) == CONNACK_BYTES and connack[0] == 0x20 and connack[3] == 0


def subscribe(topic_filter: str, qos: int) -> bytes:
    """The only one of its connection: packet identifier 1."""
    body = b"\x00\x01" + text(topic_filter) + bytes((qos,))
    return b"\x82" + length(len(body)) + body


def publish_heads(topic: str, qos: int, window: int, body_bytes: int) -> list[bytes]:
    """What stands before the body of a PUBLISH, by packet identifier from 1 to `window`, twice round."""
    heads = []
    for packet_id in range(1, window + 1):
        rest = text(topic) + (packet_id.to_bytes(2, "big") if qos else b"")
        heads.append(bytes((0x30 | qos << 1,)) + length(len(rest) + body_bytes) + rest)
    return heads * 2


def receipts_due(kind: bytes, window: int) -> bytes:
    """PUBACKs (or the like) as they must come [MQTT-4.6.0-2], twice round."""
    return b"".join(kind + n.to_bytes(2, "big") for n in range(1, window + 1)) * 2


def text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


def length(value: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)

"""What a device's timeline is made of, on its way from the gateways to the workers.

Owns the entry, its batches, and the words for what can happen. Entries travel in a stream of their own, which forgets the
oldest when it is full: whoever floods the door takes no room from what devices send (docs/adr/0016-device-timeline.md).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from headwater.stream.envelope import UnknownEnvelope

VERSION = 1
"""First element of every batch; a reader refuses what it does not know."""


class Event(StrEnum):
    """What can happen to a device on its way to us. Public and stable: whoever asks filters by their beginnings."""

    REFUSED = "connection.refused_before_authentication"
    """TLS, the PROXY header, the first packet: nobody had said yet who it is."""
    AUTHENTICATION_FAILED = "authentication.failed"
    CONNECTED = "connected"
    """And with that authenticated: there is no connection without. The detail says when a session goes on."""
    DISCONNECTED = "disconnected"
    TOPIC_DENIED = "topic.denied"
    MESSAGE_REJECTED = "message.rejected"


FAILED = frozenset({Event.REFUSED, Event.AUTHENTICATION_FAILED})
"""Attempts to connect that came to nothing."""


class TimelineEntry(msgspec.Struct, array_like=True, gc=False):
    """Something that happened, or, with a count, several of the same kind up to `at`.

    id          16 bytes of a UUIDv7, by which whoever writes it down knows it again
    at          UTC microseconds
    event       of `Event`; what a newer gateway knows besides is kept as it is
    tenant, device  16 bytes of the UUID; empty where nobody knows yet whom it concerns
    code        why: an error's stable code, the reason of an end (device/presence.py), a TLS alert
    detail      the same for people; may quote the peer
    address     without the port
    listener    mqtt, mqtts, ws, wss, http
    gateway     16 bytes of the gateway's id
    credential, name  who the peer said it is, where its word was not good: the id of a token, never its secret; a user name
    """

    id: bytes
    at: int
    event: str
    tenant: bytes = b""
    device: bytes = b""
    code: str = ""
    detail: str = ""
    client_id: str = ""
    address: str = ""
    protocol: str = ""
    listener: str = ""
    gateway: bytes = b""
    count: int = 1
    credential: bytes = b""
    name: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, list[TimelineEntry]])


def encode_entries(entries: list[TimelineEntry]) -> bytes:
    return _encoder.encode((VERSION, entries))


def decode_entries(data: bytes) -> list[TimelineEntry]:
    """Raises UnknownEnvelope, or msgspec.DecodeError where the bytes are not a batch."""
    try:
        version, entries = _decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    if version != VERSION:
        raise UnknownEnvelope(f"timeline of version {version}, this program reads {VERSION}")
    return entries

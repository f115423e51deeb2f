"""What travels in the stream: record batches, batches of ordinary messages, dead letters.

A record is already normalised: nobody behind the gateway decodes a device's payload again. A batch is one JetStream
message; a record's place in the stream is (lane, stream sequence of its batch, index in the batch).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

VERSION = 1
"""First element of every batch; a reader refuses what it does not know."""

EXT_JSON = 1
"""MessagePack extension: a value of type JSON, as its UTF-8 text."""
EXT_LOCATION = 2
"""MessagePack extension: a location, as MessagePack `[latitude, longitude]` or `[latitude, longitude, altitude_m]`."""


class Kind(IntEnum):
    """What a record says. Numbers are on the wire: never reuse one."""

    TELEMETRY = 1
    ATTRIBUTES = 2
    EVENT = 3
    CONNECTED = 4
    DISCONNECTED = 5


class Flag(IntEnum):
    """Bits of `Record.flags`."""

    RESENT = 1
    """The device may have sent this before (MQTT DUP) and gave the time itself: the store keeps it once."""


class Record(msgspec.Struct, array_like=True, gc=False):
    """One thing that one device said, at one time.

    tenant, device  16 bytes of the UUID
    observed_at     device clock, or `received_at` where the device gave none; UTC microseconds
    received_at     our edge; UTC microseconds
    epoch           rises with every connection of the device; orders records of two connections
    sequence        rises with every record of the connection
    body            TELEMETRY, ATTRIBUTES: metric or attribute name -> float, int, bool, str, Ext (see EXT_*), or None
                    (attributes only: forget it). EVENT: {"name": str, "data": Ext JSON}.
                    CONNECTED: {"gateway": hex, "protocol": str, "address": str}.
                    DISCONNECTED: {"gateway": hex, "reason": str}.
    flags           bits of `Flag`
    """

    tenant: bytes
    device: bytes
    kind: int
    observed_at: int
    received_at: int
    epoch: int
    sequence: int
    body: dict[str, Any]
    flags: int = 0


class DeadLetter(msgspec.Struct):
    """A message that could not become a record: kept as it came, with the reason, so that it can be replayed.

    payload is the raw bytes; topic the MQTT topic name or the HTTP path; code the error's stable code.
    """

    device: bytes
    source: str
    topic: str
    code: str
    detail: str
    received_at: int
    payload: bytes
    content_type: str = ""


class MessageProperties(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What MQTT 5 forwards unaltered: [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17].

    expires_at  UTC microseconds, 0 = never; after that it is delivered to nobody [MQTT-3.3.2-5]
    """

    expires_at: int = 0
    payload_format: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


class Message(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An ordinary MQTT message between a tenant's devices and applications. It travels in batches, as records do; its place
    is (stream sequence of its batch, index in the batch).

    sender     the publisher's client key (stream/subjects.py): for No Local, and for
    packet_id  at QoS 2, by which a publisher that comes back elsewhere is known to repeat itself; 0 otherwise
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool = False
    sender: bytes = b""
    packet_id: int = 0
    properties: MessageProperties | None = None

    @property
    def expires_at(self) -> int:
        return self.properties.expires_at if self.properties is not None else 0


_encoder = msgspec.msgpack.Encoder()
_encode_into = _encoder.encode_into
_batch_decoder = msgspec.msgpack.Decoder(tuple[int, list[Record]])
_pieces_decoder = msgspec.msgpack.Decoder(tuple[int, list[msgspec.Raw]])
_record_decoder = msgspec.msgpack.Decoder(Record)
_message_decoder = msgspec.msgpack.Decoder(Message)
_messages_decoder = msgspec.msgpack.Decoder(tuple[int, list[Message]])
_dead_decoder = msgspec.msgpack.Decoder(DeadLetter)


class UnknownEnvelope(Exception):
    """A batch of a version that this program does not know: upgrade readers before gateways."""


_BATCH_HEAD = bytes((0x92, VERSION, 0xDD)) + bytes(4)
"""MessagePack: an array of two, the version, and an array whose 32-bit length is filled in at the end."""


class BatchWriter:
    """A batch under construction. Each record is encoded as it comes, while it is warm in the cache, and not kept.

    size  bytes so far
    """

    __slots__ = ("_buffer", "count", "size")

    def __init__(self) -> None:
        self._buffer = bytearray(_BATCH_HEAD)
        self.count = 0
        self.size = len(_BATCH_HEAD)

    def append(self, record: Record | Message) -> None:
        """Raises what the encoder raises; then the batch is as it was: nobody else's record suffers for this one."""
        buffer = self._buffer
        try:
            _encode_into(record, buffer, -1)
        except BaseException:
            del buffer[self.size :]
            raise
        self.size = len(buffer)
        self.count += 1

    def finish(self) -> bytes:
        self._buffer[3:7] = self.count.to_bytes(4, "big")
        return bytes(self._buffer)


def encode_batch(records: list[Record]) -> bytes:
    return _encoder.encode((VERSION, records))


def decode_batch(data: bytes) -> list[Record]:
    """Raises UnknownEnvelope, or msgspec.DecodeError where the bytes are not a batch."""
    try:
        version, records = _batch_decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:  # text that is none; thousands of arrays in one another
        raise msgspec.DecodeError(str(error)) from error
    _check(version)
    return records


def decode_pieces(data: bytes) -> list[Record | bytes]:
    """A batch that `decode_batch` could not read, as far as it can be: what is no record stays as it is, as a batch of one.

    Raises UnknownEnvelope, or msgspec.DecodeError where not even the pieces can be told apart.
    """
    try:
        version, pieces = _pieces_decoder.decode(data)
    except RecursionError as error:
        raise msgspec.DecodeError(str(error)) from error
    _check(version)
    return [_decode_piece(bytes(piece)) for piece in pieces]


def _decode_piece(piece: bytes) -> Record | bytes:
    try:
        return _record_decoder.decode(piece)
    except (ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError derive from ValueError
        return _BATCH_HEAD[:3] + (1).to_bytes(4, "big") + piece


def _check(version: int) -> None:
    if version != VERSION:
        raise UnknownEnvelope(f"record batch of version {version}, this program reads {VERSION}")


def encode_dead_letter(letter: DeadLetter) -> bytes:
    return _encoder.encode(letter)


def decode_dead_letter(data: bytes) -> DeadLetter:
    return _dead_decoder.decode(data)


def encode_message(message: Message) -> bytes:
    return _encoder.encode(message)


def decode_message(data: bytes) -> Message:
    return _message_decoder.decode(data)


def encode_messages(messages: list[Message]) -> bytes:
    return _encoder.encode((VERSION, messages))


def decode_messages(data: bytes) -> list[Message]:
    """A batch of ordinary messages. Raises UnknownEnvelope, or msgspec.DecodeError where the bytes are not one."""
    version, messages = _messages_decoder.decode(data)
    _check(version)
    return messages

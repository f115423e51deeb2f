"""MQTT sessions as they are kept in the stream SESSION, so that they outlive the gateway that serves them.

A record is written when the session begins and ends, with every change of its subscriptions, before anything at QoS 2 is
said to the client, and every now and then. Each write names the one that it replaces: a gateway that was taken for dead and
is not cannot overwrite what its successor has written.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import msgspec
from nats.aio.client import Client

from headwater.stream import subjects
from headwater.stream.envelope import DeadLetter, Flag, Message, MessageProperties, Record
from headwater.stream.keyed import KeyedStream
from headwater.stream.topology import SESSION_STREAM


class StoredSubscription(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """since: messages up to this sequence of the log were there before it"""

    topic_filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    identifier: int = 0
    since: int = 0


class Pending(msgspec.Struct, array_like=True, gc=False):
    """A message on its way to the client that the client has not finished with.

    sequence, index  its place in the log; sequence 0 = a retained message of `topic`
    released         PUBREC has come: nothing but PUBREL is sent any more
    """

    packet_id: int
    qos: int
    sequence: int
    index: int = 0
    retain: bool = False
    identifiers: tuple[int, ...] = ()
    released: bool = False
    topic: str = ""


class StoredWill(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """records  what it means on a topic of the device's own data, to be stored instead; times of 0 are the publication's
    letter   why it means nothing there, to be kept instead
    """

    message: Message
    delay_s: int = 0
    expiry_s: int | None = None
    """the message's own lifetime, which begins when it is published"""
    records: list[Record] | None = None
    letter: DeadLetter | None = None


def will_message(will: StoredWill) -> Message:
    """An ordinary one's, whose lifetime begins now."""
    if will.expiry_s is None:
        return will.message
    expires_at = time.time_ns() // 1000 + will.expiry_s * 1_000_000
    properties = msgspec.structs.replace(will.message.properties or MessageProperties(), expires_at=expires_at)
    return msgspec.structs.replace(will.message, properties=properties)


def will_records(will: StoredWill) -> list[Record]:
    """As of now. One that has a time of its own may be stored twice, and is then one."""
    now = time.time_ns() // 1000
    return [
        msgspec.structs.replace(
            each, observed_at=each.observed_at or now, received_at=now, epoch=now,
            flags=Flag.RESENT if each.observed_at else 0,
        )
        for each in will.records or ()
    ]  # fmt: skip


def will_letter(letter: DeadLetter) -> DeadLetter:
    """As of now."""
    return msgspec.structs.replace(letter, received_at=time.time_ns() // 1000)


class SessionRecord(msgspec.Struct, array_like=True):
    """owner          the gateway that serves it now, or served it last
    connected         it is being served
    expiry_s          how long it stays without a connection; 0: not at all, it is kept only for its will
    sequence, index   everything in the log before this place has been sent, or is in `pending`
    received          QoS 2 packet ids of the client between PUBLISH and PUBREL
    published         its own QoS 2 messages up to this sequence of the log are in `received`, or done with
    will_at           UTC microseconds; the connection is gone and the will is due then; 0 = no will is due
    is_behind         its gateway died, or did not hear what became of a receipt: more may have happened than is said here
    receipts          of its shared subscriptions (stream/share_store.py): it has those up to this number
    receipts_above    and these
    """

    tenant: bytes
    client_id: str
    device: bytes
    owner: bytes
    connected: bool
    expiry_s: int
    sequence: int = 0
    index: int = 0
    subscriptions: list[StoredSubscription] = []
    pending: list[Pending] = []
    received: list[int] = []
    published: int = 0
    will: StoredWill | None = None
    will_at: int = 0
    is_behind: bool = False
    receipts: int = 0
    receipts_above: list[int] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SessionRecord)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """record: None = there is none; revision: what a write must name to replace it, 0 = nothing was ever there"""

    record: SessionRecord | None
    revision: int


class SessionStore:
    def __init__(self, client: Client) -> None:
        self._stream = KeyedStream(client, SESSION_STREAM)

    async def find(self, tenant_id: UUID, client_id: str) -> StoredSession:
        """Raises ReadFailed."""
        return await self.find_of(tenant_id, subjects.client_key(client_id))

    async def find_of(self, tenant_id: UUID, client_key: bytes) -> StoredSession:
        """Raises ReadFailed."""
        stored = await self._stream.find(subjects.session_of(tenant_id, client_key))
        if stored is None:
            return StoredSession(None, 0)
        return StoredSession(_decoder.decode(stored.data) if stored.data else None, stored.sequence)

    async def save(self, record: SessionRecord, revision: int) -> int:
        """Returns the new revision. Raises Overtaken, StreamFull, StreamUnavailable."""
        subject = subjects.session(UUID(bytes=record.tenant), record.client_id)
        ttl_s = None if record.connected or record.will_at else max(1, record.expiry_s)
        return await self._stream.put(subject, _encoder.encode(record), expected=revision, ttl_s=ttl_s)

    async def remove(self, record: SessionRecord, revision: int) -> None:
        """Raises Overtaken, StreamFull, StreamUnavailable."""
        await self._stream.remove(subjects.session(UUID(bytes=record.tenant), record.client_id), expected=revision)

    async def count(self, tenant_id: UUID) -> int:
        """About how many the tenant has. Raises ReadFailed."""
        return await self._stream.count(f"{subjects.SESSION}.{tenant_id.hex}.>")

    async def everything(self) -> AsyncIterator[StoredSession]:
        """Every session of every tenant. Raises ReadFailed."""
        async for stored in self._stream.scan(f"{subjects.SESSION}.>"):
            yield StoredSession(_decoder.decode(stored.data), stored.sequence)

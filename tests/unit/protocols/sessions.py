"""Sessions in the phase that a test needs."""

from __future__ import annotations

from headwater.protocols.mqtt import (
    Connect,
    Limits,
    Packet,
    PacketReader,
    Properties,
    Publish,
    ServerSession,
    Will,
    encode_packet,
)
from headwater.protocols.mqtt.properties import EMPTY


def awaiting(
    level: int = 4,
    limits: Limits | None = None,
    *,
    keep_alive_s: int = 60,
    clean_start: bool = True,
    will: Will | None = None,
    properties: Properties = EMPTY,
    behind: bytes = b"",
) -> ServerSession:
    session = ServerSession(limits or Limits(), opened_at=0.0)
    connect = Connect("c", level, clean_start, keep_alive_s, will=will, properties=properties)
    assert session.receive(encode_packet(connect) + behind, 0.0) == [connect]
    return session


def connected(level: int = 4, limits: Limits | None = None, **connect: object) -> ServerSession:
    session = awaiting(level, limits, **connect)
    assert session.accept(0.0) == []
    session.take_outgoing()
    return session


def sent(session: ServerSession) -> list[Packet]:
    return PacketReader(session.protocol_level).feed(session.take_outgoing())


def publishes(*packet_ids: int, level: int = 4, qos: int = 1) -> bytes:
    return b"".join(encode_packet(Publish("a/b", b"x", qos, packet_id=packet_id), level) for packet_id in packet_ids)

"""The fifteen control packets of MQTT 3.1, 3.1.1 and 5.0 as values.

Frozen and untracked by the garbage collector (`gc=False`: a packet refers to strings, bytes and tuples only, so no cycle can
pass through it), because a Publish is made for every message. A field that a version does not have keeps its default.
`properties` is EMPTY when there are none, except in Publish, where it is None. A `packet_id` of 0 means none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from headwater.protocols.mqtt.packet_types import PacketType
from headwater.protocols.mqtt.properties import EMPTY, Properties


class Will(msgspec.Struct, frozen=True, gc=False):
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = EMPTY


class Connect(msgspec.Struct, frozen=True, gc=False):
    client_id: str
    protocol_level: int = 4
    """3 = MQTT 3.1, 4 = MQTT 3.1.1, 5 = MQTT 5.0"""
    clean_start: bool = True
    """Called "clean session" before 5.0."""
    keep_alive_s: int = 0
    """0 = none"""
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = EMPTY

    def __repr__(self) -> str:  # neither the password nor a token in the user name is for logs
        return (
            f"Connect(client_id={self.client_id!r}, protocol_level={self.protocol_level}, keep_alive_s={self.keep_alive_s})"
        )


class ConnAck(msgspec.Struct, frozen=True, gc=False):
    session_present: bool = False
    reason: int = 0
    """A reason code in 5.0, a return code (0 to 5) before."""
    properties: Properties = EMPTY


class Publish(msgspec.Struct, frozen=True, gc=False):
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties | None = None


class PubAck(msgspec.Struct, frozen=True, gc=False):
    packet_id: int
    reason: int = 0
    properties: Properties = EMPTY


class PubRec(msgspec.Struct, frozen=True, gc=False):
    packet_id: int
    reason: int = 0
    properties: Properties = EMPTY


class PubRel(msgspec.Struct, frozen=True, gc=False):
    packet_id: int
    reason: int = 0
    properties: Properties = EMPTY


class PubComp(msgspec.Struct, frozen=True, gc=False):
    packet_id: int
    reason: int = 0
    properties: Properties = EMPTY


class Subscription(msgspec.Struct, frozen=True, gc=False):
    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    packet_id: int
    subscriptions: tuple[Subscription, ...]
    properties: Properties = EMPTY


class SubAck(msgspec.Struct, frozen=True, gc=False):
    packet_id: int
    codes: tuple[int, ...]
    properties: Properties = EMPTY


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    packet_id: int
    topic_filters: tuple[str, ...]
    properties: Properties = EMPTY


class UnsubAck(msgspec.Struct, frozen=True, gc=False):
    packet_id: int
    codes: tuple[int, ...] = ()
    """Empty before 5.0."""
    properties: Properties = EMPTY


class PingReq(msgspec.Struct, frozen=True, gc=False):
    pass


class PingResp(msgspec.Struct, frozen=True, gc=False):
    pass


class Disconnect(msgspec.Struct, frozen=True, gc=False):
    reason: int = 0
    properties: Properties = EMPTY


class Auth(msgspec.Struct, frozen=True, gc=False):
    reason: int = 0
    properties: Properties = EMPTY


Receipt: TypeAlias = PubAck | PubRec | PubRel | PubComp
Packet: TypeAlias = (
    Connect
    | ConnAck
    | Publish
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
    | Auth
)

TYPE_OF: Final[Mapping[type, PacketType]] = {
    Connect: PacketType.CONNECT,
    ConnAck: PacketType.CONNACK,
    Publish: PacketType.PUBLISH,
    PubAck: PacketType.PUBACK,
    PubRec: PacketType.PUBREC,
    PubRel: PacketType.PUBREL,
    PubComp: PacketType.PUBCOMP,
    Subscribe: PacketType.SUBSCRIBE,
    SubAck: PacketType.SUBACK,
    Unsubscribe: PacketType.UNSUBSCRIBE,
    UnsubAck: PacketType.UNSUBACK,
    PingReq: PacketType.PINGREQ,
    PingResp: PacketType.PINGRESP,
    Disconnect: PacketType.DISCONNECT,
    Auth: PacketType.AUTH,
}
CLASS_OF: Final[Mapping[int, type]] = {int(packet_type): cls for cls, packet_type in TYPE_OF.items()}

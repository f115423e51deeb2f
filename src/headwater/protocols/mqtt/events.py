"""What a session tells its owner: the packets themselves, and why it ended.

At most one of ProtocolFailed, TimedOut, ConnectionLost and Disconnect comes, always as the last event of a connection.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from headwater.protocols.mqtt.packets import (
    Auth,
    Connect,
    Disconnect,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Unsubscribe,
)


class ProtocolFailed(msgspec.Struct, frozen=True, gc=False):
    """The peer broke a rule. What has to be said about it is already in the outgoing bytes."""

    reason: int
    detail: str


class TimedOut(msgspec.Struct, frozen=True, gc=False):
    """No CONNECT in time, or nothing for one and a half keep-alives. [MQTT-3.1.2-22]"""

    reason: int
    detail: str


class ConnectionLost(msgspec.Struct, frozen=True, gc=False):
    """The stream ended without a DISCONNECT."""


Event: TypeAlias = (
    Connect
    | Publish
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | Unsubscribe
    | PingReq
    | Disconnect
    | Auth
    | ProtocolFailed
    | TimedOut
    | ConnectionLost
)

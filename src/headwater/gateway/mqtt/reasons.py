"""How MQTT says our errors. The code of a DomainError is stable; a test keeps this table complete."""

from __future__ import annotations

from headwater.device.presence import Ended
from headwater.errors import DomainError

UNSPECIFIED = 0x80
IMPLEMENTATION_SPECIFIC = 0x83
BAD_CREDENTIALS = 0x86
NOT_AUTHORISED = 0x87
SERVER_UNAVAILABLE = 0x88
SERVER_BUSY = 0x89
SERVER_SHUTTING_DOWN = 0x8B
BAD_METHOD = 0x8C
SESSION_TAKEN_OVER = 0x8E
QUOTA_EXCEEDED = 0x97
ADMINISTRATIVE = 0x98
PAYLOAD_INVALID = 0x99
USE_ANOTHER_SERVER = 0x9C
CONNECTION_RATE_EXCEEDED = 0x9F

REASONS: dict[str, int] = {
    "auth.unauthenticated": BAD_CREDENTIALS,
    "auth.method_unknown": BAD_METHOD,
    "device.refused": BAD_CREDENTIALS,
    "device.suspended": NOT_AUTHORISED,
    "quota.exceeded": QUOTA_EXCEEDED,
    "stream.full": QUOTA_EXCEEDED,
    "stream.unavailable": SERVER_UNAVAILABLE,
    "stream.read_failed": SERVER_UNAVAILABLE,
    "stream.overtaken": SERVER_UNAVAILABLE,
    "service.unavailable": SERVER_UNAVAILABLE,
    "payload.too_large": QUOTA_EXCEEDED,
    "connection.rate_exceeded": CONNECTION_RATE_EXCEEDED,
    "gateway.full": SERVER_BUSY,
    "gateway.use_another_server": USE_ANOTHER_SERVER,
}
"""What is not here is the payload's fault (`payload.*`, `metric.*`, `timestamp.*`, `event.*`) or ours."""
_PAYLOAD = frozenset({"payload", "metric", "timestamp", "event"})


ENDED: dict[int, Ended] = {
    SERVER_BUSY: Ended.SERVER_BUSY,
    SERVER_SHUTTING_DOWN: Ended.SERVER_SHUTDOWN,
    USE_ANOTHER_SERVER: Ended.SERVER_SHUTDOWN,
    SESSION_TAKEN_OVER: Ended.TAKEN_OVER,
    ADMINISTRATIVE: Ended.ADMINISTRATIVE,
    NOT_AUTHORISED: Ended.TOPIC_DENIED,
    QUOTA_EXCEEDED: Ended.QUOTA_EXCEEDED,
}
"""What our DISCONNECT means in a device's presence, where whoever sends it says nothing else."""


def reason_of(error: DomainError) -> int:
    """For CONNACK."""
    known = REASONS.get(error.code)
    if known is not None:
        return known
    return PAYLOAD_INVALID if error.code.split(".")[0] in _PAYLOAD else UNSPECIFIED


def disconnect_of(error: DomainError) -> int:
    """For DISCONNECT, which does not know what only a CONNACK says (section 3.14.2.1)."""
    reason = reason_of(error)
    return {SERVER_UNAVAILABLE: SERVER_BUSY, BAD_CREDENTIALS: NOT_AUTHORISED}.get(reason, reason)


def puback_of(error: DomainError) -> int:
    """For PUBACK, which has no word for a server that is away (section 3.4.2.1)."""
    reason = reason_of(error)
    return IMPLEMENTATION_SPECIFIC if reason == SERVER_UNAVAILABLE else reason

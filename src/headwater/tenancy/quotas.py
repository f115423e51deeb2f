"""What a tenant may use. A tenant row keeps only what differs from these defaults; the platform operator changes it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Ceiling = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class Quotas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every number is a ceiling, enforced at the door. 0 forbids."""

    devices_max: Ceiling = 1_000_000
    connections_max: Ceiling = 1_000_000
    messages_per_s: Ceiling = 1_000_000
    """device messages, all gateways together"""
    device_messages_per_s: Ceiling = 50_000
    """of one connection over MQTT; what is above it waits in the device"""
    device_bytes_per_s: Ceiling = 67_108_864
    """the same, in bytes of packets"""
    message_bytes_max: Ceiling = 262_144
    sessions_max: Ceiling = 1_000_000
    """MQTT sessions that outlive their connections"""
    retained_max: Ceiling = 100_000
    """topics with a retained message"""
    metrics_max: Ceiling = 10_000
    """distinct metric names"""
    people_max: Ceiling = 10_000
    tokens_max: Ceiling = 10_000
    groups_max: Ceiling = 10_000
    profiles_max: Ceiling = 1_000
    requests_per_s: Ceiling = 1_000
    """API requests of the whole tenant"""
    token_requests_per_s: Ceiling = 200
    """API requests of one token or one person"""
    live_clients_max: Ceiling = 1_000


_DEFAULTS: dict[str, int] = msgspec.structs.asdict(Quotas())


def quotas_of(stored: dict[str, int]) -> Quotas:
    return msgspec.convert(stored, Quotas)


def stored_of(quotas: Quotas) -> dict[str, int]:
    """Only what differs from the defaults, so that a better default reaches every tenant."""
    return {name: value for name, value in msgspec.structs.asdict(quotas).items() if value != _DEFAULTS[name]}

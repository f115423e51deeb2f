"""What a tenant may use. A tenant row keeps only what differs from these defaults; the platform operator changes it."""

from __future__ import annotations

import msgspec


class Quotas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every number is a ceiling, enforced at the door. 0 forbids."""

    devices_max: int = 1_000_000
    connections_max: int = 1_000_000
    messages_per_s: int = 1_000_000
    """device messages, all gateways together"""
    message_bytes_max: int = 262_144
    metrics_max: int = 10_000
    """distinct metric names"""
    people_max: int = 10_000
    tokens_max: int = 10_000
    groups_max: int = 10_000
    profiles_max: int = 1_000
    requests_per_s: int = 1_000
    """API requests of the whole tenant"""
    token_requests_per_s: int = 200
    """API requests of one token or one person"""
    live_clients_max: int = 1_000


def quotas_of(stored: dict[str, int]) -> Quotas:
    return msgspec.convert(stored, Quotas)

"""What the registry needs from others, written by the one who needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

from headwater.tenancy.scope import TenantScope


class RegistryEvents(Protocol):
    """Tells gateways and caches that something is no longer what they know. A hint, not a promise: they also ask again
    by themselves, so an engine that is away must not fail the caller."""

    async def publish(self, tenant_id: UUID, noun: str, identifier: UUID, event: str) -> None:
        """noun: device, profile, credential, group. event: changed, suspended, resumed, decommissioned, deleted, revoked."""


class Audit(Protocol):
    async def record(
        self, connection: Any, scope: TenantScope, action: str, subject: str, detail: Mapping[str, object]
    ) -> None:
        """In the transaction of what it tells about. detail: JSON values, never a secret."""

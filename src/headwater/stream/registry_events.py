"""Tells gateways, workers and caches that something in the registry is no longer what they know.

A hint, not a promise: every listener also asks again by itself, so an engine that is away must not fail the change
that has already been committed. Core NATS, `hw.reg.<tenant>.<noun>.<id>`, MessagePack `{"event": str}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import msgspec
import structlog
from nats.aio.client import Client

from headwater.database.session import after_commit
from headwater.stream import subjects

log = structlog.get_logger(__name__)


class RegistryEvent(msgspec.Struct):
    """event: changed, suspended, resumed, decommissioned, deleted, revoked"""

    event: str


@dataclass(frozen=True, slots=True)
class NATSRegistryEvents:
    """client: None where there is no NATS (the API's description is generated without engines)."""

    client: Client | None

    async def publish(self, tenant_id: UUID, noun: str, identifier: UUID, event: str) -> None:
        """noun: tenant, device, profile, credential, group. Call it after the transaction."""
        subject = subjects.registry(tenant_id, noun, identifier)

        async def send() -> None:
            if self.client is None:
                return
            try:
                await self.client.publish(subject, msgspec.msgpack.encode(RegistryEvent(event)))
            except Exception as error:  # whatever NATS suffers from, the change stands and listeners ask again
                log.warning("registry_event_lost", subject=subject, event_name=event, error=repr(error))

        await after_commit(send)

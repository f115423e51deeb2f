"""Who did what: one row a change, written in the transaction of the change, never altered, never holding a secret."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from headwater.ids import uuid7
from headwater.tenancy.scope import TenantScope


class AuditEntry(msgspec.Struct, frozen=True):
    """actor: who did it, as in `person:<uuid>`; subject: what it was done to, as in `device:<uuid>`;
    address: where the request came from; detail: what more there is to say, by action."""

    id: UUID
    at: datetime
    actor: str
    action: str
    subject: str
    address: str
    detail: dict[str, Any]


class AuditTrail:
    """The rows of `audit_entry`."""

    async def record(
        self,
        connection: Any,
        scope: TenantScope,
        action: str,
        subject: str,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """In the transaction of what it tells about.

        action   `noun:verb`: "device:create"
        subject  `<noun>:<uuid>`
        detail   JSON values: what changed; never a secret
        """
        await connection.execute(
            "INSERT INTO audit_entry (id, tenant_id, actor, action, subject, address, detail)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7)",
            uuid7(), scope.tenant_id, scope.actor, action, subject, scope.address, dict(detail or {}),
        )  # fmt: skip

"""Credentials of devices: tokens, several a device, so that one can be replaced while the other still works.

A token is shown once, when it is made; kept is its hash. X.509 and JWT stand beside tokens as further kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from headwater.clock import Clock, to_datetime
from headwater.database.session import Database
from headwater.device.device import Status
from headwater.device.errors import CredentialLimit, DeviceDecommissioned
from headwater.device.filter_sql import Parameters
from headwater.device.ports import Audit, RegistryEvents
from headwater.device.postgres import lock_device
from headwater.device.visibility import device_not_found, require_device, restriction
from headwater.errors import Conflict, NotFound
from headwater.ids import uuid7
from headwater.tenancy import secrets
from headwater.tenancy.scope import TenantScope

LIVE_MAX = 10
"""Credentials of a device that work at the same time: rotation needs two."""
KEPT_MAX = 50
"""Credentials kept of a device, dead ones included: who rotates daily sees the last weeks, and the table stays small."""


class Credential(msgspec.Struct, frozen=True):
    id: UUID
    kind: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class IssuedCredential(msgspec.Struct, frozen=True):
    """What to write into the device. `password` is shown this once. Its repr hides the secret."""

    id: UUID
    kind: str
    created_at: datetime
    expires_at: datetime | None
    client_id: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"IssuedCredential(id={self.id})"


@dataclass(frozen=True, slots=True)
class CredentialService:
    database: Database
    events: RegistryEvents
    audit: Audit
    clock: Clock

    async def issue(self, scope: TenantScope, device_id: UUID, *, expires_at: datetime | None = None) -> IssuedCredential:
        scope.require("credential:write")
        now = to_datetime(self.clock.now_us())
        if expires_at is not None:
            expires_at = expires_at.astimezone(UTC) if expires_at.tzinfo else expires_at.replace(tzinfo=UTC)
            if expires_at <= now:
                raise Conflict("expires_at lies in the past", field="expires_at", now=now.isoformat())
        credential_id = uuid7()
        token = secrets.mint(secrets.DEVICE, credential_id)
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await _lock_issuable(connection, scope, device_id)
            live = await connection.fetchval(
                "SELECT count(*) FROM device_credential"
                " WHERE device_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
                device_id, now,
            )  # fmt: skip
            if live >= LIVE_MAX:
                raise CredentialLimit(f"a device has at most {LIVE_MAX} working credentials; revoke one", limit=LIVE_MAX)
            await connection.execute(
                "INSERT INTO device_credential (id, tenant_id, device_id, kind, secret_hash, created_at, expires_at)"
                " VALUES ($1, $2, $3, 'token', $4, $5, $6)",
                credential_id, scope.tenant_id, device_id, token.digest, now, expires_at,
            )  # fmt: skip
            await _forget_dead(connection, device_id, now)
            await self._record(connection, scope, "issue", credential_id, device_id)
        return IssuedCredential(credential_id, "token", now, expires_at, str(device_id), str(device_id), token.text)

    async def list(self, scope: TenantScope, device_id: UUID) -> list[Credential]:
        """Newest first, dead ones too."""
        scope.require("device:read")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await require_device(connection, scope, device_id)
            rows = await connection.fetch(
                "SELECT id, kind, created_at, expires_at, revoked_at FROM device_credential"
                " WHERE device_id = $1 ORDER BY id DESC LIMIT $2",
                device_id, KEPT_MAX + LIVE_MAX,
            )  # fmt: skip
        return [Credential(*row) for row in rows]

    async def revoke(self, scope: TenantScope, device_id: UUID, credential_id: UUID) -> Credential:
        """At once, also for a connection that it opened. Revoking twice is no error."""
        scope.require("credential:write")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await require_device(connection, scope, device_id)
            row = await connection.fetchrow(
                "UPDATE device_credential SET revoked_at = COALESCE(revoked_at, now()) WHERE id = $1 AND device_id = $2"
                " RETURNING id, kind, created_at, expires_at, revoked_at",
                credential_id, device_id,
            )  # fmt: skip
            if row is None:
                raise NotFound("there is no such credential", noun="credential", id=str(credential_id))
            await self._record(connection, scope, "revoke", credential_id, device_id)
        await self.events.publish(scope.tenant_id, "credential", credential_id, "revoked")
        return Credential(*row)

    async def _record(self, connection: Any, scope: TenantScope, verb: str, credential_id: UUID, device_id: UUID) -> None:
        await self.audit.record(
            connection, scope, f"credential:{verb}", f"credential:{credential_id}", {"device": str(device_id)}
        )


async def _lock_issuable(connection: Any, scope: TenantScope, device_id: UUID) -> None:
    parameters = Parameters()
    row = await lock_device(connection, device_id, await restriction(connection, scope, parameters), parameters)
    if row is None:
        raise device_not_found(device_id)
    if row["status"] == Status.DECOMMISSIONED:
        raise DeviceDecommissioned("a decommissioned device gets no credential")


async def _forget_dead(connection: Any, device_id: UUID, now: datetime) -> None:
    await connection.execute(
        "DELETE FROM device_credential WHERE id IN ("
        " SELECT id FROM device_credential WHERE device_id = $1 AND (revoked_at IS NOT NULL OR expires_at <= $2)"
        " ORDER BY id DESC OFFSET $3)",
        device_id, now, KEPT_MAX,
    )  # fmt: skip

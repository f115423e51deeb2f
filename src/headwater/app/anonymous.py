"""Makes the device that everybody without a credential is (device/anonymous.py)."""

from __future__ import annotations

from headwater.database.session import Database
from headwater.device.credential_lookup import ANONYMOUS
from headwater.device.device import NewDevice
from headwater.device.devices import DeviceService
from headwater.device.ports import RegistryEvents
from headwater.device.profile import ProfileDefinition
from headwater.device.profiles import ProfileService
from headwater.ids import uuid7
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.scope import TenantScope

NAME = "anonymous"
"""Of the device (its external id) and of its profile."""
TITLE = "Everybody without a credential (headwater up --dev-anonymous)"


async def ensure_door(database: Database, events: RegistryEvents, scope: TenantScope) -> None:
    """The device with its profile and its credential, as far as they are missing."""
    audit = AuditTrail()
    profiles, devices = ProfileService(database, events, audit), DeviceService(database, events, audit)
    async with database.joined(scope.tenant_id) as connection:
        if await profiles.find(scope, NAME) is None:
            await profiles.create(scope, NAME, ProfileDefinition(publish=("#",), subscribe=("#",)))
        found = (await devices.list(scope, q=f'external_id = "{NAME}"', limit=1)).devices
        new = NewDevice(external_id=NAME, name=TITLE, profile=NAME)
        device = found[0] if found else await devices.create(scope, new)
        credential_id = await connection.fetchval(
            "INSERT INTO device_credential (id, tenant_id, device_id, kind, secret_hash)"
            " SELECT $1, $2, $3, $4, ''"
            " WHERE NOT EXISTS (SELECT FROM device_credential WHERE kind = $4 AND revoked_at IS NULL) RETURNING id",
            uuid7(), scope.tenant_id, device.id, ANONYMOUS,
        )  # fmt: skip
        if credential_id is not None:
            detail = {"device": str(device.id), "kind": ANONYMOUS}
            await audit.record(connection, scope, "credential:issue", f"credential:{credential_id}", detail)

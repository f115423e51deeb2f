"""The registry's services on a real database, as one tenant's administrator."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import pytest
from tests.support.tenants import TenantFactory

from headwater.clock import SystemClock
from headwater.database.session import Database
from headwater.device.credentials import CredentialService
from headwater.device.device import Device, NewDevice
from headwater.device.devices import DeviceService
from headwater.device.exports import ExportService
from headwater.device.groups import GroupService
from headwater.device.imports import ImportService
from headwater.device.profiles import ProfileService
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.scope import ALL_PERMISSIONS, TenantScope


@dataclass
class RecordedEvents:
    seen: list[tuple[str, UUID, str]] = field(default_factory=list)

    async def publish(self, tenant_id: UUID, noun: str, identifier: UUID, event: str) -> None:
        self.seen.append((noun, identifier, event))


class Registry:
    def __init__(self, database: Database) -> None:
        audit = AuditTrail()
        self.database = database
        self.events = RecordedEvents()
        self.profiles = ProfileService(database, self.events, audit)
        self.devices = DeviceService(database, self.events, audit)
        self.credentials = CredentialService(database, self.events, audit, SystemClock())
        self.groups = GroupService(database, self.events, audit)
        self.imports = ImportService(database, self.events, audit)
        self.exports = ExportService(database, self.devices)

    async def make(self, scope: TenantScope, external_id: str, **fields: object) -> Device:
        return await self.devices.create(scope, NewDevice(external_id=external_id, **fields))  # type: ignore[arg-type]  # test data

    async def names(self, scope: TenantScope, q: str = "", **options: object) -> list[str]:
        page = await self.devices.list(scope, q=q, **options)  # type: ignore[arg-type]  # test data
        return [device.external_id for device in page.devices]


@pytest.fixture
def registry(database: Database) -> Registry:
    return Registry(database)


@pytest.fixture
async def scope(tenant_factory: TenantFactory) -> TenantScope:
    return TenantScope(await tenant_factory(), "system:test", ALL_PERMISSIONS)


@pytest.fixture
async def stranger(tenant_factory: TenantFactory) -> TenantScope:
    """The same rights, in another tenant."""
    return TenantScope(await tenant_factory(), "system:test", ALL_PERMISSIONS)

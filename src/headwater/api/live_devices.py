"""Which devices a watcher follows: what it asks for, and the registry's answer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from headwater.database.session import Database
from headwater.errors import Invalid
from headwater.live.errors import SelectionTooWide
from headwater.live.event import EventId, parse_id
from headwater.live.ports import SELECTED_MAX, Wanted
from headwater.store.query_devices import DeviceSelection, select_devices
from headwater.store.query_errors import QueryTooLarge
from headwater.tenancy.scope import TenantScope

DEVICES_MAX = 1_000
"""Named one by one; more is what a group is for."""


def wanted_of(devices: Collection[UUID] | None, group: UUID | None, query: str | None) -> Wanted:
    """Raises Invalid."""
    if devices is not None and len(devices) > DEVICES_MAX:
        raise Invalid(f"at most {DEVICES_MAX} devices can be named; use a group")
    return Wanted(frozenset(devices) if devices else None, group, query.strip() or None if query else None)


def last_id_of(text: str | None) -> EventId | None:
    """Raises Invalid."""
    if not text:
        return None
    last_id = parse_id(text)
    if last_id is None:
        raise Invalid("last_event_id is not an id of an event")
    return last_id


@dataclass(frozen=True, slots=True)
class RegistryFinder:
    """Implements live.ports.DeviceFinder."""

    database: Database

    async def find(self, scope: TenantScope, wanted: Wanted) -> frozenset[bytes] | None:
        selection = DeviceSelection(tuple(wanted.devices or ()), wanted.group_id, wanted.query or "")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            try:
                found = await select_devices(connection, scope, selection, devices_max=SELECTED_MAX, list_all=False)
            except QueryTooLarge as error:
                raise SelectionTooWide(
                    f"one watcher follows at most {SELECTED_MAX} devices", devices_max=SELECTED_MAX
                ) from error
        return None if found is None else frozenset(device.bytes for device in found)

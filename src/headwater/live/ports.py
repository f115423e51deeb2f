"""What live fan-out needs from the registry, written by the one who needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from headwater.tenancy.scope import TenantScope

SELECTED_MAX = 200_000
"""Devices of one group or query: about 20 MB of ids, shared by all watchers who mean the same."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which devices a watcher means; what is None does not restrict. A convenience, never an authorisation.

    group_id  the devices of this group
    query     the devices that this search finds
    """

    devices: frozenset[UUID] | None = None
    group_id: UUID | None = None
    query: str | None = None


class DeviceFinder(Protocol):
    async def find(self, scope: TenantScope, wanted: Wanted) -> frozenset[bytes] | None:
        """16-byte ids of the devices that are wanted and that the scope may see; None = all of the tenant, now and later.

        Raises NotFound for a device or a group that the scope cannot see, Invalid for a query that cannot be read,
        SelectionTooWide beyond SELECTED_MAX.
        """

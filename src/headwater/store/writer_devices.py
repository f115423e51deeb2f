"""Which devices the store may write for.

A device that was deleted may still have records on their way; they are dropped and counted, and so is what names another
tenant than its device's. One that speaks for the first time becomes active. Both are asked once per device and worker, not
per message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

KNOWN_MAX = 500_000
"""Devices remembered by one process, about 50 MB; beyond it the oldest are asked for again."""


Sender = tuple[bytes, bytes]
"""(device, tenant), 16 bytes each"""


class KnownDevices:
    """Devices that exist and are not `registered` any more. Shared by the lanes of a process."""

    def __init__(self) -> None:
        self._tenants: dict[bytes, bytes] = {}

    def unknown(self, senders: set[Sender]) -> set[Sender]:
        known = self._tenants
        return {sender for sender in senders if known.get(sender[0]) != sender[1]}

    def add(self, senders: Iterable[Sender]) -> None:
        self._tenants.update(senders)
        while len(self._tenants) > KNOWN_MAX:
            del self._tenants[next(iter(self._tenants))]

    def forget(self, device: bytes) -> None:
        """It changed: ask again."""
        self._tenants.pop(device, None)

    def clear(self) -> None:
        """A database that crashed may have forgotten what it had told us."""
        self._tenants.clear()


async def look_up(connection: Any, senders: set[Sender]) -> tuple[set[Sender], set[Sender]]:
    """Those that exist, and those of them that are still `registered`."""
    rows = await connection.fetch(
        "SELECT id, tenant_id, status FROM device WHERE id = ANY ($1::uuid[])",
        [UUID(bytes=device) for device, _ in senders],
    )
    found = {(row["id"].bytes, row["tenant_id"].bytes): row["status"] for row in rows}
    existing = senders & found.keys()
    return existing, {sender for sender in existing if found[sender] == "registered"}


async def activate(connection: Any, devices: Iterable[bytes]) -> None:
    """Locked in the order of their ids, so that two lanes wait for each other and never both.

    NO KEY, because whoever inserts a row that belongs to the device holds its key meanwhile, and may wait for us.
    """
    await connection.execute(
        """
        WITH first AS (
            SELECT id FROM device WHERE id = ANY ($1::uuid[]) AND status = 'registered' ORDER BY id FOR NO KEY UPDATE
        )
        UPDATE device SET status = 'active', version = version + 1, updated_at = now() FROM first WHERE device.id = first.id
        """,
        [UUID(bytes=device) for device in devices],
    )

"""Which devices the store may write for.

A device that was deleted may still have records on their way; they are dropped and counted. One that speaks for the first
time becomes active. Both are asked once per device and worker, not per message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

KNOWN_MAX = 500_000
"""Devices remembered by one process, about 50 MB; beyond it the oldest are asked for again."""


class KnownDevices:
    """Devices that exist and are not `registered` any more. Shared by the lanes of a process."""

    def __init__(self) -> None:
        self._known: dict[bytes, None] = {}

    def unknown(self, devices: set[bytes]) -> set[bytes]:
        return devices - self._known.keys()

    def add(self, devices: Iterable[bytes]) -> None:
        self._known.update(dict.fromkeys(devices))
        while len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def forget(self, device: bytes) -> None:
        """It changed: ask again."""
        self._known.pop(device, None)

    def clear(self) -> None:
        """A database that crashed may have forgotten what it had told us."""
        self._known.clear()


async def look_up(connection: Any, devices: set[bytes]) -> tuple[set[bytes], set[bytes]]:
    """Those that exist, and those of them that are still `registered`."""
    rows = await connection.fetch(
        "SELECT id, status FROM device WHERE id = ANY ($1::uuid[])", [UUID(bytes=device) for device in devices]
    )
    existing = {row["id"].bytes for row in rows}
    return existing, {row["id"].bytes for row in rows if row["status"] == "registered"}


async def activate(connection: Any, devices: set[bytes]) -> None:
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

"""The last word for connections whose gateway cannot say it any more.

Owns the rows of lost gateways. A gateway is lost when its heart-beat has stood still for `ALIVE_S` of this duty's own
watching: what it did not watch, because the database was away or everybody was frozen, does not count. The same goes for
devices that are connected to a gateway without a row; one that ends takes its row away when its last words are stored, and
the consumer has as long to read them before somebody else speaks.

The row goes first, where it is still as it was seen. From then on the gateway, should it have been frozen only, makes a new
one with its next heart-beat, knows by that what was said of it, and says that its devices are there (gateway/presence.py).
Were the row the last to go, a gateway that thaws in between would never hear of it. A worker that dies in between leaves
devices of a gateway without a row, and the next holder of the duty finds them.

A word stands one behind the device's last, so whatever the gateway itself said after that counts more. It is stored in the
stream first, for watchers and for the order of things, and then written down at once: the consumer may be far behind, and
nobody should be told twice.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from headwater.clock import Clock
from headwater.device.presence import ALIVE_S, GATEWAY_LOST_DETAIL, HEARTBEAT_S, Ended
from headwater.errors import DomainError
from headwater.ids import uuid7
from headwater.store import timeline
from headwater.store.presence_state import merge, read
from headwater.stream.envelope import Kind, Record
from headwater.stream.timeline import Event, TimelineEntry
from headwater.stream.uplink import StreamUplink

log = structlog.get_logger(__name__)

PAGE_DEVICES = 1_000
"""Of one turn: some 50 ms of row locks."""
STORED_S = 10.0
"""For a page to be stored. Within idle_session_timeout, or the duty would be another's meanwhile."""

# Gateways with a row, and those that devices are connected to: a step from each to the next in the index, because there are
# few gateways and many devices.
_WATCHED = """
WITH RECURSIVE holder (id) AS (
    (SELECT gateway_id FROM device_state WHERE connected AND gateway_id IS NOT NULL ORDER BY gateway_id LIMIT 1)
    UNION ALL
    SELECT (SELECT gateway_id FROM device_state WHERE connected AND gateway_id > holder.id ORDER BY gateway_id LIMIT 1)
    FROM holder WHERE holder.id IS NOT NULL
)
SELECT coalesce(g.id, h.id) AS id, g.heartbeat_at
FROM (SELECT id FROM holder WHERE id IS NOT NULL) h FULL JOIN gateway_instance g ON g.id = h.id
"""
_CLAIM = """
DELETE FROM gateway_instance AS g USING unnest($1::uuid[], $2::timestamptz[]) AS lost(id, heartbeat_at)
WHERE g.id = lost.id AND g.heartbeat_at = lost.heartbeat_at
RETURNING g.id, g.name
"""
_LEFT_BEHIND = """
SELECT tenant_id, device_id, gateway_id, epoch, sequence, client_id, protocol FROM device_state AS s
WHERE connected AND gateway_id = ANY ($1::uuid[])
  AND NOT EXISTS (SELECT FROM gateway_instance AS g WHERE g.id = s.gateway_id)
LIMIT $2
"""


class _Silence(NamedTuple):
    """heartbeat_at: the last one; None = no row"""

    heartbeat_at: datetime | None
    seconds: float


class PresenceReaper:
    """A `database.duty.Duty`.

    uplink  as a gateway has it; its `live` decides whether watchers see the words
    """

    name = "presence"

    def __init__(self, uplink: StreamUplink, clock: Clock, *, every_s: float = HEARTBEAT_S) -> None:
        self.every_s = every_s
        self._uplink = uplink
        self._clock = clock
        self._session: Any = None
        self._looked_us = 0
        self._silent: dict[UUID, _Silence] = {}

    async def perform(self, session: Any) -> bool:
        await self._look(session)
        lost = {gateway: silence.heartbeat_at for gateway, silence in self._silent.items() if silence.seconds >= ALIVE_S}
        if not lost:
            return False
        for row in await session.fetch(_CLAIM, list(lost), list(lost.values())):
            log.warning("gateway_lost", gateway=row["id"].hex, name=row["name"])
            self._silent[row["id"]] = _Silence(None, ALIVE_S)
        rows = await session.fetch(_LEFT_BEHIND, list(lost), PAGE_DEVICES)
        return bool(rows) and await self._say_closed(session, rows) and len(rows) == PAGE_DEVICES

    async def _look(self, session: Any) -> None:
        """A look counts for at most a heart-beat: after a pause of everybody the gateways have time to speak first."""
        if session is not self._session:
            self._session = session
            self._silent.clear()
        now_us = self._clock.now_us()
        passed_s = min(max(now_us - self._looked_us, 0) / 1e6, HEARTBEAT_S)
        self._looked_us = now_us
        silent = {}
        for gateway, heartbeat_at in await session.fetch(_WATCHED):
            known = self._silent.get(gateway)
            silent[gateway] = (
                _Silence(heartbeat_at, known.seconds + passed_s)
                if known is not None and known.heartbeat_at == heartbeat_at
                else _Silence(heartbeat_at, 0.0)
            )
        self._silent = silent

    async def _say_closed(self, session: Any, rows: list[Any]) -> bool:
        """False where the stream does not take it now."""
        now_us = self._clock.now_us()
        records = [
            Record(
                row["tenant_id"].bytes, row["device_id"].bytes, Kind.DISCONNECTED, now_us, now_us,
                row["epoch"], row["sequence"] + 1,
                {"gateway": row["gateway_id"].hex, "reason": Ended.GATEWAY_LOST.value, "detail": GATEWAY_LOST_DETAIL},
            )
            for row in rows
        ]  # fmt: skip
        try:
            async with asyncio.timeout(STORED_S):
                await asyncio.gather(*map(self._uplink.control, records))
        except (TimeoutError, DomainError) as error:
            log.warning("presence_reaper_waits", reason=f"{type(error).__name__}: {error}")
            return False
        async with session.transaction():
            await merge(session, [read(record) for record in records])
            await timeline.record(session, [_entry(row, now_us) for row in rows])
        log.info("connections_closed_for_gateway", devices=len(records))
        return True


def _entry(row: Any, now_us: int) -> TimelineEntry:
    return TimelineEntry(
        uuid7().bytes, now_us, Event.DISCONNECTED.value, row["tenant_id"].bytes, row["device_id"].bytes,
        Ended.GATEWAY_LOST.value, GATEWAY_LOST_DETAIL, row["client_id"], protocol=row["protocol"],
        gateway=row["gateway_id"].bytes,
    )  # fmt: skip

"""This gateway process itself, and the devices that are here.

Owns a row with a heart-beat, by which the workers know that this gateway lives, and the words CONNECTED and DISCONNECTED.
Where the row was gone, somebody has said of every connection of this gateway that it is closed (store/presence_reaper.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from headwater.clock import Clock
from headwater.database.away import AWAY
from headwater.device.presence import ALIVE_S, HEARTBEAT_S, Ended
from headwater.device.principal import Principal
from headwater.gateway.metering import Meters
from headwater.stream.envelope import Kind, Record
from headwater.stream.uplink import StreamUplink

log = structlog.get_logger(__name__)

AGAIN_S = 5.0
"""After the stream refused a word. Each attempt takes as long as the publisher tries (stream/publisher.py)."""


class Attendance:
    """Tells the stream which devices are here. What it does not take is said again until it does, unless there has been a
    newer word of the device: watchers must not hear the older one last, and an outage costs a record a device and no more.
    """

    def __init__(self, uplink: StreamUplink, gateway_id: UUID, clock: Clock) -> None:
        self._uplink = uplink
        self._gateway = gateway_id.hex
        self._clock = clock
        self._newest: dict[bytes, Record] = {}
        """device -> its newest word, until that is stored"""
        self._refused: list[Record] = []

    def came(self, principal: Principal, epoch: int, sequence: int, *, client_id: str, protocol: str, address: str) -> None:
        body = {"gateway": self._gateway, "client_id": client_id, "protocol": protocol, "address": address}
        self._say(principal, Kind.CONNECTED, epoch, sequence, body)

    def left(self, principal: Principal, epoch: int, sequence: int, *, reason: Ended, detail: str) -> None:
        body = {"gateway": self._gateway, "reason": reason.value, "detail": detail}
        self._say(principal, Kind.DISCONNECTED, epoch, sequence, body)

    def _say(self, principal: Principal, kind: Kind, epoch: int, sequence: int, body: dict[str, str]) -> None:
        now_us = self._clock.now_us()
        record = Record(
            principal.tenant_id.bytes, principal.device_id.bytes, kind, now_us, now_us, epoch, sequence, body
        )  # fmt: skip
        self._newest[record.device] = record
        self._submit(record)

    def _submit(self, record: Record) -> None:
        self._uplink.control(record).add_done_callback(partial(self._ended, record))

    def _ended(self, record: Record, stored: asyncio.Future[None]) -> None:
        error = None if stored.cancelled() else stored.exception()
        if self._newest.get(record.device) is not record:
            return
        if error is None:
            del self._newest[record.device]
            return
        if not self._refused:
            log.warning("presence_not_stored", error=repr(error))
            asyncio.get_running_loop().call_later(AGAIN_S, self._say_again)
        self._refused.append(record)

    def _say_again(self) -> None:
        refused, self._refused = self._refused, []
        for record in refused:
            if self._newest.get(record.device) is record:
                self._submit(record)


class Presence:
    """called_lost: this gateway was taken for dead and is not; what was said of its connections is to be put right"""

    def __init__(
        self, pool: asyncpg.Pool, gateway_id: UUID, name: str, meters: Meters, called_lost: Callable[[], Awaitable[None]]
    ) -> None:
        self._pool = pool
        self._gateway_id = gateway_id
        self._name = name
        self._meters = meters
        self._called_lost = called_lost
        self._started_at: datetime | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._started_at = await self._beat()
        self._task = asyncio.create_task(self._beat_for_ever())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        try:
            await self._pool.execute("DELETE FROM gateway_instance WHERE id = $1", self._gateway_id)
        except AWAY as error:
            log.info("gateway_row_left", error=repr(error))

    async def _beat(self) -> datetime:
        """When the row was made: another time, another row. Also learns how many gateways share the tenants' quotas."""
        row: Any = await self._pool.fetchrow(
            "WITH beat AS ("
            "  INSERT INTO gateway_instance (id, name) VALUES ($1, $2)"
            "  ON CONFLICT (id) DO UPDATE SET heartbeat_at = now() RETURNING started_at)"
            " SELECT (SELECT started_at FROM beat), count(*) AS others FROM gateway_instance"
            " WHERE id <> $1 AND heartbeat_at > now() - make_interval(secs => $3)",
            self._gateway_id,
            self._name,
            ALIVE_S,
        )
        self._meters.share(row["others"] + 1)
        started_at: datetime = row["started_at"]
        return started_at

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                started_at = await self._beat()
            except AWAY as error:
                log.warning("heartbeat_failed", error=repr(error))
                continue
            if started_at != self._started_at:
                log.warning("gateway_was_called_lost")
                await self._called_lost()
                self._started_at = started_at

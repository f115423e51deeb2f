"""This gateway process itself: a row with a heart-beat, so that the connections of a dead gateway can be told closed."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
import structlog

from headwater.gateway.metering import Meters

log = structlog.get_logger(__name__)

HEARTBEAT_S = 5.0
ALIVE_S = 15
"""Three heart-beats; the same figure by which the workers call a gateway lost."""


class Presence:
    def __init__(self, pool: asyncpg.Pool, gateway_id: UUID, name: str, meters: Meters) -> None:
        self._pool = pool
        self._gateway_id = gateway_id
        self._name = name
        self._meters = meters
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._beat()
        self._task = asyncio.create_task(self._beat_for_ever())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        try:
            await self._pool.execute("DELETE FROM gateway_instance WHERE id = $1", self._gateway_id)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            log.info("gateway_row_left", error=repr(error))

    async def _beat(self) -> None:
        """Also learns how many gateways share the tenants' quotas."""
        gateways = await self._pool.fetchval(
            "WITH beat AS ("
            "  INSERT INTO gateway_instance (id, name) VALUES ($1, $2)"
            "  ON CONFLICT (id) DO UPDATE SET heartbeat_at = now())"
            " SELECT count(*) FROM gateway_instance"
            " WHERE id <> $1 AND heartbeat_at > now() - make_interval(secs => $3)",
            self._gateway_id,
            self._name,
            float(ALIVE_S),
        )
        self._meters.share(gateways + 1)

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await self._beat()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                log.warning("heartbeat_failed", error=repr(error))

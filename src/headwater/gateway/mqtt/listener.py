"""The MQTT port: accepts connections, keeps their time, and stops reading when the stream cannot follow."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import structlog

from headwater.gateway.metering import REFILL_S, Meters
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.admission import Admission
from headwater.gateway.mqtt.connection import MQTTConnection
from headwater.gateway.mqtt.router import Router
from headwater.ingest.profile_compiled import CompiledProfiles
from headwater.protocols.mqtt.session import Limits
from headwater.stream.uplink import StreamUplink

log = structlog.get_logger(__name__)

BACKLOG = 4096
"""Connections that the kernel may keep waiting for us during a storm."""
SWEEP_PARTS = 10
"""Deadlines are looked at once a second, a tenth of the connections at a time."""


class MQTTListener:
    """Owns the server socket and the set of its connections."""

    def __init__(
        self,
        *,
        limits: Limits,
        uplink: StreamUplink,
        router: Router,
        admission: Admission,
        profiles: CompiledProfiles,
        meters: Meters,
        connections_max: int,
    ) -> None:  # fmt: skip
        self.limits = limits
        self.uplink = uplink
        self.lane = uplink.lane
        self.router = router
        self.admission = admission
        self.profiles = profiles
        self.now = asyncio.get_running_loop().time
        self._meters = meters
        self._connections_max = connections_max
        self.outstanding: set[asyncio.Future[None]] = set()
        """what connections wait for outside of the batches"""
        self._connections: set[MQTTConnection] = set()
        self._held: set[MQTTConnection] = set()
        self._throttled: set[MQTTConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self.accepted_total = 0
        self.denied_total = 0

    async def open(self, host: str, port: int) -> None:
        """Several processes may open the same port; the kernel spreads the connections."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: MQTTConnection(self), host, port, reuse_port=True, backlog=BACKLOG, family=socket.AF_UNSPEC
        )
        self._upkeep = loop.create_task(self._keep_up())

    async def close(self) -> None:
        """Stop accepting, say good-bye, and wait until what was received is stored."""
        if self._server is not None:
            self._server.close()
        if self._upkeep is not None:
            self._upkeep.cancel()
        for connection in list(self._connections):
            connection.pause()
        await self.uplink.drain()
        await self.router.drain()
        if self.outstanding:
            await asyncio.wait(self.outstanding)
        for connection in list(self._connections):
            connection.close(reasons.SERVER_SHUTTING_DOWN, "the gateway is shutting down")
        await self.admission.end_all()
        await self.router.drain()
        await self.uplink.drain()

    @property
    def connections(self) -> int:
        return len(self._connections)

    # -- called by connections ------------------------------------------------------------------------------------------

    def opened(self, connection: MQTTConnection) -> None:
        self._connections.add(connection)
        self.accepted_total += 1
        if len(self._connections) > self._connections_max:
            connection.close(reasons.SERVER_BUSY, "this gateway has no connections left")

    def closed(self, connection: MQTTConnection) -> None:
        self._connections.discard(connection)
        self._held.discard(connection)
        self._throttled.discard(connection)
        self.admission.leave(connection)

    def hold(self, connection: MQTTConnection) -> None:
        """The stream is behind: this connection is read again when it has caught up."""
        if connection not in self._held:
            self._held.add(connection)
            connection.pause()

    def throttle(self, connection: MQTTConnection) -> None:
        """The tenant's quota is used up: this connection is read again after a refill. Nothing is lost."""
        if connection not in self._throttled:
            self._throttled.add(connection)
            connection.pause()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def denied(self, connection: MQTTConnection, topic: str) -> None:
        self.denied_total += 1
        principal = connection.principal
        log.info("topic_denied", device=str(principal.device_id) if principal else "", topic=topic[:200])

    # -- upkeep ---------------------------------------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        part: list[list[MQTTConnection]] = []
        while True:
            await asyncio.sleep(REFILL_S)
            self._meters.refill()
            if self._held and not self.lane.full:
                self._release(self._held)
            self._release({c for c in self._throttled if c.meter is not None and c.meter.left > 0}, self._throttled)
            if not part:
                everyone = list(self._connections)
                part = [everyone[i::SWEEP_PARTS] for i in range(SWEEP_PARTS)]
            now = self.now()
            for connection in part.pop():
                connection.tick(now)

    def _release(self, connections: set[MQTTConnection], of: set[MQTTConnection] | None = None) -> None:
        for connection in list(connections):
            (of if of is not None else connections).discard(connection)
            connection.resume()

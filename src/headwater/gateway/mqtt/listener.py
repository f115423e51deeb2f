"""The MQTT ports: one set of connections behind all of them. Keeps their time, and stops reading when the stream, a tenant's
quota or a device's own cannot follow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog

from headwater.gateway.metering import REFILL_S, Meters
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.acceptor import Acceptor, Port
from headwater.gateway.mqtt.addresses import Network
from headwater.gateway.mqtt.admission import Admission
from headwater.gateway.mqtt.connection import MQTTConnection
from headwater.gateway.mqtt.door import Door
from headwater.gateway.mqtt.hang_up import LINGER_S
from headwater.gateway.mqtt.happenings import Happenings
from headwater.gateway.mqtt.router import Router
from headwater.gateway.mqtt.tls import ServerTLS
from headwater.gateway.mqtt.visitor import Refusals, Visitor
from headwater.ingest.profile_compiled import CompiledProfiles
from headwater.protocols.mqtt.session import Limits
from headwater.stream.uplink import StreamUplink

log = structlog.get_logger(__name__)

CERTIFICATE_CHECK_S = 60.0
"""How long a renewed certificate may lie there unused, where nobody sends a SIGHUP."""
SWEEP_PARTS = 10
"""Deadlines are looked at once a second, a tenth of the connections at a time."""


class MQTTListener:
    """Owns the listening sockets and the set of their connections.

    server_reference  where version 5 clients go when this gateway stops; empty = they are told that it stops
    """

    def __init__(
        self,
        *,
        limits: Limits,
        uplink: StreamUplink,
        router: Router,
        admission: Admission,
        happenings: Happenings,
        profiles: CompiledProfiles,
        meters: Meters,
        door: Door,
        refusals: Refusals,
        server_reference: str = "",
    ) -> None:  # fmt: skip
        self.limits = limits
        self.uplink = uplink
        self.lane = uplink.lane
        self.router = router
        self.admission = admission
        self.happenings = happenings
        self.profiles = profiles
        self.now = asyncio.get_running_loop().time
        self._meters = meters
        self._door = door
        self._refusals = refusals
        self._server_reference = server_reference or None
        self.outstanding: set[asyncio.Future[None]] = set()
        """what connections wait for outside of the batches"""
        self._connections: set[MQTTConnection] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._held: set[MQTTConnection] = set()
        self._throttled: set[MQTTConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.acceptors: list[Acceptor] = []
        self._certificate: ServerTLS | None = None
        self._upkeep: list[asyncio.Task[None]] = []
        self.accepted_total = 0
        self.denied_total = 0

    async def open(
        self,
        host: str,
        ports: Sequence[Port],
        *,
        certificate: ServerTLS | None = None,
        proxies: Sequence[Network] | None = None,
        local_origins: bool = False,
    ) -> None:
        """certificate: needed where a port is secure. proxies, local_origins: see Acceptor."""
        self._certificate = certificate
        for port in ports:
            acceptor = Acceptor(
                port, door=self._door, begin=self._begin, refusals=self._refusals,
                certificate=certificate, proxies=proxies, local_origins=local_origins,
            )  # fmt: skip
            await acceptor.open(host)
            self.acceptors.append(acceptor)
        loop = asyncio.get_running_loop()
        self._upkeep = [loop.create_task(self._keep_up()), loop.create_task(self._keep_certificate())]

    def reload_certificate(self) -> None:
        """At once, for an operator who has just put a new one there."""
        if self._certificate is not None:
            self._certificate.reload()

    async def close(self) -> None:
        """Stop accepting, say good-bye, and wait until what was received is stored."""
        self._door.closing = True
        for acceptor in self.acceptors:
            acceptor.close()
        for task in self._upkeep:
            task.cancel()
        for connection in list(self._connections):
            connection.pause()
        await self.uplink.drain()
        await self.router.drain()
        if self.outstanding:
            await asyncio.wait(self.outstanding)
        for connection in list(self._connections):
            self._dismiss(connection)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._nobody.wait()
        await self.admission.end_all()
        await self.router.drain()
        await self.uplink.drain()

    def _dismiss(self, connection: MQTTConnection) -> None:
        said = "the gateway is shutting down"
        if self._server_reference is None:
            connection.close(reasons.SERVER_SHUTTING_DOWN, said)
        else:
            connection.close(reasons.USE_ANOTHER_SERVER, said, server_reference=self._server_reference)

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def handshakes(self) -> int:
        """With TLS, begun since the start."""
        return sum(acceptor.accepted_total for acceptor in self.acceptors if acceptor.port.secure)

    def _begin(self, visitor: Visitor) -> MQTTConnection:
        return MQTTConnection(self, visitor)

    # -- called by connections ------------------------------------------------------------------------------------------

    def opened(self, connection: MQTTConnection) -> None:
        self._connections.add(connection)
        self._nobody.clear()
        self._door.inside = len(self._connections)
        self.accepted_total += 1

    def closed(self, connection: MQTTConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._nobody.set()
        self._door.inside = len(self._connections)
        if connection.visitor is not None:
            self._door.leave(connection.visitor)
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
                self._release(self._held, {c for c in self._held if not self.router.is_behind(c.tenant_id)})
            self._release(self._throttled, {c for c in self._throttled if c.meter is not None and c.meter.left > 0})
            if not part:
                everyone = list(self._connections)
                part = [everyone[i::SWEEP_PARTS] for i in range(SWEEP_PARTS)]
            now = self.now()
            for connection in part.pop():
                connection.tick(now)

    async def _keep_certificate(self) -> None:
        while True:
            await asyncio.sleep(CERTIFICATE_CHECK_S)
            self.reload_certificate()

    def _release(self, held: set[MQTTConnection], of_them: set[MQTTConnection]) -> None:
        held -= of_them
        for connection in of_them:
            connection.resume()

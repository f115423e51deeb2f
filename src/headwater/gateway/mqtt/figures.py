"""`$SYS`: what a tenant may know of its own part of the broker.

Each gateway says every SAY_S what it counts for each tenant, and adds up what all of them said for the tenants that somebody
watches here. Figures of other tenants, or of the machines, are nobody's business (those are in the metrics).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import msgspec
import structlog
from nats.aio.client import Client

from headwater.stream import subjects
from headwater.stream.envelope import Message

log = structlog.get_logger(__name__)

SAY_S = 10.0
"""As Mosquitto's sys_interval."""
STALE_S = 3.5 * SAY_S
"""What a gateway said counts so long: it has died since."""

Counts = tuple[int, int, int]
"""connections now, messages received and sent since the gateway began"""
TOPICS = (
    ("$SYS/broker/clients/connected", 0),
    ("$SYS/broker/messages/received", 1),
    ("$SYS/broker/messages/sent", 2),
)
FIGURE = TOPICS[0][0]
"""Who watches one of them is told all."""


class TenantFigures:
    """What all gateways counted lately, by tenant."""

    def __init__(self, client: Client) -> None:
        self._nats = client
        self._said: dict[bytes, tuple[float, dict[bytes, Counts]]] = {}
        self._began_at = time.monotonic()

    def of(self, tenant_id: UUID) -> list[Message]:
        """Of all gateways together, as retained messages at QoS 0: decimal digits, the uptime as Mosquitto writes it."""
        rows = [counts[tenant_id.bytes] for _, counts in self._fresh() if tenant_id.bytes in counts]
        sums = [sum(column) for column in zip(*rows, strict=True)] or [0, 0, 0]
        uptime_s = int(time.monotonic() - self._began_at)
        messages = [Message(topic, str(sums[column]).encode(), 0, retain=True) for topic, column in TOPICS]
        return [*messages, Message("$SYS/broker/uptime", f"{uptime_s} seconds".encode(), 0, retain=True)]

    def _fresh(self) -> list[tuple[float, dict[bytes, Counts]]]:
        oldest = time.monotonic() - STALE_S
        self._said = {gateway: said for gateway, said in self._said.items() if said[0] > oldest}
        return list(self._said.values())

    async def serve(
        self, gateway_id: UUID, count: Callable[[], dict[bytes, Counts]], watched: Callable[[], Iterable[UUID]],
        publish: Callable[[UUID, list[Message]], object],
    ) -> None:  # fmt: skip
        """For ever: say what is counted here, hear what others count.

        count    this gateway's counts by the 16 bytes of the tenant's id
        watched  the tenants whose $SYS somebody watches here
        publish  hands a tenant's figures to those who watch
        """

        async def heard(message: Any) -> None:
            gateway, counts = msgspec.msgpack.decode(message.data, type=tuple[bytes, dict[bytes, Counts]])
            self._said[gateway] = (time.monotonic(), counts)

        await self._nats.subscribe(subjects.GATEWAY_FIGURES, cb=heard)
        while True:
            counts = count()
            self._said[gateway_id.bytes] = (time.monotonic(), counts)
            try:
                await self._nats.publish(subjects.GATEWAY_FIGURES, msgspec.msgpack.encode((gateway_id.bytes, counts)))
            except Exception as error:  # NATS is away: the others hear of it later
                log.info("figures_not_said", error=repr(error))
            for tenant_id in watched():
                publish(tenant_id, self.of(tenant_id))
            await asyncio.sleep(SAY_S)

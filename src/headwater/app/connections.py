"""How every role reaches NATS: it waits for it at the start, and reconnects for ever afterwards."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import structlog
from nats.aio.client import Client

from headwater.app.settings import NATSSettings, require

log = structlog.get_logger(__name__)

RECONNECT_S = 0.25
PENDING_BYTES_MAX = 64 << 20
"""What may gather while NATS is away; publishers repeat what does not fit."""


class NATSConnection(Client):
    """Survives a flush that nobody waits for any more: the PONG that comes after all would end nats-py's reading loop
    (asyncio.InvalidStateError), and nothing more would be heard until the connection is found stale, some 20 s later.

    back_at  until when NATS was away last, by the loop's clock; infinite while it is
    """

    back_at = -math.inf

    @property
    def back_for_s(self) -> float:
        return asyncio.get_running_loop().time() - self.back_at

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()


class PromptConnection(NATSConnection):
    """Writes what is published at once, and not in the next turn of the loop together with what else there is then: whoever
    has made sure that it may be published knows that it was. A system call for each."""

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if self.is_connected and self._pending_data_size > 0 and self._transport is not None:
            self._transport.writelines(self._pending[:])
            self._pending = []
            self._pending_data_size = 0
        return await super()._flush_pending(force_flush)


async def connect_nats(
    settings: NATSSettings, *, name: str, no_echo: bool = False, kind: type[NATSConnection] = NATSConnection
) -> NATSConnection:
    """no_echo: what this connection publishes does not come back to its own subscriptions."""
    require(settings.url, "NATS_URL")

    async def report(error: Exception) -> None:
        log.warning("nats_error", error=repr(error))

    async def disconnected() -> None:
        connection.back_at = math.inf
        log.warning("nats_disconnected")

    async def reconnected() -> None:
        connection.back_at = asyncio.get_running_loop().time()
        log.info("nats_reconnected")

    connection = kind()
    await connection.connect(
        settings.servers,
        name=name,
        no_echo=no_echo,
        user=settings.user or None,
        password=settings.password or None,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type]  # nats-py says int, and sleeps for any number
        ping_interval=5,
        max_outstanding_pings=3,
        pending_size=PENDING_BYTES_MAX,
        error_cb=report,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
    )
    return connection

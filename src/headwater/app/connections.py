"""How every role reaches NATS: it waits for it at the start, and reconnects for ever afterwards."""

from __future__ import annotations

import nats
import structlog
from nats.aio.client import Client

from headwater.app.settings import NATSSettings, require

log = structlog.get_logger(__name__)

RECONNECT_S = 0.25
PENDING_BYTES_MAX = 64 << 20
"""What may gather while NATS is away; publishers repeat what does not fit."""


async def connect_nats(settings: NATSSettings, *, name: str, no_echo: bool = False) -> Client:
    """no_echo: what this connection publishes does not come back to its own subscriptions."""
    require(settings.url, "NATS_URL")

    async def report(error: Exception) -> None:
        log.warning("nats_error", error=repr(error))

    async def disconnected() -> None:
        log.warning("nats_disconnected")

    async def reconnected() -> None:
        log.info("nats_reconnected")

    return await nats.connect(
        settings.servers,
        name=name,
        no_echo=no_echo,
        user=settings.user or None,
        password=settings.password or None,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_S,
        ping_interval=5,
        max_outstanding_pings=3,
        pending_size=PENDING_BYTES_MAX,
        error_cb=report,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
    )

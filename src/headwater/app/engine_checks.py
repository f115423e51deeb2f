"""Are the engines there, and ready for us? Asked by every role at its start, by `migrate`, `up` and `doctor`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.js.errors import Error as JetStreamError

from headwater.app.settings import NATSSettings, Settings, require
from headwater.database.away import AWAY
from headwater.database.migrate import pending
from headwater.errors import DomainError, Unavailable

log = structlog.get_logger(__name__)

WAIT_S = 600.0
"""A PostgreSQL that crashed under load may replay its log for minutes; a role that gives up sooner only starts again."""
SAY_S = 5.0
NATS_S = 15.0
"""For one attempt at each server of a cluster."""


class EngineUnreachable(Unavailable):
    code = "engine.unreachable"


class EngineRefused(DomainError):
    """It is there and does not let us in."""

    code = "engine.refused"


class NotMigrated(DomainError):
    code = "database.not_migrated"


async def connect_database(url: str, variable: str) -> Any:
    """An asyncpg connection. Raises EngineUnreachable, EngineRefused, SettingsInvalid; none of them tells the password."""
    require(url, variable)
    try:
        return await asyncpg.connect(url, timeout=5, command_timeout=60)
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise EngineRefused(f"PostgreSQL refuses HEADWATER_{variable}: {error}") from error
    except AWAY as error:
        reason = str(error) or type(error).__name__
        raise EngineUnreachable(f"PostgreSQL (HEADWATER_{variable}) does not answer: {reason}") from error


async def check_database(settings: Settings) -> None:
    connection = await connect_database(settings.database.url, "DATABASE_URL")
    try:
        missing = await pending(connection)
    finally:
        await connection.close()
    if missing:
        raise NotMigrated(f"{len(missing)} migrations are missing, from {missing[0]}: run `headwater migrate`")


@asynccontextmanager
async def nats_once(settings: NATSSettings) -> AsyncIterator[Client]:
    """A connection that does not come back by itself: for asking. Raises EngineUnreachable, EngineRefused."""
    require(settings.url, "NATS_URL")
    last: list[Exception] = []

    async def note(error: Exception) -> None:
        last.append(error)

    try:
        async with asyncio.timeout(NATS_S):
            client = await nats.connect(
                settings.servers, user=settings.user or None, password=settings.password or None, connect_timeout=2,
                # 0 would mean for ever.
                allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0.1, error_cb=note,
            )  # fmt: skip
    except (nats.errors.Error, OSError, TimeoutError) as error:
        said = " ".join(str(e) for e in (*last, error)).lower()
        if "authorization" in said or "authentication" in said:
            raise EngineRefused("NATS refuses us: check HEADWATER_NATS_USER and HEADWATER_NATS_PASSWORD") from error
        raise EngineUnreachable("NATS (HEADWATER_NATS_URL) does not answer") from error
    try:
        yield client
    finally:
        await client.close()


async def check_nats(settings: NATSSettings) -> None:
    """It answers, lets us in, and has JetStream."""
    async with nats_once(settings) as client:
        try:
            await client.jetstream().account_info()
        except (nats.errors.Error, JetStreamError, TimeoutError) as error:
            raise EngineUnreachable("NATS answers, but its JetStream does not: enable it (`jetstream {}`)") from error


async def wait_for_engines(settings: Settings, stop: asyncio.Event, *, wait_s: float = WAIT_S) -> None:
    """Returns when both are ready or `stop` is set. Raises at once what waiting cannot cure, the rest after `wait_s`."""
    give_up = time.monotonic() + wait_s
    said = 0.0
    while not stop.is_set():
        try:
            await check_database(settings)
            await check_nats(settings.nats)
        except Unavailable as error:
            now = time.monotonic()
            if now >= give_up:
                raise
            if now - said >= SAY_S:
                log.warning("waiting_for_engine", reason=error.detail)
                said = now
            await asyncio.sleep(0.25)
        else:
            return

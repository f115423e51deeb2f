"""Is this server alive, and can it answer?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from nats.errors import Error as NATSError

from headwater.api.services import APIServices, Noun
from headwater.database.away import AWAY

CHECK_S_MAX = 2
"""A load balancer asks every few seconds and wants an answer in that time."""

State = Literal["ok", "unavailable"]


class Health(msgspec.Struct):
    status: State
    database: State
    nats: State


@dataclass(frozen=True, slots=True)
class HealthService:
    services: APIServices

    async def check(self) -> Health:
        database, nats = await asyncio.gather(_state(self._ask_database()), _state(self._ask_nats()))
        return Health("ok" if database == nats == "ok" else "unavailable", database, nats)

    async def _ask_database(self) -> None:
        async with self.services.database.lookup_session() as connection:
            await connection.execute("SELECT 1")

    async def _ask_nats(self) -> None:
        if self.services.nats is None:
            raise ConnectionError("no NATS")
        await self.services.nats.flush(timeout=CHECK_S_MAX)


async def _state(question: Awaitable[None]) -> State:
    try:
        async with asyncio.timeout(CHECK_S_MAX):
            await question
    except (*AWAY, NATSError):
        return "unavailable"
    return "ok"


@get("/health", operation_id="getHealth", public=True, answers={503: Health})
async def get_health(health: NamedDependency[HealthService]) -> Response[Health]:
    """200 where PostgreSQL and NATS answer, 503 where one does not."""
    state = await health.check()
    return Response(state, status_code=200 if state.status == "ok" else 503)


@get("/health/live", operation_id="getLiveness", public=True, status_code=204)
async def get_liveness() -> None:
    """The process answers. Restart it when it does not."""


def _build(services: APIServices) -> Mapping[str, object]:
    return {"health": HealthService(services)}


NOUN = Noun("Health", "For load balancers and supervisors.", (get_health, get_liveness), _build)

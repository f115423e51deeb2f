"""Reading timelines: a device's, a tenant's failed attempts, and those of strangers, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from headwater.database.session import Database
from headwater.device.filter_sql import FROM, Parameters
from headwater.device.visibility import require_device, restriction
from headwater.errors import Unavailable
from headwater.store.timeline_words import sentence
from headwater.tenancy.scope import TenantScope


class Place(NamedTuple):
    """Of the last entry of the page before."""

    at: datetime
    id: UUID


class Attempt(msgspec.Struct, frozen=True):
    """Something that happened, or several of the same kind up to `at`.

    summary    for people; its words may improve any day
    event      `connection.refused_before_authentication`, `authentication.failed`, `connected`, `disconnected`,
               `topic.denied`, `message.rejected`
    code       why: an error's code, the reason of an end, a TLS alert
    count      how often
    address    without the port; that of a proxy which does not tell the device's is the proxy's
    """

    id: UUID
    at: datetime
    event: str
    summary: str
    code: str
    detail: str
    count: int
    client_id: str
    address: str
    protocol: str
    listener: str
    gateway_id: UUID | None


class DeviceAttempt(Attempt, frozen=True):
    """identified_by: "" where the credential was good. Else by what it was taken for this device, and it may have been
    somebody else: `credential` (the id of the token that was shown), `user_name` or `client_id` (its id or external id)."""

    device_id: UUID
    identified_by: str


@dataclass(frozen=True, slots=True)
class TimelineFilter:
    """event: its beginning, "" = all. start, end: [start, end). address: of strangers."""

    event: str = ""
    start: datetime | None = None
    end: datetime | None = None
    address: str = ""

    def conditions(self, parameters: Parameters, after: Place | None) -> list[str]:
        conditions = []
        if self.event:
            conditions.append(f"starts_with(t.event, {parameters.add(self.event, 'text')})")
        if self.start is not None:
            conditions.append(f"t.at >= {parameters.add(self.start, 'timestamptz')}")
        if self.end is not None:
            conditions.append(f"t.at < {parameters.add(self.end, 'timestamptz')}")
        if self.address:
            conditions.append(f"t.address = {parameters.add(self.address, 'text')}")
        if after is not None:
            at, identifier = parameters.add(after.at, "timestamptz"), parameters.add(after.id, "uuid")
            conditions.append(f"(t.at, t.id) < ({at}, {identifier})")
        return conditions


_COMMON = "t.id, t.at, t.event, t.code, t.detail, t.count, t.client_id, t.address, t.protocol, t.listener, t.gateway_id"
_OF_DEVICE = f"{_COMMON}, t.device_id, t.identified_by"


@dataclass(frozen=True, slots=True)
class Timelines:
    """operator_pool: of headwater_operator; None = this server has no operator's plane"""

    database: Database
    operator_pool: asyncpg.Pool | None

    async def of_device(
        self, scope: TenantScope, device_id: UUID, wanted: TimelineFilter, after: Place | None, limit: int
    ) -> list[DeviceAttempt]:
        """Newest first, up to limit + 1. Raises NotFound."""
        scope.require("device:read")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await require_device(connection, scope, device_id)
            parameters = Parameters()
            conditions = [f"t.device_id = {parameters.add(device_id, 'uuid')}", *wanted.conditions(parameters, after)]
            rows = await _fetch(connection, f"{_OF_DEVICE} FROM device_timeline t", conditions, parameters, limit)
        return [DeviceAttempt(summary=sentence(row), **row) for row in rows]

    async def failed(
        self, scope: TenantScope, wanted: TimelineFilter, after: Place | None, limit: int
    ) -> list[DeviceAttempt]:
        """Attempts of all devices that the scope sees, newest first, up to limit + 1."""
        scope.require("device:read")
        async with self.database.tenant_session(scope.tenant_id) as connection:
            parameters = Parameters()
            tenant = parameters.add(scope.tenant_id, "uuid")
            visible = await restriction(connection, scope, parameters)
            conditions = [f"t.tenant_id = {tenant}", "t.failed", f"({visible})", *wanted.conditions(parameters, after)]
            source = f"{_OF_DEVICE} FROM {FROM} JOIN device_timeline t ON t.device_id = d.id"
            rows = await _fetch(connection, source, conditions, parameters, limit)
        return [DeviceAttempt(summary=sentence(row), **row) for row in rows]

    async def of_strangers(self, wanted: TimelineFilter, after: Place | None, limit: int) -> list[Attempt]:
        """For the operator of the platform. Newest first, up to limit + 1. Raises Unavailable."""
        if self.operator_pool is None:
            raise Unavailable("this server has no connection for the operator's plane")
        parameters = Parameters()
        conditions = wanted.conditions(parameters, after)
        async with self.operator_pool.acquire() as connection:
            rows = await _fetch(connection, f"{_COMMON} FROM stranger_attempt t", conditions, parameters, limit)
        return [Attempt(summary=sentence(row), **row) for row in rows]


async def _fetch(connection: Any, source: str, conditions: list[str], parameters: Parameters, limit: int) -> list[Any]:
    """source: columns and tables. Statements are made of literals, placeholders and what `restriction` makes."""
    where = " AND ".join(conditions) or "true"
    bound = parameters.add(limit + 1)
    statement = f"SELECT {source} WHERE {where} ORDER BY t.at DESC, t.id DESC LIMIT {bound}"
    rows: list[Any] = await connection.fetch(statement, *parameters.values)
    return rows

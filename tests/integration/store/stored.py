"""Telemetry as the store leaves it, written straight into its tables, and the brute force to compare answers with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
from tests.support.engines import DatabaseURLs

from headwater.clock import to_datetime
from headwater.ids import uuid7

_COLUMNS = ["tenant_id", "device_id", "observed_at", "received_at", "sequence", "lane", "metrics", "numbers", "extras"]
_NUMBERS = {"float", "integer", "boolean"}
_SERIES = """
    SELECT tenant_id, device_id, metric AS metric_id, date_bin('{interval}', observed_at, 'epoch'::timestamptz) AS bucket,
           count(*) AS count, sum(v) AS sum, min(v) AS min, max(v) AS max,
           (array_agg(v ORDER BY observed_at, v))[1] AS first, min(observed_at) AS first_at,
           (array_agg(v ORDER BY observed_at DESC, v DESC))[1] AS last, max(observed_at) AS last_at
    FROM (
        SELECT tenant_id, device_id, observed_at, u.metric, u.v FROM telemetry t, unnest(t.metrics, t.numbers) u(metric, v)
        WHERE sequence <= $1 AND observed_at < $2
        UNION ALL
        SELECT t.tenant_id, device_id, observed_at, m.id, (e.value #>> '{{}}')::float8
        FROM telemetry t, jsonb_each(t.extras) e, metric m
        WHERE sequence <= $1 AND observed_at < $2 AND t.extras IS NOT NULL AND m.id = e.key::int AND m.type = 'integer'
    ) value GROUP BY 1, 2, 3, 4
"""
_MINUTES = f"""
    INSERT INTO telemetry_1m
        (tenant_id, device_id, bucket, first_at, last_at, count, metrics, sums, mins, maxs, firsts, lasts)
    SELECT tenant_id, device_id, bucket, first_at, last_at, count, ARRAY[metric_id], ARRAY[sum], ARRAY[min], ARRAY[max],
           ARRAY[first], ARRAY[last]
    FROM ({_SERIES.format(interval="1 minute")}) series
"""
_HOURS_AND_DAYS = [
    f"""
    INSERT INTO telemetry_{width}
        (tenant_id, device_id, metric_id, bucket, count, sum, min, max, first, first_at, last, last_at)
    {_SERIES.format(interval=interval)}
    """
    for width, interval in (("1h", "1 hour"), ("1d", "1 day"))
]
END_US = 253_402_300_740_000_000
"""The last minute of the year 9999."""


@dataclass(frozen=True)
class Stored:
    """One message."""

    device: UUID
    at_us: int
    values: dict[str, Any]
    sequence: int = 1
    lane: int = 0


def type_of(value: Any) -> str:
    return {float: "float", int: "integer", bool: "boolean", str: "string", dict: "json", list: "location"}[type(value)]


@dataclass
class Telemetry:
    """Rows of one tenant. A `dict` is a JSON value, a `list` a location."""

    urls: DatabaseURLs
    tenant: UUID
    ids: dict[tuple[str, str], int] = field(default_factory=dict)

    async def devices(self, count: int) -> list[UUID]:
        made = [uuid7() for _ in range(count)]
        async with _connection(self.urls.owner) as connection:
            profile = await connection.fetchval("SELECT id FROM profile WHERE tenant_id = $1", self.tenant)
            await connection.executemany(
                "INSERT INTO device (id, tenant_id, external_id, profile_id) VALUES ($1, $2, $3, $4)",
                [(one, self.tenant, str(one), profile) for one in made],
            )
        return sorted(made)

    async def store(self, messages: Sequence[Stored], *, rolled_up_to: int = 0, folded_to_us: int = END_US) -> None:
        """Everything, of which the roll-ups know what came up to this sequence, hours and days what was observed before."""
        async with _connection(self.urls.owner) as connection:
            for message in messages:
                for name, value in message.values.items():
                    await self._metric(connection, name, type_of(value))
            await connection.copy_records_to_table(
                "telemetry", schema_name="headwater", columns=_COLUMNS, records=[self._row(message) for message in messages]
            )
            for width in ("1m", "1h", "1d"):
                await connection.execute(f"DELETE FROM telemetry_{width} WHERE tenant_id = $1", self.tenant)
            await connection.execute(_MINUTES, rolled_up_to, to_datetime(END_US))
            for statement in _HOURS_AND_DAYS:
                await connection.execute(statement, rolled_up_to, to_datetime(folded_to_us))
            await connection.execute("UPDATE rollup_frontier SET folded_to = $1", to_datetime(folded_to_us))
            lanes = {message.lane for message in messages}
            for lane in lanes:
                top = max(message.sequence for message in messages if message.lane == lane)
                await connection.executemany(
                    "INSERT INTO ingest_position (consumer, lane, sequence) VALUES ($1, $2, $3)"
                    " ON CONFLICT (consumer, lane) DO UPDATE SET sequence = excluded.sequence",
                    [("store", lane, top), ("rollup", lane, min(top, rolled_up_to))],
                )

    async def latest(self, message: Stored, *, epoch: int = 1, record: int = 1) -> None:
        async with _connection(self.urls.owner) as connection:
            for name, value in message.values.items():
                await self._metric(connection, name, type_of(value))
            tenant, device, at, received, _, _, metrics, numbers, extras = self._row(message)
            key = json.dumps(sorted(self.ids[name, type_of(value)] for name, value in message.values.items())).encode()
            await connection.execute(
                "INSERT INTO telemetry_latest (tenant_id, device_id, metric_set, observed_at, received_at, epoch, record,"
                " metrics, numbers, extras) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                tenant, device, key, at, received, epoch, record, metrics, numbers, extras,
            )  # fmt: skip

    async def _metric(self, connection: Any, name: str, type_: str) -> None:
        if (name, type_) not in self.ids:
            self.ids[name, type_] = await connection.fetchval(
                "INSERT INTO metric (tenant_id, name, type) VALUES ($1, $2, $3) RETURNING id", self.tenant, name, type_
            )

    def _row(self, message: Stored) -> tuple[Any, ...]:
        numbers = {
            self.ids[name, type_of(value)]: float(value)
            for name, value in message.values.items()
            if type_of(value) in _NUMBERS and abs(value) <= 2**53
        }
        extras = {
            str(self.ids[name, type_of(value)]): value
            for name, value in message.values.items()
            if self.ids[name, type_of(value)] not in numbers
        }
        at = to_datetime(message.at_us)
        return (
            self.tenant, message.device, at, at + timedelta(seconds=1), message.sequence, message.lane,
            list(numbers), list(numbers.values()), json.dumps(extras) if extras else None,
        )  # fmt: skip


class _connection:  # noqa: N801  # reads as the function that it stands for
    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Any:
        self._open: Any = await asyncpg.connect(self._url, server_settings={"timezone": "UTC"})
        return self._open

    async def __aexit__(self, *_: object) -> None:
        await self._open.close()

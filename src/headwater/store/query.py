"""Telemetry as somebody asks for it: rows as they came, aggregates by time bucket, and which metrics there are.

Every answer is exact at one instant: positions, roll-ups and the rows that no roll-up has yet are read in one snapshot.
Every answer is bounded, in points, devices and time; the error says what to narrow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from operator import itemgetter
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import msgspec

from headwater.clock import to_us
from headwater.database.session import Database
from headwater.device.profile import MetricType
from headwater.store import query_sql
from headwater.store.query_devices import DeviceSelection, select_devices
from headwater.store.query_errors import QueryTooLarge, QueryTooSlow
from headwater.store.query_gaps import Fill, Row, fill
from headwater.store.query_interval import Interval, bucket_starts
from headwater.store.query_plan import Segment, Source, segments
from headwater.store.query_series import (
    DOCUMENTS,
    MetricRow,
    Series,
    integer,
    message_values,
    restore_extra,
    same_series,
    series_of,
)
from headwater.store.query_sql import RawPosition, Selection, Statement
from headwater.store.sums import GUARDED, PLAIN, Sums
from headwater.tenancy.scope import TenantScope

T = TypeVar("T")

POINTS_MAX = 250_000
"""of one aggregated answer: about 25 MB of JSON, and a second of one core"""
DEVICES_LISTED_MAX = 10_000
"""whose aggregates are told apart, or whose latest values are asked for"""
DEVICES_TOGETHER_MAX = 1_000_000
"""whose values are counted together: as many as a tenant may have by default"""
DEVICES_RAW_MAX = 1_000
"""each is asked for a page of its own"""
RAW_VISITED_MAX = 2_000_000
"""devices times rows of a page: what the database may have to read for one page, about 3 s of it"""
POINTS_AT_ONCE = 2_000
"""worked on without a thread: about 5 ms"""
METRICS_MAX = 10_000
"""as many names as a tenant may have by default"""
STATEMENT_S_MAX = 30
"""A person has given up by then, and a connection of the pool has been away for long enough."""

_LIMITS = (
    "SELECT set_config('statement_timeout', $1, true), set_config('work_mem', '32MB', true), "
    "set_config('jit', 'off', true), "
    # The ranges and devices decide the plan; one made without knowing them reads every partition.
    "set_config('plan_cache_mode', 'force_custom_plan', true)"
)


class Aggregate(StrEnum):
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    SUM = "sum"
    COUNT = "count"
    FIRST = "first"
    LAST = "last"


class AggregateQuery(msgspec.Struct, frozen=True):
    """metrics    names; empty = all
    interval   None = one bucket for the whole range
    by_device  False = the values of all devices together
    """

    devices: DeviceSelection
    metrics: tuple[str, ...]
    start_us: int
    end_us: int
    interval: Interval | None
    zone: ZoneInfo
    aggregates: tuple[Aggregate, ...]
    fill: Fill = Fill.NONE
    by_device: bool = True


class SeriesAnswer(msgspec.Struct):
    """points: bucket number -> aggregates in the order of the query; ascending."""

    device_id: UUID | None
    metric: str
    type: MetricType
    points: dict[int, Row]


class AggregateAnswer(msgspec.Struct):
    """starts: where each bucket begins, UTC microseconds; the first never before the range."""

    starts: list[int]
    sources: list[Source]
    series: list[SeriesAnswer]


class RawQuery(msgspec.Struct, frozen=True):
    """metrics: names; empty = all. A message that has none of them is not part of the answer."""

    devices: DeviceSelection
    metrics: tuple[str, ...]
    start_us: int
    end_us: int
    descending: bool = False
    limit: int = 1_000
    after: RawPosition | None = None


class Message(msgspec.Struct):
    device_id: UUID
    observed_at: datetime
    received_at: datetime
    values: dict[str, Any]


class RawPage(msgspec.Struct):
    """next: where the following page starts; None = this was the last."""

    items: list[Message]
    next: RawPosition | None


class MetricName(msgspec.Struct):
    """One name and type under which values of the tenant were stored."""

    name: str
    type: MetricType
    first_stored_at: datetime


@dataclass(frozen=True, slots=True)
class TelemetryQueries:
    database: Database

    async def aggregate(self, scope: TenantScope, query: AggregateQuery) -> AggregateAnswer:
        """Raises QueryTooLarge, QueryTooSlow, NotFound, FilterInvalid."""
        try:
            return await self._aggregate(scope, query, PLAIN)
        except asyncpg.NumericValueOutOfRangeError:
            return await self._aggregate(scope, query, GUARDED)

    async def _aggregate(self, scope: TenantScope, query: AggregateQuery, sums: Sums) -> AggregateAnswer:
        starts = _starts(query) if query.start_us < query.end_us else []
        async with snapshot(self.database, scope) as connection:
            devices = await select_devices(
                connection, scope, query.devices,
                devices_max=DEVICES_LISTED_MAX if query.by_device else DEVICES_TOGETHER_MAX, list_all=False,
            )  # fmt: skip
            if not starts:
                return AggregateAnswer([], [], [])
            series = series_of(await metric_rows(connection, query.metrics))
            parts = segments(query.start_us, query.end_us, starts)
            found = await _numbers(connection, query, devices, series, parts=parts, starts=starts, sums=sums)
            found += await _documents(connection, query, devices, series, starts)
        starts[0] = max(starts[0], query.start_us)
        answers = await aside(len(found), lambda: _answers(query, series, found, starts))
        return AggregateAnswer(starts, list(dict.fromkeys(part.source for part in parts)), answers)

    async def raw(self, scope: TenantScope, query: RawQuery) -> RawPage:
        """Raises QueryTooLarge, QueryTooSlow, NotFound, FilterInvalid."""
        async with snapshot(self.database, scope) as connection:
            devices = await select_devices(connection, scope, query.devices, devices_max=DEVICES_RAW_MAX, list_all=True)
            assert devices is not None
            if len(devices) * (query.limit + 1) > RAW_VISITED_MAX:
                raise QueryTooLarge(
                    f"{len(devices)} devices with pages of {query.limit} messages are too much: ask for smaller pages",
                    limit_max=RAW_VISITED_MAX // len(devices) - 1,
                )
            named = await metric_rows(connection, query.metrics) if query.metrics else None
            if not devices or named == []:
                return RawPage([], None)
            selection = Selection(devices, None if named is None else [row.id for row in named])
            part = Segment(Source.RAW, query.start_us, query.end_us)
            rows = await run(
                connection,
                query_sql.raw_rows(
                    selection, part, descending=query.descending, after=query.after, rows_max=query.limit + 1
                ),
            )
            metrics = named if named is not None else await metrics_of(connection, rows)
        page = rows[: query.limit]
        following = _position(page[-1]) if len(rows) > query.limit else None
        return RawPage(await aside(len(page), lambda: _messages(page, metrics)), following)

    async def metrics(
        self, scope: TenantScope, *, prefix: str = "", after: tuple[str, str] = ("", ""), limit: int = 100
    ) -> list[MetricName]:
        """In the order of name and type; for a scope of one group, those that its devices have sent.

        Raises QueryTooLarge, QueryTooSlow.
        """
        pattern = prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        async with snapshot(self.database, scope) as connection:
            ids = None
            if scope.group_id is not None:
                devices = await select_devices(
                    connection, scope, DeviceSelection(), devices_max=DEVICES_LISTED_MAX, list_all=True
                )
                ids = [metric.id for metric in await metrics_of_devices(connection, devices or [])]
            rows = await connection.fetch(query_sql.METRICS_PAGE, *after, pattern, limit, ids)
        return [MetricName(row["name"], MetricType(row["type"]), row["created_at"]) for row in rows]


@asynccontextmanager
async def snapshot(database: Database, scope: TenantScope) -> AsyncIterator[Any]:
    """A read-only transaction that the database ends after STATEMENT_S_MAX a statement. Raises QueryTooSlow."""
    try:
        async with database.tenant_snapshot(scope.tenant_id) as connection:
            await connection.execute(_LIMITS, str(STATEMENT_S_MAX * 1000))
            yield connection
    except (asyncpg.QueryCanceledError, TimeoutError) as error:
        raise QueryTooSlow(
            f"the query took longer than {STATEMENT_S_MAX} s: ask for a shorter range, fewer devices or metrics, "
            "or an interval of whole minutes, hours or days",
        ) from error


async def run(connection: Any, statement: Statement) -> list[Any]:
    rows: list[Any] = await connection.fetch(statement.text, *statement.arguments)
    return rows


async def aside(size: int, work: Callable[[], T]) -> T:
    """Do what takes the time of `size` points: large answers in a thread, so that the loop goes on serving others."""
    return work() if size <= POINTS_AT_ONCE else await asyncio.to_thread(work)


async def metric_rows(connection: Any, names: Sequence[str]) -> list[MetricRow]:
    """Of these names; of all, where there are none. A name that nobody has sent yet has no row."""
    if names:
        rows = await connection.fetch(query_sql.METRICS_BY_NAME, list(names))
    else:
        rows = await connection.fetch(query_sql.METRICS_ALL, METRICS_MAX + 1)
        if len(rows) > METRICS_MAX:
            raise QueryTooLarge(
                f"there are more than {METRICS_MAX} metrics: name those that you want", metrics_max=METRICS_MAX
            )
    return [_metric(row) for row in rows]


async def metrics_of(connection: Any, rows: Sequence[Any]) -> list[MetricRow]:
    """The metrics of stored messages."""
    ids = {number for row in rows for number in row["metrics"]}
    ids.update(int(key) for row in rows if row["extras"] for key in row["extras"])
    return [_metric(row) for row in await connection.fetch(query_sql.METRICS_BY_ID, list(ids))]


async def metrics_of_devices(connection: Any, devices: Sequence[UUID]) -> list[MetricRow]:
    return [_metric(row) for row in await connection.fetch(query_sql.METRICS_OF_DEVICES, list(devices))]


def _metric(row: Any) -> MetricRow:
    return MetricRow(row["id"], row["name"], MetricType(row["type"]))


def _starts(query: AggregateQuery) -> list[int]:
    if query.interval is None:
        return [query.start_us]
    return bucket_starts(query.interval, query.start_us, query.end_us, query.zone)


def _messages(rows: Sequence[Any], metrics: Sequence[MetricRow]) -> list[Message]:
    known = {metric.id: metric for metric in metrics}
    return [
        Message(
            row["device_id"],
            row["observed_at"],
            row["received_at"],
            message_values(known, row["metrics"], row["numbers"], row["extras"]),
        )
        for row in rows
    ]


def _position(row: Any) -> RawPosition:
    return RawPosition(to_us(row["observed_at"]), row["device_id"], row["lane"], row["sequence"], row["ctid"])


# --- aggregates ---------------------------------------------------------------------------------------------------------

_Found = list[tuple[UUID | None, int, int, Row]]
"""device, id of the series, bucket number, aggregates"""

_PARTIALS = {Aggregate.AVG: ("sum", "count")}


async def _numbers(
    connection: Any,
    query: AggregateQuery,
    devices: Sequence[UUID] | None,
    series: Sequence[Series],
    *,
    parts: Sequence[Segment],
    starts: Sequence[int],
    sums: Sums,
) -> _Found:
    numeric = {one.id: one for one in series if one.type not in DOCUMENTS}
    if not numeric or devices == []:
        return []
    selection = Selection(
        devices,
        [number for one in numeric.values() for number in one.ids] if query.metrics else None,
        [number for one in numeric.values() if one.type is not MetricType.BOOLEAN for number in one.ids],
    )
    wanted = {partial for aggregate in query.aggregates for partial in _PARTIALS.get(aggregate, (str(aggregate),))}
    partials = [partial for partial in query_sql.PARTIALS if partial in wanted]
    tail = [(row["lane"], row["sequence"]) for row in await connection.fetch(query_sql.TAIL)]
    folded_us = to_us(await connection.fetchval(query_sql.FOLDED_TO))
    rows = await run(
        connection,
        query_sql.aggregate_numbers(
            selection, parts=parts, tail=tail, folded_us=folded_us, starts=starts, partials=partials, sums=sums,
            same_series=same_series(numeric.values()), by_device=query.by_device, rows_max=POINTS_MAX + 1,
        ),
    )  # fmt: skip
    _bound(len(rows))
    return await aside(len(rows), lambda: _read(query, numeric, partials, rows))


def _read(query: AggregateQuery, numeric: Mapping[int, Series], partials: Sequence[str], rows: Sequence[Any]) -> _Found:
    keys = 3 if query.by_device else 2
    columns = {partial: keys + place for place, partial in enumerate(partials)}
    # Compiled once a type, because this loop is the dearest part of an answer of 100,000 points.
    readers = {one.id: [_reader(one.type, aggregate, columns) for aggregate in query.aggregates] for one in numeric.values()}
    if query.by_device:
        return [(row[0], row[1], row[2], [read(row) for read in readers[row[1]]]) for row in rows]
    return [(None, row[0], row[1], [read(row) for read in readers[row[0]]]) for row in rows]


def _reader(kind: MetricType, aggregate: Aggregate, columns: dict[str, int]) -> Callable[[Any], Any]:
    """From a row to the aggregate, in the type that it has."""
    if aggregate is Aggregate.AVG:
        total, count = columns["sum"], columns["count"]
        return lambda row: row[total] / row[count]
    column = columns[aggregate]
    if aggregate is Aggregate.COUNT or kind is MetricType.FLOAT:
        return itemgetter(column)
    if kind is MetricType.BOOLEAN and aggregate is not Aggregate.SUM:
        return lambda row: row[column] != 0.0
    return lambda row: integer(row[column])


async def _documents(
    connection: Any, query: AggregateQuery, devices: Sequence[UUID] | None, series: Sequence[Series], starts: Sequence[int]
) -> _Found:
    kinds = {one.id: one.type for one in series if one.type in DOCUMENTS}
    if not kinds or devices == [] or not {Aggregate.COUNT, Aggregate.FIRST, Aggregate.LAST} & set(query.aggregates):
        return []
    part = Segment(Source.RAW, query.start_us, query.end_us)
    rows = await run(
        connection,
        query_sql.aggregate_documents(
            Selection(devices, list(kinds)), part, starts, by_device=query.by_device, rows_max=POINTS_MAX + 1
        ),
    )
    _bound(len(rows))
    found: _Found = []
    for row in rows:
        kind = kinds[row["metric_id"]]
        of = {
            Aggregate.COUNT: row["count_"],
            Aggregate.FIRST: restore_extra(kind, row["first_"]),
            Aggregate.LAST: restore_extra(kind, row["last_"]),
        }
        device = row["device_id"] if query.by_device else None
        found.append((device, row["metric_id"], row["number"], [of.get(aggregate) for aggregate in query.aggregates]))
    return found


def _answers(query: AggregateQuery, series: Sequence[Series], found: _Found, starts: Sequence[int]) -> list[SeriesAnswer]:
    """In the order of devices, then of metrics."""
    grouped: dict[tuple[UUID | None, int], dict[int, Row]] = {}
    for device, metric_id, number, values in found:
        grouped.setdefault((device, metric_id), {})[number] = values
    if query.fill is not Fill.NONE:
        _bound(len(grouped) * len(starts))
    by_id = {one.id: one for one in series}
    answers = []
    for (device, metric_id), points in sorted(grouped.items(), key=lambda item: (str(item[0][0]), item[0][1])):
        ordered = dict(sorted(points.items()))
        one = by_id[metric_id]
        answers.append(SeriesAnswer(device, one.name, one.type, fill(ordered, starts, query.aggregates, query.fill)))
    return answers


def _bound(points: int) -> None:
    if points > POINTS_MAX:
        raise QueryTooLarge(
            f"the answer would hold more than {POINTS_MAX} points: "
            "ask for a longer interval, a shorter range, fewer devices or fewer metrics",
            points_max=POINTS_MAX,
        )

"""Answers as tables: columns that are known before the first row, and rows in pieces.

Messages become one row each with a column a metric; aggregates one row a point. Messages are exported device by device, in
the order of time, in short transactions: a slow reader holds nothing. A device that goes away meanwhile ends early.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from headwater.clock import to_datetime
from headwater.device.profile import MetricType
from headwater.errors import NotFound
from headwater.store.formats import Column, Kind
from headwater.store.query import (
    DEVICES_LISTED_MAX,
    Aggregate,
    AggregateAnswer,
    Message,
    RawQuery,
    TelemetryQueries,
    metric_rows,
    metrics_of_devices,
    snapshot,
)
from headwater.store.query_devices import DeviceSelection, select_devices
from headwater.store.query_errors import QueryTooLarge
from headwater.store.query_series import DOCUMENTS, MetricRow, series_of
from headwater.tenancy.scope import TenantScope

PAGE_MESSAGES = 2_000
"""about 0.5 MB in memory"""
COLUMNS_MAX = 1_000
"""More is no table; as many as a profile may declare."""
POINTS_PIECE = 5_000

_KEYS = (Column("device_id", Kind.ID), Column("observed_at", Kind.TIME), Column("received_at", Kind.TIME))
_KINDS = {
    MetricType.FLOAT: Kind.FLOAT,
    MetricType.INTEGER: Kind.INTEGER,
    MetricType.BOOLEAN: Kind.BOOLEAN,
    MetricType.STRING: Kind.TEXT,
    MetricType.JSON: Kind.ANY,
    MetricType.LOCATION: Kind.LOCATION,
}


class MessageTable(msgspec.Struct):
    """columns: device_id, observed_at, received_at, then `names`; a metric that was first sent later has none."""

    columns: list[Column]
    names: list[str]
    pages: AsyncIterator[list[Message]]

    async def rows(self) -> AsyncIterator[Sequence[Sequence[Any]]]:
        async for page in self.pages:
            yield [
                (message.device_id, message.observed_at, message.received_at, *map(message.values.get, self.names))
                for message in page
            ]


async def message_table(
    queries: TelemetryQueries, scope: TenantScope, query: RawQuery, *, messages_max: int | None, columns: bool
) -> MessageTable:
    """columns: False = the names of the metrics are not needed, and so cannot be too many.

    Raises as `TelemetryQueries.raw`, here and not at the first row.
    """
    async with snapshot(queries.database, scope) as connection:
        devices = await select_devices(connection, scope, query.devices, devices_max=DEVICES_LISTED_MAX, list_all=True)
        metrics: list[MetricRow] = []
        if query.metrics:
            metrics = await metric_rows(connection, query.metrics)
        elif columns:
            metrics = await metrics_of_devices(connection, devices or [])
    names = list(dict.fromkeys(query.metrics)) or sorted({metric.name for metric in metrics})
    if columns and len(names) > COLUMNS_MAX:
        raise QueryTooLarge(
            f"a table has at most {COLUMNS_MAX} columns: name the metrics that you want", columns_max=COLUMNS_MAX
        )
    pages = _pages(queries, scope, query, devices or [], messages_max)
    return MessageTable([*_KEYS, *_columns(names, metrics)], names, pages)


def _columns(names: Sequence[str], metrics: Sequence[MetricRow]) -> list[Column]:
    taken = {column.name for column in _KEYS}
    kinds: dict[str, Kind] = {}
    for series in series_of(metrics):
        kinds[series.name] = Kind.ANY if series.name in kinds else _KINDS[series.type]
    return [Column(f"values.{name}" if name in taken else name, kinds.get(name, Kind.ANY)) for name in names]


async def _pages(
    queries: TelemetryQueries, scope: TenantScope, query: RawQuery, devices: Sequence[Any], messages_max: int | None
) -> AsyncIterator[list[Message]]:
    left = messages_max
    for device in devices:
        after = None
        while left is None or left > 0:
            one = msgspec.structs.replace(
                query,
                devices=DeviceSelection((device,)),
                after=after,
                limit=PAGE_MESSAGES if left is None else min(left, PAGE_MESSAGES),
            )
            try:
                page = await queries.raw(scope, one)
            except NotFound:
                break
            if page.items:
                yield page.items
            if left is not None:
                left -= len(page.items)
            after = page.next
            if after is None:
                break


def aggregate_columns(answer: AggregateAnswer, aggregates: Sequence[Aggregate]) -> list[Column]:
    types = {series.type for series in answer.series}
    numeric = not types & {*DOCUMENTS, MetricType.BOOLEAN}
    columns = [Column("device_id", Kind.ID), Column("metric", Kind.TEXT), Column("at", Kind.TIME)]
    for aggregate in aggregates:
        if aggregate is Aggregate.COUNT:
            columns.append(Column(aggregate, Kind.INTEGER))
        elif numeric or aggregate in {Aggregate.AVG, Aggregate.SUM}:
            columns.append(Column(aggregate, Kind.FLOAT))
        else:
            columns.append(Column(aggregate, Kind.ANY))
    return columns


async def aggregate_rows(answer: AggregateAnswer) -> AsyncIterator[Sequence[Sequence[Any]]]:
    starts = [to_datetime(at) for at in answer.starts]
    piece: list[Sequence[Any]] = []
    for series in answer.series:
        piece += [(series.device_id, series.metric, starts[number], *row) for number, row in series.points.items()]
        if len(piece) >= POINTS_PIECE:
            yield piece
            piece = []
    yield piece

"""Telemetry over HTTP: messages and aggregates of one device or of many, latest values, metric names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter
from litestar.response import Stream

from headwater.api.devices import DeviceFilter, InGroup
from headwater.api.pagination import LIMIT_DEFAULT, Cursors, CursorText, Limit, Page
from headwater.api.parameters import DeviceInPath
from headwater.api.services import APIServices, Noun
from headwater.api.telemetry_queries import (
    MESSAGES_DEFAULT,
    MESSAGES_MAX,
    URL_NAMED_MAX,
    Aggregates,
    Devices,
    FillText,
    FormatText,
    FromText,
    IntervalText,
    MessageLimit,
    MetricNames,
    Order,
    OrderText,
    TelemetryQuery,
    ToText,
    ZoneText,
    aggregate_query,
    list_name,
    raw_query,
)
from headwater.clock import Clock, to_datetime
from headwater.device.errors import FilterInvalid
from headwater.device.profile import MetricType
from headwater.errors import NotFound, ReferenceUnknown
from headwater.store import formats
from headwater.store.formats import MEDIA_TYPE, Column, Format, Rows
from headwater.store.formats_arrow import arrow_stream, require_arrow
from headwater.store.latest import LatestQueries, LatestValues
from headwater.store.query import Aggregate, AggregateAnswer, MetricName, TelemetryQueries, aside
from headwater.store.query_devices import DeviceSelection
from headwater.store.query_errors import (
    FormatNotInstalled,
    FormatUnknown,
    QueryContradictory,
    QueryInvalid,
    QueryTooLarge,
    QueryTooSlow,
)
from headwater.store.query_export import aggregate_columns, aggregate_rows, message_table
from headwater.store.query_gaps import Fill
from headwater.store.query_plan import Source
from headwater.store.query_sql import RawPosition
from headwater.tenancy.scope import TenantScope
from headwater.tenancy.text import NO_NUL

LATEST_DEVICES_MAX = 1_000
"""of one answer: some 5 MB where each has 50 metrics"""

_PROBLEMS = (
    QueryInvalid, QueryContradictory, QueryTooLarge, QueryTooSlow, FormatUnknown, FormatNotInstalled, FilterInvalid,
    NotFound, ReferenceUnknown,
)  # fmt: skip


class MessageItem(msgspec.Struct):
    """values: by metric name, each in the type in which it was sent; a location is latitude, longitude and perhaps
    altitude_m."""

    device_id: UUID
    observed_at: datetime
    received_at: datetime
    values: dict[str, Any]


class Messages(msgspec.Struct, tag="messages", tag_field="kind"):
    """Messages as they came. next_cursor: where the next page starts; null = this was the last."""

    items: list[MessageItem]
    next_cursor: str | None


class Point(msgspec.Struct, omit_defaults=True):
    """at: where the bucket begins. There is a member for each aggregate that was asked for."""

    at: datetime
    avg: float | msgspec.UnsetType | None = msgspec.UNSET
    min: Any = msgspec.UNSET
    max: Any = msgspec.UNSET
    sum: float | msgspec.UnsetType | None = msgspec.UNSET
    count: int | msgspec.UnsetType = msgspec.UNSET
    first: Any = msgspec.UNSET
    last: Any = msgspec.UNSET


class SeriesItem(msgspec.Struct):
    """device_id is null where the values of all devices were taken together."""

    device_id: UUID | None
    metric: str
    type: MetricType
    points: list[Point]


class AggregatedTelemetry(msgspec.Struct, tag="aggregates", tag_field="kind"):
    """sources: which roll-ups answered; it is exact in any case."""

    sources: list[Source]
    series: list[SeriesItem]


@dataclass(frozen=True, slots=True)
class TelemetryAnswers:
    """From a question to a response in the format that was asked for."""

    queries: TelemetryQueries
    clock: Clock
    cursors: Cursors

    async def answer(self, scope: TenantScope, query: TelemetryQuery, accept: str) -> Response[Any]:
        format_ = formats.choose(query.format, accept)
        if format_ is Format.ARROW:
            require_arrow()
        if query.interval is not None:
            return await self._aggregates(scope, query, format_)
        if query.aggregates or query.fill is not Fill.NONE or not query.by_device:
            detail = "aggregates, fill and by_device need an `interval`; `all` is one bucket for the whole range"
            raise QueryContradictory(detail)
        if format_ is Format.JSON:
            return await self._page(scope, query)
        return await self._export(scope, query, format_)

    async def _page(self, scope: TenantScope, query: TelemetryQuery) -> Response[Any]:
        limit = query.limit or MESSAGES_DEFAULT
        if limit > MESSAGES_MAX:
            raise QueryTooLarge(f"a page of JSON has at most {MESSAGES_MAX} messages", limit_max=MESSAGES_MAX)
        name = list_name(query)
        # The end of an open range is that of the first page, so that the pages fit together.
        place = self.cursors.decode(name, query.cursor, tuple[int, RawPosition])
        now_us, after = place or (self.clock.now_us(), None)
        page = await self.queries.raw(scope, raw_query(query, now_us, after, limit=limit))
        following = None if page.next is None else self.cursors.encode(name, (now_us, page.next))
        items = [MessageItem(one.device_id, one.observed_at, one.received_at, one.values) for one in page.items]
        return _json(Messages(items, following))

    async def _export(self, scope: TenantScope, query: TelemetryQuery, format_: Format) -> Response[Any]:
        if query.cursor is not None:
            raise QueryContradictory("only JSON has pages; the other formats come in one piece")
        table = await message_table(
            self.queries, scope, raw_query(query, self.clock.now_us(), None, limit=1),
            messages_max=query.limit, columns=format_ is not Format.NDJSON,
        )  # fmt: skip
        if format_ is Format.NDJSON:
            return _stream(format_, _message_lines(table.pages))
        return _stream(format_, _table(format_, table.columns, table.rows()))

    async def _aggregates(self, scope: TenantScope, query: TelemetryQuery, format_: Format) -> Response[Any]:
        wanted = aggregate_query(query, self.clock.now_us())
        answer = await self.queries.aggregate(scope, wanted)
        if format_ is Format.JSON:
            points = sum(len(series.points) for series in answer.series)
            return await aside(points, lambda: _json(_aggregated(answer, wanted.aggregates)))
        return _stream(format_, _table(format_, aggregate_columns(answer, wanted.aggregates), aggregate_rows(answer)))


def _aggregated(answer: AggregateAnswer, aggregates: Sequence[Aggregate]) -> AggregatedTelemetry:
    starts = [to_datetime(at) for at in answer.starts]
    names = [str(aggregate) for aggregate in aggregates]
    series = [
        SeriesItem(
            one.device_id,
            one.metric,
            one.type,
            [Point(starts[number], **dict(zip(names, row, strict=True))) for number, row in one.points.items()],
        )
        for one in answer.series
    ]
    return AggregatedTelemetry(answer.sources, series)


def _json(body: Any) -> Response[Any]:
    return Response(msgspec.json.encode(body), media_type="application/json")


def _stream(format_: Format, pieces: AsyncIterator[bytes]) -> Response[Any]:
    return Stream(pieces, media_type=MEDIA_TYPE[format_])


def _table(format_: Format, columns: Sequence[Column], rows: Rows) -> AsyncIterator[bytes]:
    match format_:
        case Format.CSV:
            return formats.csv_text(columns, rows)
        case Format.ARROW:
            return arrow_stream(columns, rows)
        case _:
            return formats.ndjson(columns, rows)


async def _message_lines(pages: AsyncIterator[list[Any]]) -> AsyncIterator[bytes]:
    encoder = msgspec.json.Encoder()
    async for page in pages:
        yield encoder.encode_lines(page)


# --- operations ---------------------------------------------------------------------------------------------------------


@get("/devices/{device_id:uuid}/telemetry", operation_id="getDeviceTelemetry", permission="telemetry:read",
     group_scoped=True, media_types={200: tuple(MEDIA_TYPE.values())}, problems=_PROBLEMS)  # fmt: skip
async def get_device_telemetry(
    *,
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    telemetry_answers: NamedDependency[TelemetryAnswers],
    device_id: DeviceInPath,
    start: FromText = None,
    end: ToText = None,
    metric: MetricNames = None,
    interval: IntervalText = None,
    time_zone: ZoneText = "UTC",
    aggregate: Aggregates = None,
    fill: FillText = Fill.NONE,
    order: OrderText = Order.ASCENDING,
    limit: MessageLimit = None,
    cursor: CursorText = None,
    format_: FormatText = None,
) -> Response[Messages | AggregatedTelemetry]:
    """What a device measured: messages as they came, or, with `interval`, aggregates by time bucket."""
    query = TelemetryQuery(
        devices=Devices((device_id,)), metrics=tuple(metric or ()), start=start, end=end, interval=interval,
        time_zone=time_zone, aggregates=tuple(aggregate or ()), fill=fill, order=order, limit=limit, cursor=cursor,
        format=format_,
    )  # fmt: skip
    return await telemetry_answers.answer(caller, query, request.headers.get("accept", ""))


@post("/telemetry/query", operation_id="queryTelemetry", permission="telemetry:read", group_scoped=True, status_code=200,
      media_types={200: tuple(MEDIA_TYPE.values())}, problems=_PROBLEMS)  # fmt: skip
async def query_telemetry(
    *,
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    telemetry_answers: NamedDependency[TelemetryAnswers],
    data: JSONBody[TelemetryQuery],
) -> Response[Messages | AggregatedTelemetry]:
    """The same for several devices and metrics. To count everything that was stored of a metric: `interval` all,
    `aggregates` count, `by_device` false."""
    return await telemetry_answers.answer(caller, data, request.headers.get("accept", ""))


@get("/devices/{device_id:uuid}/latest", operation_id="getDeviceLatest", permission="telemetry:read", group_scoped=True,
     problems=(NotFound, QueryTooSlow))  # fmt: skip
async def get_device_latest(
    *,
    caller: NamedDependency[TenantScope],
    latest: NamedDependency[LatestQueries],
    device_id: DeviceInPath,
    metric: MetricNames = None,
) -> LatestValues:
    """The newest value of each metric of a device, by the time of observation."""
    found = await latest.latest(caller, DeviceSelection((device_id,)), tuple(metric or ()))
    return found[0]


class LatestList(msgspec.Struct):
    """One entry for every selected device, in the order of their ids."""

    items: list[LatestValues]


@get("/telemetry/latest", operation_id="listLatest", permission="telemetry:read", group_scoped=True,
     problems=(NotFound, FilterInvalid, QueryTooLarge, QueryTooSlow))  # fmt: skip
async def list_latest(
    *,
    caller: NamedDependency[TenantScope],
    latest: NamedDependency[LatestQueries],
    device: Annotated[
        list[UUID] | None,
        QueryParameter(
            max_items=URL_NAMED_MAX,
            description="Only these devices, by id; repeat the parameter for several. All must exist.",
        ),
    ] = None,
    group_id: InGroup = None,
    q: DeviceFilter = "",
    metric: MetricNames = None,
) -> LatestList:
    """The newest values of several devices. A device must fulfil all that is given."""
    selection = DeviceSelection(tuple(dict.fromkeys(device or ())), group_id, q)
    return LatestList(await latest.latest(caller, selection, tuple(metric or ()), devices_max=LATEST_DEVICES_MAX))


@get(
    "/metrics",
    operation_id="listMetrics",
    permission="telemetry:read",
    group_scoped=True,
    problems=(QueryTooLarge, QueryTooSlow),
)
async def list_metrics(
    *,
    caller: NamedDependency[TenantScope],
    telemetry_queries: NamedDependency[TelemetryQueries],
    cursors: NamedDependency[Cursors],
    prefix: Annotated[str, QueryParameter(max_length=200, pattern=NO_NUL, description="Names that begin so.")] = "",
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[MetricName]:
    """The metrics that the tenant's devices have sent, in the order of their names."""
    name = f"metrics {prefix}"
    after = cursors.decode(name, cursor, tuple[str, str])
    rows = await telemetry_queries.metrics(caller, prefix=prefix, after=after or ("", ""), limit=limit + 1)
    return cursors.page(name, rows, limit, lambda row: (row.name, str(row.type)))


def _build(services: APIServices) -> Mapping[str, object]:
    queries = TelemetryQueries(services.database)
    return {
        "telemetry_queries": queries,
        "telemetry_answers": TelemetryAnswers(queries, services.clock, Cursors(services.secret_key)),
        "latest": LatestQueries(services.database),
    }


NOUN = Noun(
    tag="Telemetry",
    description="What devices measured: messages, aggregates, latest values.",
    handlers=(get_device_telemetry, query_telemetry, get_device_latest, list_latest, list_metrics),
    build=_build,
)

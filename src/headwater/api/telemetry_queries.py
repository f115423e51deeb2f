"""What a caller says about a telemetry query, in a URL or in a body, and what is made of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar.params import QueryParameter
from msgspec import Meta

from headwater.api.pagination import CURSOR_LENGTH_MAX
from headwater.clock import to_us
from headwater.store.formats import Format
from headwater.store.query import Aggregate, AggregateQuery, RawQuery
from headwater.store.query_devices import DeviceSelection
from headwater.store.query_errors import QueryContradictory, QueryInvalid
from headwater.store.query_gaps import Fill
from headwater.store.query_interval import INTERVAL, ZONE, parse_interval, parse_zone
from headwater.store.query_sql import RawPosition
from headwater.tenancy.text import NO_NUL

DEFAULT_RANGE_US = 86_400_000_000
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Nothing is ever stored outside, so a range that reaches further ends here; calendars and time zones behave within."""
MESSAGES_DEFAULT = 1_000
MESSAGES_MAX = 10_000
"""of one page of JSON"""
EXPORT_MESSAGES_MAX = 100_000_000
DEVICES_NAMED_MAX = 1_000
METRICS_NAMED_MAX = 1_000
URL_NAMED_MAX = 100
"""Devices or metrics named one by one in a URL, which servers and proxies bound; a body takes more."""
WHOLE_RANGE = "all"

_INTERVAL = f"^(?:{WHOLE_RANGE}|{INTERVAL})$"
_ZONE = f"^{ZONE}$"
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


MetricText = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]


class Order(StrEnum):
    ASCENDING = "asc"
    DESCENDING = "desc"


_METRIC_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": NO_NUL}
"""`MetricText` once more: the framework tells nothing about the items of a list."""

FromText = Annotated[
    str | None,
    QueryParameter(
        name="from", schema_extra={"format": "date-time"},
        description="Start of the range, included (RFC 3339). Default: a day before `to`.",
    ),
]  # fmt: skip
ToText = Annotated[
    str | None,
    QueryParameter(
        name="to", schema_extra={"format": "date-time"},
        description="End of the range, excluded (RFC 3339). Default: now.",
    ),
]  # fmt: skip
MetricNames = Annotated[
    list[MetricText] | None,
    QueryParameter(
        name="metric", max_items=URL_NAMED_MAX, schema_extra={"items": _METRIC_SCHEMA},
        description="Metric names; repeat the parameter for several. Default: all.",
    ),
]  # fmt: skip
IntervalText = Annotated[
    str | None,
    QueryParameter(
        pattern=_INTERVAL,
        description="Aggregate by buckets of this length: a number and s, m, h, d, w, mo or y, as in 15m or 1mo, at most "
        "366d or 1y; or `all`: one bucket for the whole range. Seconds, minutes and hours are aligned to the Unix epoch, "
        "longer ones to the calendar of `time_zone`. Default: messages as they came.",
    ),
]  # fmt: skip
Aggregates = Annotated[
    list[Aggregate] | None,
    QueryParameter(
        name="aggregate", max_items=len(Aggregate),
        description="With `interval`: repeat the parameter for several. Default: avg, min, max and count. Of booleans, avg "
        "is the share of true and sum their number; of strings, JSON and locations there are count, first and last.",
    ),
]  # fmt: skip
FillText = Annotated[
    Fill,
    QueryParameter(
        description="With `interval`: what stands in a bucket without data: no point, nulls, the values of the bucket "
        "before, or the straight line between its neighbours.",
    ),
]  # fmt: skip
ZoneText = Annotated[
    str,
    QueryParameter(
        pattern=_ZONE, schema_extra={"format": "headwater-time-zone"},
        description="IANA name, as in Europe/Berlin: whose days, weeks, months and years buckets are.",
    ),
]  # fmt: skip
OrderText = Annotated[Order, QueryParameter(description="Of messages: oldest first (`asc`) or newest first (`desc`).")]
MessageLimit = Annotated[
    int | None,
    QueryParameter(
        ge=1, le=EXPORT_MESSAGES_MAX,
        description=f"How many messages at most. JSON has pages: {MESSAGES_DEFAULT} where nothing is said, "
        f"{MESSAGES_MAX} at most. "
        "The other formats are streams: everything, where nothing is said.",
    ),
]  # fmt: skip
FormatText = Annotated[Format | None, QueryParameter(name="format", description="Instead of the Accept header.")]


class Devices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"group": "group_id", "filter": "q"}):
    """A device must fulfil all that is given; nothing given = every device that the caller may see.

    ids       devices, all of which must exist
    group_id  members of a device group
    q         a filter, as in the list of devices
    """

    ids: Annotated[tuple[UUID, ...], Meta(max_length=DEVICES_NAMED_MAX)] = ()
    group: UUID | None = None
    filter: Annotated[str, Meta(max_length=4000, extra_json_schema={"format": "headwater-filter"})] = ""

    def selection(self) -> DeviceSelection:
        return DeviceSelection(tuple(dict.fromkeys(self.ids)), self.group, self.filter)


DateTime = Annotated[str, Meta(extra_json_schema={"format": "date-time"}, max_length=64)]


class TelemetryQuery(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from", "end": "to"}
):  # fmt: skip
    """One question to the telemetry of several devices. Without `interval`: messages as they came; with it: aggregates.

    by_device  false = the values of all devices together, in one series a metric
    cursor     `next_cursor` of the page before
    """

    devices: Devices = Devices()
    metrics: Annotated[tuple[MetricText, ...], Meta(max_length=METRICS_NAMED_MAX)] = ()
    start: DateTime | None = None
    end: DateTime | None = None
    interval: Annotated[str, Meta(pattern=_INTERVAL)] | None = None
    time_zone: Annotated[str, Meta(pattern=_ZONE, extra_json_schema={"format": "headwater-time-zone"})] = "UTC"
    aggregates: Annotated[tuple[Aggregate, ...], Meta(max_length=len(Aggregate))] = ()
    fill: Fill = Fill.NONE
    by_device: bool = True
    order: Order = Order.ASCENDING
    limit: Annotated[int, Meta(ge=1, le=EXPORT_MESSAGES_MAX)] | None = None
    cursor: Annotated[str, Meta(max_length=CURSOR_LENGTH_MAX, extra_json_schema={"format": "headwater-cursor"})] | None = (
        None
    )
    format: Format | None = None


AGGREGATES_DEFAULT = (Aggregate.AVG, Aggregate.MIN, Aggregate.MAX, Aggregate.COUNT)


def time_range(start: str | None, end: str | None, now_us: int) -> tuple[int, int]:
    """[from, to) in UTC microseconds, perhaps empty. Raises QueryInvalid, QueryContradictory."""
    end_us = now_us if end is None else instant("to", end)
    start_us = max(0, end_us - DEFAULT_RANGE_US) if start is None else instant("from", start)
    if start_us > end_us:
        raise QueryContradictory("the range ends before it begins: `from` must be earlier than `to`")
    return start_us, end_us


def instant(name: str, text: str) -> int:
    """UTC microseconds, of the nearest time that anything may be stored at. Raises QueryInvalid."""
    try:
        if not _RFC3339.fullmatch(text):
            raise ValueError("not RFC 3339")
        at = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise QueryInvalid(f"`{name}` is a time of RFC 3339, as in 2026-01-31T12:00:00Z", value=text[:64]) from error
    return to_us(min(max(at, EARLIEST), LATEST))


def aggregate_query(query: TelemetryQuery, now_us: int) -> AggregateQuery:
    """Raises QueryInvalid, QueryContradictory, ReferenceUnknown."""
    assert query.interval is not None
    start_us, end_us = time_range(query.start, query.end, now_us)
    if query.cursor is not None:
        raise QueryContradictory("aggregates come in one piece: there is no cursor with `interval`")
    return AggregateQuery(
        devices=query.devices.selection(),
        metrics=tuple(dict.fromkeys(query.metrics)),
        start_us=start_us,
        end_us=end_us,
        interval=None if query.interval == WHOLE_RANGE else parse_interval(query.interval),
        zone=parse_zone(query.time_zone),
        aggregates=tuple(dict.fromkeys(query.aggregates)) or AGGREGATES_DEFAULT,
        fill=query.fill,
        by_device=query.by_device,
    )


def raw_query(query: TelemetryQuery, now_us: int, after: RawPosition | None, *, limit: int) -> RawQuery:
    """Raises QueryInvalid, QueryContradictory."""
    start_us, end_us = time_range(query.start, query.end, now_us)
    return RawQuery(
        devices=query.devices.selection(),
        metrics=tuple(dict.fromkeys(query.metrics)),
        start_us=start_us,
        end_us=end_us,
        descending=query.order is Order.DESCENDING,
        limit=limit,
        after=after,
    )


def list_name(query: TelemetryQuery) -> str:
    """What a cursor belongs to: everything but the size of the page. The range must be said, or it would move on."""
    parts: tuple[Any, ...] = (query.devices, query.metrics, query.start, query.end, query.order)
    return "telemetry " + msgspec.json.encode(parts).decode()

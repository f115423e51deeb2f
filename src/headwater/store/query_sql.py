"""The one file of queries that knows how telemetry lies in its tables (database/migrations/0004_telemetry.sql).

Pure: makes statements and their arguments. Every statement runs as the plain role inside a tenant's session, so row-level
security keeps other tenants out; the tenant is no condition here. Only whole numbers that came out of the database are ever
written into a statement, everything else is an argument.
"""

# ruff: noqa: S608  statements are made of this file's own literals; whatever a caller says is an argument

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from headwater.clock import to_datetime
from headwater.store.query_plan import Segment, Source, rolled_span
from headwater.store.sums import PLAIN, Sums

FEW_DEVICES = 64
"""Up to here the rows that no roll-up has yet are found by device; above, by their place in the stream. Rows of a day are
about 2,000 a device and 0.5 us each, the tail holds about a minute of everybody's. Measured with 20 s of it,
both cost the same at about 50."""

_SERIES_TABLE = {Source.HOUR: "telemetry_1h", Source.DAY: "telemetry_1d"}

METRICS_BY_NAME = "SELECT id, name, type FROM metric WHERE name = ANY($1::text[]) ORDER BY id"
METRICS_BY_ID = "SELECT id, name, type FROM metric WHERE id = ANY($1::int[])"
METRICS_ALL = "SELECT id, name, type FROM metric ORDER BY id LIMIT $1"
METRICS_PAGE = """
    SELECT id, name, type, created_at FROM metric
    WHERE (name, type) > ($1, $2) AND name LIKE $3 AND ($5::int[] IS NULL OR id = ANY($5::int[]))
    ORDER BY name, type LIMIT $4
"""
METRICS_OF_DEVICES = """
    SELECT id, name, type FROM metric WHERE id IN (
        SELECT unnest(metrics) FROM telemetry_latest WHERE device_id = ANY($1::uuid[])
        UNION
        SELECT jsonb_object_keys(extras)::int FROM telemetry_latest WHERE device_id = ANY($1::uuid[])
    )
"""

# A lane without rows that the roll-up has not seen must not count: its old position would make the tail reach far back.
TAIL = """
    SELECT stored.lane, coalesce(rolled.sequence, 0) AS sequence
    FROM ingest_position stored
    LEFT JOIN ingest_position rolled ON rolled.consumer = 'rollup' AND rolled.lane = stored.lane
    WHERE stored.consumer = 'store' AND stored.sequence > coalesce(rolled.sequence, 0)
"""

FOLDED_TO = "SELECT folded_to FROM rollup_frontier"

LATEST = """
    SELECT device_id, observed_at, received_at, epoch, record, metrics, numbers, extras
    FROM telemetry_latest WHERE device_id = ANY($1::uuid[])
"""
LATEST_OF_METRICS = LATEST + "AND (metrics && $2::int[] OR extras ?| $3::text[])"

Tail = Sequence[tuple[int, int]]
"""(lane, sequence): rows of this lane above this sequence are in no roll-up"""


class Statement(msgspec.Struct):
    """SQL under construction: `bind` gives an argument its place."""

    text: str = ""
    arguments: list[Any] = msgspec.field(default_factory=list)

    def bind(self, value: Any, type_name: str) -> str:
        self.arguments.append(value)
        return f"${len(self.arguments)}::{type_name}"


class Selection(msgspec.Struct, frozen=True):
    """Which rows.

    devices   None = all of the tenant
    metrics   ids; None = all
    integers  those of the metrics that are integers, whose values may stand where a float could not hold them
    """

    devices: Sequence[UUID] | None
    metrics: Sequence[int] | None
    integers: Sequence[int] = ()


# --- aggregates ---------------------------------------------------------------------------------------------------------

_MERGE = {
    "count": "sum(n)::bigint",
    "sum": PLAIN.total.format("s"),
    "min": "min(lo)",
    "max": "max(hi)",
    "first": "(min(f))[2]",
    "last": "(max(l))[2]",
}
"""Partial aggregates of roll-ups and single values become those of a bucket. A value with its time, as an array, is ordered
by its time: the least such array is the first value. Of values at the very same time, the least is the first."""

_OF_SERIES = {
    "count": "count AS n",
    "sum": "sum AS s",
    "min": "min AS lo",
    "max": "max AS hi",
    "first": "ARRAY[date_part('epoch', first_at), first] AS f",
    "last": "ARRAY[date_part('epoch', last_at), last] AS l",
}
_OF_MINUTE = {
    "count": "count AS n",
    "sum": "{sums} AS s",
    "min": "{mins} AS lo",
    "max": "{maxs} AS hi",
    "first": "ARRAY[date_part('epoch', first_at), {firsts}] AS f",
    "last": "ARRAY[date_part('epoch', last_at), {lasts}] AS l",
}
_MINUTE_ARRAYS = {
    "sums": "sums",
    **{name: f"coalesce({name}, sums)" for name in ("mins", "maxs", "firsts", "lasts")},
}
"""Columns of telemetry_1m that belong to `metrics`, one to one."""
_OF_VALUE = {
    "count": "1 AS n",
    "sum": "v AS s",
    "min": "v AS lo",
    "max": "v AS hi",
    "first": "ARRAY[date_part('epoch', at), v] AS f",
    "last": "ARRAY[date_part('epoch', at), v] AS l",
}
PARTIALS = tuple(_MERGE)
_ALL = "true"


def aggregate_numbers(
    selection: Selection,
    *,
    parts: Sequence[Segment],
    tail: Tail,
    folded_us: int,
    starts: Sequence[int],
    partials: Sequence[str],
    sums: Sums,
    same_series: Mapping[int, int],
    by_device: bool,
    rows_max: int,
) -> Statement:
    """Rows (device_id if by_device, metric_id, bucket number, *partials).

    folded_us    hours and days hold nothing that was observed from here on
    same_series  metric id -> the id under which its values are counted, where that is another one
    """
    statement = Statement()
    arms: list[str] = []
    for part in parts:
        match part.source:
            case Source.RAW:
                arms += _value_arms(statement, selection, part, partials, _ALL)
            case Source.MINUTE:
                arms.append(_minute_arm(statement, selection, part, partials))
            case _:
                arms.append(_series_arm(statement, selection, part, partials))
                if folded_us < part.end_us:
                    rest = Segment(Source.MINUTE, max(part.start_us, folded_us), part.end_us)
                    arms.append(_minute_arm(statement, selection, rest, partials))
    span = rolled_span(parts)
    if span is not None and tail:
        arms += _value_arms(statement, selection, Segment(Source.RAW, *span), partials, _above(statement, tail))
    metric = _canonical(same_series)
    keys = ["device_id"] * by_device + [
        f"{metric} AS metric_id",
        f"width_bucket(at, {_instants(statement, starts)}) - 1 AS number",
    ]
    places = ", ".join(str(place + 1) for place in range(len(keys)))
    merge = _MERGE | {"sum": sums.total.format("s")}
    merged = [f"{merge[name]} AS {name}_" for name in partials]
    statement.text = (
        f"SELECT {', '.join([*keys, *merged])} FROM (\n{_union(arms)}\n) part GROUP BY {places} LIMIT {int(rows_max)}"
    )
    return statement


def _series_arm(statement: Statement, selection: Selection, part: Segment, partials: Sequence[str]) -> str:
    columns = ", ".join(["device_id", "metric_id", "bucket AS at", *(_OF_SERIES[name] for name in partials)])
    where = [*_devices(statement, selection, "device_id"), *_range(statement, part, "bucket")]
    if selection.metrics is not None:
        where.append(f"metric_id = ANY({statement.bind(list(selection.metrics), 'int[]')})")
    return f"SELECT {columns} FROM {_SERIES_TABLE[part.source]} WHERE {' AND '.join(where)}"


def _minute_arm(statement: Statement, selection: Selection, part: Segment, partials: Sequence[str]) -> str:
    source, where = "telemetry_1m", [*_devices(statement, selection, "device_id"), *_range(statement, part, "bucket")]
    if selection.metrics is not None and len(selection.metrics) == 1:
        number = statement.bind(selection.metrics[0], "int")
        metric = f"{number} AS metric_id"
        where.append(f"metrics @> ARRAY[{number}]")
        of = {name: f"({array})[array_position(metrics, {number})]" for name, array in _MINUTE_ARRAYS.items()}
    else:
        metric, of = "metric_id", {name: f"of_{name}" for name in _MINUTE_ARRAYS}
        source += f", unnest(metrics, {', '.join(_MINUTE_ARRAYS.values())}) AS u(metric_id, {', '.join(of.values())})"
        if selection.metrics is not None:
            where.append(f"metric_id = ANY({statement.bind(list(selection.metrics), 'int[]')})")
    columns = ", ".join(["device_id", metric, "bucket AS at", *(_OF_MINUTE[name].format_map(of) for name in partials)])
    return f"SELECT {columns} FROM {source} WHERE {' AND '.join(where)}"


def _value_arms(statement: Statement, selection: Selection, part: Segment, partials: Sequence[str], which: str) -> list[str]:
    """Numbers stand in the arrays; integers that a float cannot hold stand in `extras`, where floats that are not finite are
    no numbers."""
    where = [*_range(statement, part, "observed_at"), which]
    source = "telemetry"
    if which != _ALL and (selection.devices is None or len(selection.devices) > FEW_DEVICES):
        # OFFSET 0 keeps the planner from finding these rows by a thousand devices instead of by their place in the stream.
        columns = "device_id, observed_at, metrics, numbers, extras"
        source = f"(SELECT {columns} FROM telemetry WHERE {' AND '.join(where)} OFFSET 0)"
        where = []
    conditions = " AND ".join([*_devices(statement, selection, "device_id"), *where])
    columns = ", ".join(["device_id", "metric_id", "at", *(_OF_VALUE[name] for name in partials)])
    return [
        f"SELECT {columns} FROM (SELECT device_id, observed_at AS at, {values} AND {conditions} OFFSET 0) value"
        for values in _values(statement, selection, source)
    ]


def _values(statement: Statement, selection: Selection, source: str) -> list[str]:
    """metric_id and v of every value, as the rest of a SELECT that goes on with more conditions."""
    if selection.metrics is not None and len(selection.metrics) == 1:
        # Five times faster than to unnest the arrays.
        number = statement.bind(selection.metrics[0], "int")
        found = [
            f"{number} AS metric_id, numbers[array_position(metrics, {number})] AS v FROM {source} t "
            f"WHERE metrics @> ARRAY[{number}]"
        ]
    elif selection.metrics is not None:
        ids = statement.bind(list(selection.metrics), "int[]")
        found = [f"metric_id, v FROM {source} t, unnest(metrics, numbers) AS u(metric_id, v) WHERE metric_id = ANY({ids})"]
    else:
        found = [f"metric_id, v FROM {source} t, unnest(metrics, numbers) AS u(metric_id, v) WHERE true"]
    if selection.integers:
        keys = statement.bind([str(number) for number in selection.integers], "text[]")
        found.append(
            f"e.key::int AS metric_id, (e.value #>> '{{}}')::float8 AS v FROM {source} t, "
            f"jsonb_each(extras) AS e(key, value) WHERE extras IS NOT NULL AND e.key = ANY({keys}) "
            "AND jsonb_typeof(e.value) = 'number'"
        )
    return found


def aggregate_documents(
    selection: Selection, part: Segment, starts: Sequence[int], *, by_device: bool, rows_max: int
) -> Statement:
    """Rows (device_id if by_device, metric_id, bucket number, count, first, last) of strings, JSON and locations."""
    assert selection.metrics is not None
    statement = Statement()
    where = [*_devices(statement, selection, "t.device_id"), *_range(statement, part, "t.observed_at")]
    keys = statement.bind([str(number) for number in selection.metrics], "text[]")
    columns = ["t.device_id"] * by_device + [
        "e.key::int AS metric_id",
        f"width_bucket(t.observed_at, {_instants(statement, starts)}) - 1 AS number",
    ]
    places = ", ".join(str(place + 1) for place in range(len(columns)))
    columns += [
        "count(*) AS count_",
        "(array_agg(e.value ORDER BY t.observed_at, t.sequence))[1] AS first_",
        "(array_agg(e.value ORDER BY t.observed_at DESC, t.sequence DESC))[1] AS last_",
    ]
    statement.text = (
        f"SELECT {', '.join(columns)} FROM telemetry t, LATERAL jsonb_each(t.extras) AS e(key, value) "
        f"WHERE {' AND '.join(where)} AND t.extras ?| {keys} AND e.key = ANY({keys}) GROUP BY {places} LIMIT {int(rows_max)}"
    )
    return statement


# --- rows as they came --------------------------------------------------------------------------------------------------

RAW_COLUMNS = "device_id, observed_at, received_at, lane, sequence, ctid, metrics, numbers, extras"
_RAW_ORDER = ("observed_at", "device_id", "lane", "sequence", "ctid")


class RawPosition(msgspec.Struct, frozen=True, array_like=True):
    """A message's place in the order of `raw_rows`. row is PostgreSQL's ctid: messages of one device, time and batch have
    nothing else to tell them apart."""

    observed_at: int
    device: UUID
    lane: int
    sequence: int
    row: tuple[int, int]


def raw_rows(
    selection: Selection, part: Segment, *, descending: bool, after: RawPosition | None, rows_max: int
) -> Statement:
    """Rows of RAW_COLUMNS in the order of time; each device is asked for one page, then the pages are merged."""
    assert selection.devices is not None
    statement = Statement()
    devices = statement.bind(list(selection.devices), "uuid[]")
    direction = " DESC" if descending else ""
    order = ", ".join(column + direction for column in _RAW_ORDER)
    where = ["t.device_id = d.id", *_range(statement, part, "t.observed_at")]
    if selection.metrics is not None:
        ids = statement.bind(list(selection.metrics), "int[]")
        keys = statement.bind([str(number) for number in selection.metrics], "text[]")
        where.append(f"(t.metrics && {ids} OR t.extras ?| {keys})")
    if after is not None:
        where += _beyond(statement, after, descending=descending)
    limit = int(rows_max)
    page = f"SELECT {RAW_COLUMNS} FROM telemetry t WHERE {' AND '.join(where)} ORDER BY {order} LIMIT {limit}"
    statement.text = (
        f"SELECT t.* FROM unnest({devices}) AS d(id) CROSS JOIN LATERAL ({page}) t ORDER BY {order} LIMIT {limit}"
    )
    return statement


def _beyond(statement: Statement, after: RawPosition, *, descending: bool) -> list[str]:
    at = statement.bind(to_datetime(after.observed_at), "timestamptz")
    place = (
        f"({at}, {statement.bind(after.device, 'uuid')}, {statement.bind(after.lane, 'smallint')}, "
        f"{statement.bind(after.sequence, 'bigint')}, {statement.bind(after.row, 'tid')})"
    )
    operator = "<" if descending else ">"
    # The first condition says the same less exactly, and is the one that the index understands.
    return [
        f"t.observed_at {operator}= {at}",
        f"(t.observed_at, t.device_id, t.lane, t.sequence, t.ctid) {operator} {place}",
    ]


# --- parts of statements ------------------------------------------------------------------------------------------------


def _devices(statement: Statement, selection: Selection, column: str) -> list[str]:
    if selection.devices is None:
        return [f"{column} IN (SELECT id FROM device)"]
    return [f"{column} = ANY({statement.bind(list(selection.devices), 'uuid[]')})"]


def _range(statement: Statement, part: Segment, column: str) -> list[str]:
    return [
        f"{column} >= {statement.bind(to_datetime(part.start_us), 'timestamptz')}",
        f"{column} < {statement.bind(to_datetime(part.end_us), 'timestamptz')}",
    ]


def _above(statement: Statement, tail: Tail) -> str:
    lanes = " OR ".join(
        f"(lane = {statement.bind(lane, 'smallint')} AND sequence > {statement.bind(sequence, 'bigint')})"
        for lane, sequence in tail
    )
    # The least of them is what the BRIN index on `sequence` understands.
    return f"sequence > {statement.bind(min(sequence for _, sequence in tail), 'bigint')} AND ({lanes})"


def _instants(statement: Statement, starts: Sequence[int]) -> str:
    return statement.bind([to_datetime(at) for at in starts], "timestamptz[]")


def _canonical(same_series: Mapping[int, int]) -> str:
    if not same_series:
        return "metric_id"
    cases = " ".join(f"WHEN {int(one)} THEN {int(other)}" for one, other in same_series.items())
    return f"CASE metric_id {cases} ELSE metric_id END"


def _union(arms: Sequence[str]) -> str:
    return "\nUNION ALL\n".join(arms)

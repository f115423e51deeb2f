"""The statements of the roll-ups. Pure: makes SQL out of this file's own literals and whole numbers.

Of values at the very same instant the least is the first and the greatest is the last. Instants are compared as queries do
(store/query_sql.py): as float8 seconds, so that both agree also in years in which these are coarser than a microsecond.
"""

# ruff: noqa: S608  statements are made of this file's literals and whole numbers; whatever varies is an argument

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from headwater.store.sums import Sums

WIDTH_MAX = 16
"""Rows of up to so many metrics are added up in a statement for exactly their number, which takes each number out of its
place in the array: 0.6 us a row of five, where to unnest them takes 2.3, and 4.2 where each metric has five numbers."""
COMMON_SHARE = 16
"""Where at least one row in so many has that number of metrics: each statement reads all rows of a pass again, for about
0.1 us a row."""
SERIES_SHIFT = 5
"""Other series of a device that were counted alike share a row of minutes, up to 32: those whose metric.ids agree but for
these bits. Such a row stays below the 2,000 bytes from which on PostgreSQL would compress it."""


LOCAL_SETTINGS = """
SELECT set_config('work_mem', '64MB', true), set_config('plan_cache_mode', 'force_custom_plan', true),
       -- Only the BRIN indexes find what came lately without reading everything, whatever the statistics say.
       set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'off', true),
       set_config('enable_indexonlyscan', 'off', true), set_config('enable_sort', 'off', true)
"""

# --- what a pass takes --------------------------------------------------------------------------------------------------

ADD_LANES = """
INSERT INTO ingest_position (consumer, lane) SELECT $1, lane FROM ingest_position WHERE consumer = 'store'
ON CONFLICT DO NOTHING
"""
# One statement, so one snapshot: what the store has committed by it stands in the ledger, and nothing comes in below its
# position any more. A lane of which nothing waits follows the store, also over what had no telemetry in it.
PLAN = """
WITH place AS (
    SELECT stored.lane, stored.sequence AS stored, rolled.sequence AS position
    FROM ingest_position stored JOIN ingest_position rolled ON rolled.consumer = $1 AND rolled.lane = stored.lane
    WHERE stored.consumer = 'store'
), entry AS (
    SELECT oldest.*, sum(rows) OVER (ORDER BY oldest.sequence, oldest.lane) - rows AS before
    FROM place CROSS JOIN LATERAL (
        SELECT lane, sequence, rows FROM telemetry_ledger l
        WHERE l.lane = place.lane AND stored_at < $2 ORDER BY sequence LIMIT $4) oldest (lane, sequence, rows)
), taken AS (
    SELECT lane, max(sequence) AS sequence FROM entry WHERE before < $3 GROUP BY lane
)
SELECT lane, position,
       CASE WHEN next.sequence IS NULL THEN stored ELSE coalesce(taken.sequence, position) END AS target,
       next.stored_at AS waiting_since
FROM place LEFT JOIN taken USING (lane) LEFT JOIN LATERAL (
    SELECT sequence, stored_at FROM telemetry_ledger l
    WHERE l.lane = place.lane AND l.sequence > coalesce(taken.sequence, 0) ORDER BY sequence LIMIT 1) next ON true
ORDER BY lane
"""
TAKE = """
WITH taken AS (
    DELETE FROM telemetry_ledger l USING unnest($1::int[], $2::bigint[]) AS target(lane, sequence)
    WHERE l.lane = target.lane AND l.sequence <= target.sequence
    RETURNING l.observed_from, l.observed_to
)
SELECT min(observed_from) AS observed_from, max(observed_to) AS observed_to FROM taken
"""

# --- which rows ---------------------------------------------------------------------------------------------------------

_ARRAYS = ("sums", "mins", "maxs", "firsts", "lasts")
"""of telemetry_1m"""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows with `metrics` and numbers that belong to them, one to one.

    count     how many values of each metric
    numbers   the arrays from which sum, min, max, first and last are made
    extras    whether values stand in `extras`, too
    """

    table: str
    where: str
    count: str
    first_at: str
    last_at: str
    numbers: Sequence[str]
    extras: bool

    @property
    def widths(self) -> str:
        """How many rows have so many metrics, and how many of them extras."""
        extras = "extras" if self.extras else "NULL"
        return (
            f"SELECT cardinality(metrics) AS width, count(*) AS rows, count({extras}) AS extras "
            f"FROM {self.table} WHERE {self.where} GROUP BY 1"
        )


RAW = Rows(
    table="telemetry",
    # $5 and $6 hold NULL for a lane that has no part in the pass.
    where=(
        "observed_at BETWEEN $1 AND $2 AND sequence > $3 AND sequence <= $4 "
        "AND sequence > ($5::bigint[])[lane + 1] AND sequence <= ($6::bigint[])[lane + 1]"
    ),
    count="1",
    first_at="observed_at",
    last_at="observed_at",
    numbers=["numbers"] * 5,
    extras=True,
)
"""of a pass"""
LATE = replace(RAW, where=f"{RAW.where} AND observed_at < $7")
"""those of them whose minutes were folded before"""
SEVERAL = Rows(
    table="telemetry_1m",
    where="bucket >= $1 AND bucket < $2 AND count > 1",
    count="count",
    first_at="first_at",
    last_at="last_at",
    numbers=_ARRAYS,
    extras=False,
)
SINGLE = replace(SEVERAL, where="bucket >= $1 AND bucket < $2 AND count = 1", count="1", numbers=["sums"] * 5)
"""Minutes to be folded, of several messages and of one."""


def common_widths(rows_of: Sequence[tuple[int, int]]) -> list[int]:
    """rows_of: (width, rows)"""
    total = sum(rows for _, rows in rows_of)
    return [width for width, rows in rows_of if 0 < width <= WIDTH_MAX and rows * COMMON_SHARE >= total]


# --- what is made of them -----------------------------------------------------------------------------------------------

_INTO_MINUTES = """
INSERT INTO telemetry_1m
    (tenant_id, device_id, metrics, bucket, count, first_at, last_at, sums, mins, maxs, firsts, lasts)
"""
_BY_DEVICE = "ORDER BY device_id, bucket"
"""An index takes neighbours for less."""


def minutes_of_width(width: int, sums: Sums) -> str:
    """From messages of exactly `width` metrics."""
    return f"{_INTO_MINUTES} {_together(RAW, width, '1 minute', sums, sparse=True)} {_BY_DEVICE}"


def minutes_of_others(widths: Collection[int], sums: Sums) -> str:
    """From messages of other widths, and from integers of all that a float8 does not hold exactly."""
    arrays = ", ".join(_IF_SEVERAL.format("count", f"array_agg({name})") for name in ("min", "max", "first", "last"))
    return f"""
    {_INTO_MINUTES}
    SELECT tenant_id, device_id, array_agg(metric_id), bucket, count, first_at, last_at, array_agg(sum), {arrays}
    FROM ({_series(_one_by_one(RAW, widths), "1 minute", sums)}) series
    GROUP BY tenant_id, device_id, bucket, count, first_at, last_at, metric_id >> {SERIES_SHIFT}
    {_BY_DEVICE}
    """


def hours_and_days(widths_of: Sequence[tuple[Rows, Collection[int]]], sums: Sums) -> str:
    """Added to what there is; in the order of the key, so that two who did it at once would never wait for each other."""
    parts = [
        part
        for rows, widths in widths_of
        for part in (
            _one_by_one(rows, widths),
            *(_apart(_together(rows, width, "1 hour", sums)) for width in widths),
        )
    ]
    merge = f"""
    ORDER BY device_id, metric_id, bucket
    ON CONFLICT (device_id, metric_id, bucket) DO UPDATE SET
        count = known.count + excluded.count, sum = {sums.plus.format("known.sum", "excluded.sum")},
        min = least(known.min, excluded.min), max = greatest(known.max, excluded.max),
        first_at = least(known.first_at, excluded.first_at), last_at = greatest(known.last_at, excluded.last_at),
        first = CASE WHEN {_value_at("first", "excluded")} < {_value_at("first", "known")}
                THEN excluded.first ELSE known.first END,
        last = CASE WHEN {_value_at("last", "excluded")} > {_value_at("last", "known")}
               THEN excluded.last ELSE known.last END"""
    columns = f"tenant_id, device_id, metric_id, bucket, {_PARTS}"
    return f"""
    WITH hour AS MATERIALIZED ({_series(" UNION ALL ".join(parts), "1 hour", sums)}),
         merged AS (INSERT INTO telemetry_1h AS known ({columns}) SELECT {columns} FROM hour {merge}),
         day AS ({_series("SELECT * FROM hour", "1 day", sums)})
    INSERT INTO telemetry_1d AS known ({columns}) SELECT {columns} FROM day {merge}
    """


def _value_at(which: str, row: str) -> str:
    return f"(date_part('epoch', {row}.{which}_at), {row}.{which})"


# --- parts of statements ------------------------------------------------------------------------------------------------

_MADE = ("sum", "min", "max", "first", "last")
_PARTS = f"count, first_at, last_at, {', '.join(_MADE)}"
_IF_SEVERAL = "CASE WHEN {0} > 1 THEN {1} END"
_INSTANTS = "date_part('epoch', {first_at}) AS first_e, date_part('epoch', {last_at}) AS last_e"


def _forms(sums: Sums) -> tuple[str, ...]:
    """Sum, minimum, maximum, first and last."""
    return sums.total, "min({0})", "max({0})", "(min(ARRAY[first_e, {0}]))[2]", "(max(ARRAY[last_e, {0}]))[2]"


def _together(rows: Rows, width: int, bucket: str, sums: Sums, *, sparse: bool = False) -> str:
    """Rows of exactly `width` metrics, those with the same ones together.

    sparse  NULL instead of all arrays but the sums, where count = 1
    """
    taken = {array: [f"v{n}_{i}" for i in range(width)] for n, array in enumerate(dict.fromkeys(rows.numbers))}
    values = ", ".join(f"({array})[{i + 1}] AS {name}" for array, names in taken.items() for i, name in enumerate(names))
    arrays = [
        f"ARRAY[{', '.join(form.format(name) for name in taken[array])}]"
        for form, array in zip(_forms(sums), rows.numbers, strict=True)
    ]
    if sparse:
        arrays[1:] = [_IF_SEVERAL.format("sum(count)", array) for array in arrays[1:]]
    # OFFSET 0: each number is taken out of its array once, not once for each of its aggregates.
    return f"""
    SELECT tenant_id, device_id, metrics, bucket, sum(count) AS count, min(first_at) AS first_at, max(last_at) AS last_at,
           {", ".join(f"{array} AS {name}" for array, name in zip(arrays, _ARRAYS, strict=True))}
    FROM (
        SELECT tenant_id, device_id, metrics, {_bucket(bucket, rows.first_at)}, {rows.count} AS count,
               {rows.first_at} AS first_at, {rows.last_at} AS last_at,
               {_INSTANTS.format(first_at=rows.first_at, last_at=rows.last_at)}, {values}
        FROM {rows.table} WHERE {rows.where} AND cardinality(metrics) = {width} OFFSET 0
    ) alike
    GROUP BY tenant_id, device_id, metrics, bucket"""


def _apart(together: str) -> str:
    """The same, a row for each metric."""
    return f"""
    SELECT tenant_id, device_id, metric_id, {_PARTS}
    FROM ({together}) together, unnest(metrics, {", ".join(_ARRAYS)}) AS one(metric_id, {", ".join(_MADE)})"""


def _one_by_one(rows: Rows, widths: Collection[int]) -> str:
    """A row for each value in rows of other widths and in everybody's extras."""
    names = {array: f"v{n}" for n, array in enumerate(dict.fromkeys(rows.numbers))}
    counted = f"{rows.count} AS count, {rows.first_at} AS first_at, {rows.last_at} AS last_at"
    made = zip(rows.numbers, _MADE, strict=True)
    found = f"""
    SELECT tenant_id, device_id, metric_id, {counted}, {", ".join(f"{names[array]} AS {name}" for array, name in made)}
    FROM {rows.table}, unnest(metrics, {", ".join(names)}) AS one(metric_id, {", ".join(names.values())})
    WHERE {rows.where} AND cardinality(metrics) <> ALL ('{{{", ".join(map(str, widths))}}}'::int[])"""
    if not rows.extras:
        return found
    return f"""{found}
    UNION ALL
    SELECT tenant_id, device_id, metric_id, {counted}, v, v, v, v, v
    FROM (
        SELECT t.tenant_id, t.device_id, t.observed_at, m.id AS metric_id, (e.value #>> '{{}}')::float8 AS v
        FROM {rows.table} t, jsonb_each(t.extras) AS e(key, value), metric m
        WHERE {rows.where} AND t.extras IS NOT NULL AND jsonb_typeof(e.value) = 'number'
          AND m.id = e.key::int AND m.type = 'integer' OFFSET 0
    ) integer"""


def _series(parts: str, bucket: str, sums: Sums) -> str:
    """One row a device, metric and bucket."""
    made = ", ".join(f"{form.format(name)} AS {name}" for form, name in zip(_forms(sums), _MADE, strict=True))
    return f"""
    SELECT tenant_id, device_id, metric_id, bucket, sum(count)::bigint AS count, min(first_at) AS first_at,
           max(last_at) AS last_at, {made}
    FROM (
        SELECT tenant_id, device_id, metric_id, {_bucket(bucket, "first_at")}, {_PARTS},
               {_INSTANTS.format(first_at="first_at", last_at="last_at")}
        FROM ({parts}) part
    ) timed
    GROUP BY tenant_id, device_id, metric_id, bucket"""


def _bucket(width: str, at: str) -> str:
    return f"date_bin('{width}', {at}, 'epoch') AS bucket"

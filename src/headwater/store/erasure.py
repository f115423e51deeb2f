"""Taking values of devices out of the tables of telemetry: for retention, and when a device is gone.

Owns the statements. Every one of them is a transaction of its own and changes about `ROWS_MAX` rows: devices are weighed
first and put together to portions of that size; a device that alone has more is taken in spans of time, halved until they
fit. Writers go on meanwhile: rows of telemetry are only ever added, and roll-ups and latest values that somebody holds are
left for another time rather than waited for.

Deleted rows, and the old versions of changed ones, give their room back to their table when autovacuum has passed, not to
the disk; only empty pages at a table's end, and a dropped partition, do that. Old partitions get few new rows, so what is
taken out of one mostly lies idle until the partition is dropped.
"""

# ruff: noqa: S608  statements are made of this file's literals and names of our own tables; whatever varies is an argument

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg

from headwater.database.long_work import Story
from headwater.store.partitions import PARENTS, Partition
from headwater.store.retention_rules import EVERYTHING, Expired

ROWS_MAX = 5_000
"""Some 20 to 100 ms: nobody waits noticeably for a lock, and a transaction does not hold vacuum back."""
DEVICES_MAX = 500
"""Of one statement. Weighing them costs some microseconds each where there is nothing."""
SPAN_MIN = timedelta(milliseconds=1)
"""A device with more rows than ROWS_MAX in it has told us times that mean nothing: they go at once."""

Span = tuple[datetime, datetime]
"""From, and before."""
BEGINNING, END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
"""Which asyncpg tells PostgreSQL as -infinity and infinity: every time lies between them, the year 9999's last, too."""


class Form(StrEnum):
    """What a row is: a message with its metrics in arrays, a minute's messages in the same way, one metric's bucket, an
    event, or something that happened to the device."""

    MESSAGE = "message"
    MINUTE = "minute"
    BUCKET = "bucket"
    EVENT = "event"
    HAPPENING = "happening"


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    form: Form

    @property
    def at(self) -> str:
        if self.form is Form.HAPPENING:
            return "at"
        return "bucket" if self.form in {Form.MINUTE, Form.BUCKET} else "observed_at"


DEFAULTS = (
    Table("telemetry_default", Form.MESSAGE),
    Table("telemetry_1m_default", Form.MINUTE),
    Table("telemetry_1h_default", Form.BUCKET),
)
DAYS = Table("telemetry_1d", Form.BUCKET)
EVENTS = Table("event", Form.EVENT)
HAPPENINGS = Table("device_timeline", Form.HAPPENING)
"""These are all besides partitions and latest values; the latter stand apart, few a device and always being written."""


def table_of(partition: Partition) -> Table:
    return Table(partition.name, dict(zip(PARENTS, (Form.MESSAGE, Form.MINUTE, Form.BUCKET), strict=True))[partition.parent])


async def erase(
    session: Any, table: Table, devices: Sequence[UUID], expired: Expired, span: Span, *, rolled: Sequence[int] | None = None
) -> Story:
    """Again is no error, and quick.

    devices  at most DEVICES_MAX
    rolled   by lane: messages above this place in the stream stay; None = none do
    """
    statements = _Statements(table, expired, rolled)
    waiting = [(list(devices), *span)]
    try:
        while waiting:
            many, start, end = waiting.pop()
            weights = await session.fetch(statements.weigh, many, start, end, *statements.weigh_arguments)
            yield
            indivisible = end - start <= SPAN_MIN
            for portion in _portions(weights, indivisible=indivisible):
                for text in statements.texts:
                    await session.execute(text, portion, start, end, *statements.arguments)
                    yield
            if not indivisible:
                middle = start + (end - start) / 2
                heavy = [row["id"] for row in weights if row["rows"] > ROWS_MAX]
                waiting += [([device], *half) for device in heavy for half in ((start, middle), (middle, end))]
    except asyncpg.UndefinedTableError:
        return  # the partition was dropped meanwhile, and everything with it


def _portions(weights: Sequence[Any], *, indivisible: bool) -> Iterator[list[UUID]]:
    portion: list[UUID] = []
    rows = 0
    for row in weights:
        if row["rows"] == 0 or (row["rows"] > ROWS_MAX and not indivisible):
            continue
        if portion and rows + row["rows"] > ROWS_MAX:
            yield portion
            portion, rows = [], 0
        portion.append(row["id"])
        rows += row["rows"]
    if portion:
        yield portion


class _Statements:
    """$1 devices, $2 and $3 the span of time; then which metrics."""

    def __init__(self, table: Table, expired: Expired, rolled: Sequence[int] | None) -> None:
        self.arguments: list[Any] = []
        if table.form is Form.BUCKET:
            self.arguments = list(expired.ranges())
        elif table.form is Form.MESSAGE and expired != EVERYTHING:
            self.arguments = [list(expired.ids), [str(i) for i in expired.ids]]
        elif table.form is Form.MINUTE and expired != EVERYTHING:
            self.arguments = [list(expired.ids)]
        bounded = ""
        if table.form is Form.MESSAGE and rolled is not None:
            self.arguments.append(list(rolled))
            bounded = f" AND t.sequence <= (${len(self.arguments) + 3}::bigint[])[t.lane + 1]"
        self.texts = _texts(table, expired, bounded)
        in_buckets = table.form is Form.BUCKET
        self.weigh = f"""
            SELECT d.id, (SELECT count(*) FROM (
                SELECT FROM {table.name} t{_RANGES if in_buckets else ""}
                WHERE t.device_id = d.id AND t.{table.at} >= $2 AND t.{table.at} < $3{_IN_RANGE if in_buckets else ""}
                LIMIT {ROWS_MAX + 1}) few) AS rows
            FROM unnest($1::uuid[]) d(id)
        """
        self.weigh_arguments = self.arguments if in_buckets else []


_RANGES = ", unnest($4::int[], $5::int[]) r(low, high)"
_IN_RANGE = " AND t.metric_id BETWEEN r.low AND r.high"


def _texts(table: Table, expired: Expired, bounded: str) -> list[str]:
    where = f"t.device_id = ANY ($1::uuid[]) AND t.{table.at} >= $2 AND t.{table.at} < $3{bounded}"
    if table.form is Form.BUCKET:
        # By ctid, so that no wrong estimate ever makes the planner read a whole partition.
        found = f"SELECT t.ctid FROM {table.name} t{_RANGES} WHERE {where}{_IN_RANGE} FOR UPDATE OF t SKIP LOCKED"
        return [f"DELETE FROM {table.name} WHERE ctid = ANY (ARRAY({found}))"]
    if table.form in {Form.EVENT, Form.HAPPENING} or expired == EVERYTHING:
        return [f"DELETE FROM {table.name} t WHERE {where}"]
    hit, empty, stripped = (
        _stripping_minutes(expired, "$4") if table.form is Form.MINUTE else _stripping(expired, "$4", "$5")
    )
    return [
        f"DELETE FROM {table.name} t WHERE {where} AND {hit} AND {empty}",
        f"UPDATE {table.name} t SET {stripped} WHERE {where} AND {hit}",
    ]


def _stripping(expired: Expired, ids: str, keys: str) -> tuple[str, str, str]:
    """Of a row with metrics, numbers and extras: whether something in it has expired, whether all has, and what is left."""
    ids, keys = f"{ids}::int[]", f"{keys}::text[]"
    none = "'{}'::jsonb"
    outside = f"coalesce(t.extras - {keys}, {none}) <> {none}"
    if expired.rest:
        hit = f"(NOT t.metrics <@ {ids} OR {outside})"
        empty = f"NOT t.metrics && {ids} AND NOT coalesce(t.extras ?| {keys}, false)"
        left = f"= ANY ({ids})"
        extras = f"(SELECT jsonb_object_agg(key, value) FROM jsonb_each(t.extras) WHERE key = ANY ({keys}))"
    else:
        hit = f"(t.metrics && {ids} OR t.extras ?| {keys})"
        empty = f"t.metrics <@ {ids} AND NOT {outside}"
        left = f"<> ALL ({ids})"
        extras = f"nullif(t.extras - {keys}, {none})"
    arrays = ", ".join(
        f"{column} = coalesce((SELECT array_agg({value} ORDER BY place)"
        f" FROM unnest(t.metrics, t.numbers) WITH ORDINALITY u(metric, number, place) WHERE metric {left}), '{{}}')"
        for column, value in (("metrics", "metric"), ("numbers", "number"))
    )
    return hit, empty, f"{arrays}, extras = {extras}"


def _stripping_minutes(expired: Expired, ids: str) -> tuple[str, str, str]:
    """The same of a row of minutes, which has no extras."""
    ids = f"{ids}::int[]"
    if expired.rest:
        hit, empty, left = f"NOT t.metrics <@ {ids}", f"NOT t.metrics && {ids}", f"= ANY ({ids})"
    else:
        hit, empty, left = f"t.metrics && {ids}", f"t.metrics <@ {ids}", f"<> ALL ({ids})"
    arrays = ", ".join(
        f"{column} = CASE WHEN t.{column} IS NOT NULL THEN (SELECT array_agg(value ORDER BY place)"
        f" FROM unnest(t.metrics, t.{column}) WITH ORDINALITY u(metric, value, place) WHERE metric {left}) END"
        for column in ("metrics", "sums", "mins", "maxs", "firsts", "lasts")
    )
    return hit, empty, arrays


async def empty_latest(session: Any, devices: Sequence[UUID], expired: Expired, before: datetime) -> None:
    """Latest values observed before: taken out of their rows. The rows stay, for they say when the device was last heard.

    A device has few of them, so this is one statement; those that are being written just now are left out.
    """
    hit, _, stripped = _stripping(expired, "$3", "$4")
    await session.execute(
        f"""
        UPDATE telemetry_latest t SET {stripped} WHERE ctid = ANY (ARRAY(
            SELECT t.ctid FROM telemetry_latest t
            WHERE t.device_id = ANY ($1::uuid[]) AND t.observed_at < $2 AND {hit}
            FOR UPDATE SKIP LOCKED))
        """,
        devices, before, list(expired.ids), [str(i) for i in expired.ids],
    )  # fmt: skip


async def delete_latest(session: Any, devices: Sequence[UUID]) -> None:
    await session.execute("DELETE FROM telemetry_latest WHERE device_id = ANY ($1::uuid[])", devices)

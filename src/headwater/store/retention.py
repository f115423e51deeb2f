"""Retention: what a profile keeps no longer leaves raw rows, roll-ups, events and latest values.

Owns `retention_done` and the decision when a partition is dropped. Its rules (store/retention_rules.py):

- A partition goes as a whole when everybody's longest retention has passed since its last day; that alone gives room back to
  the disk at once (store/erasure.py).
- Before that, a profile's values are taken out of each partition whose last day has expired: raw rows up to a day later than
  their own age says, roll-ups of minutes up to a week and those of hours up to a month. Tables that are not cut by time
  (days, events, latest values, default partitions) are gone through every day, by time.
- A metric with days of its own leaves alone, or stays when the others go. Its roll-ups go with it.
- Events follow the profile's days.
- Latest values are telemetry, too: who keeps a week does not show last month's position of a lorry. The value goes, the row
  stays, because it says when the device was last heard.

Each profile is due once a day (UTC), and when it changed. What is gone through:

- what has come of age since the last time, for all devices of the profile;
- where its rules are new or have changed: everything that has expired under them, for all devices. A retention that was
  shortened is so honoured at once, one that was lengthened brings nothing back;
- for devices that may have got this profile since: everything that has expired;
- for devices with rows in old partitions that came since: those, and the roll-ups of the time. The stream's sequence tells:
  what has come since the last time lies above the place that everything had reached then, and the BRIN index finds it. Late
  data is gone within a day.

A row stays until it is rolled up, and a device's raw rows go after their roll-ups: so no roll-up of a late row comes when
nothing tells of it any more (but where the row was older than everybody's longest retention and went with its partition:
such a roll-up goes with its own). While the roll-up stands still, what was stored since stays.

All of it can be repeated: after a crash, a profile that was not finished is begun anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from headwater.clock import Clock, to_datetime
from headwater.database.long_work import LongWork, Story
from headwater.store.erasure import (
    BEGINNING,
    DAYS,
    DEFAULTS,
    DEVICES_MAX,
    EVENTS,
    Form,
    Span,
    Table,
    empty_latest,
    erase,
    table_of,
)
from headwater.store.partitions import PARENTS, Partition, list_partitions
from headwater.store.retention_rules import (
    DAYS_DEFAULT,
    EVERYTHING,
    Expired,
    Stage,
    digest,
    expired_of,
    retention_of,
    stage_at,
    stages_of,
)

log = structlog.get_logger(__name__)

PROFILES_MAX = 50
"""Read at a time; a definition has up to some 100 KB."""
DROP_RETRY_S = 600.0
"""After somebody's long query was in the way of a drop: each attempt holds up everybody for a moment."""
LATE_ROWS_MAX, LATE_DEVICES_MAX = 200_000, 2_000
"""Of one partition, since the last time. More are not listed: then all devices are gone through."""

_ANY_DUE = """
SELECT EXISTS (
    SELECT FROM profile p LEFT JOIN retention_done d ON d.profile_id = p.id
    WHERE d.profile_id IS NULL OR d.version <> p.version OR d.day < $1)
"""
_DUE = """
SELECT p.id, p.tenant_id, p.version, p.definition, d.rules, d.day, d.sequence, d.looked_at
FROM profile p LEFT JOIN retention_done d ON d.profile_id = p.id
WHERE (d.profile_id IS NULL OR d.version <> p.version OR d.day < $1) AND p.id <> ALL ($2::uuid[])
ORDER BY p.id LIMIT $3
"""
_LONGEST = """
SELECT max(greatest(
    coalesce((definition ->> 'retention_days')::int, $1),
    (SELECT max((metric ->> 'retention_days')::int) FROM jsonb_array_elements(definition -> 'metrics') AS m(metric))))
FROM profile
"""
# A change that was begun before the last look may have been committed after it. A device that is younger than that look
# has no row that is not late.
_DEVICES = """
SELECT id, created_at < $4 AND updated_at >= $4 - interval '1 hour' AS changed FROM device
WHERE tenant_id = $1 AND profile_id = $2 AND id > $3 ORDER BY id LIMIT $5
"""
_DONE = """
INSERT INTO retention_done (profile_id, version, rules, day, sequence, looked_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (profile_id) DO UPDATE SET
    version = excluded.version, rules = excluded.rules, day = excluded.day, sequence = excluded.sequence,
    looked_at = excluded.looked_at
"""


@dataclass(frozen=True, slots=True)
class _Reached:
    """Places in the stream, at one moment.

    all     every row at or below has been stored and rolled up
    rolled  by lane, up to which its rows have been rolled up
    """

    all: int
    rolled: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Pass:
    """One going through all profiles that are due.

    today    what has expired is counted from here
    reached  when it began
    sealed   partitions that are not dropped
    failed   profiles that could not be finished; the next pass takes them up again
    """

    today: date
    reached: _Reached
    sealed: Sequence[Partition]
    late: _LateDevices
    failed: set[UUID]


@dataclass(frozen=True, slots=True)
class _Target:
    """Something to take out.

    table    None = latest values
    whole    of all devices of the profile; otherwise of those that have changed, and
    late_in  of those with late rows in these tables
    """

    table: Table | None
    expired: Expired
    span: Span
    whole: bool = True
    late_in: Sequence[str] = ()


class RetentionDuty:
    """A `database.duty.Duty`."""

    name = "retention"

    def __init__(self, clock: Clock, *, every_s: float = 60.0) -> None:
        self.every_s = every_s
        self._clock = clock
        self._work = LongWork(self._pass)
        self._drop_again_at: float | None = None
        """when, by the loop's clock; None = nothing is waiting to be dropped"""

    async def perform(self, session: Any) -> bool:
        return await self._work.turn(session)

    async def _pass(self, session: Any) -> Story:
        today = to_datetime(self._clock.now_us()).date()
        dropping = self._drop_again_at is not None and self._drop_again_at <= asyncio.get_running_loop().time()
        if not dropping and not await session.fetchval(_ANY_DUE, today):
            return
        # Before anything else is read: what comes from here on is late for the next pass.
        reached = await _reached(session)
        longest = timedelta(days=await session.fetchval(_LONGEST, DAYS_DEFAULT) or DAYS_DEFAULT)
        partitions = await list_partitions(session)
        sealed = [one for one in partitions if one.ends + longest > today]
        async for _ in self._drop(session, [one for one in partitions if one.ends + longest <= today]):
            yield
        work = _Pass(today, reached, sealed, _LateDevices(session), set())
        while profiles := await session.fetch(_DUE, today, work.failed, PROFILES_MAX):
            for profile in profiles:
                try:
                    async for _ in _apply(session, profile, work):
                        yield
                except asyncpg.PostgresError as error:
                    if session.is_closed():
                        raise
                    # A deadlock, a statement that took too long: the other profiles do not wait for this one.
                    log.warning("retention_fails", profile=str(profile["id"]), reason=f"{type(error).__name__}: {error}")
                    work.failed.add(profile["id"])

    async def _drop(self, session: Any, partitions: Sequence[Partition]) -> Story:
        """One that is being read stays for now; its rows are not taken out one by one, because it will go as a whole."""
        self._drop_again_at = None
        for partition in partitions:
            try:
                await session.execute("SELECT telemetry_partition_drop($1)", partition.name)
            except asyncpg.LockNotAvailableError:
                log.info("partition_in_use", partition=partition.name)
                self._drop_again_at = asyncio.get_running_loop().time() + DROP_RETRY_S
                return
            log.info("partition_dropped", partition=partition.name)
            yield


async def _apply(session: Any, profile: Any, work: _Pass) -> Story:
    stages = stages_of(retention_of(profile["definition"]))
    rules = digest(stages)
    looked_at = await session.fetchval("SELECT now()")
    known = profile["rules"] == rules
    ids_of = await _metric_ids(session, profile["tenant_id"], {name for stage in stages for name in stage.names})
    targets = _by_time(stages, ids_of, work.today)
    targets += _by_partition(stages, ids_of, work, since=profile["day"] if known else None)
    targets.sort(key=lambda target: target.table is not None and target.table.form is Form.MESSAGE)
    after = UUID(int=0)
    while page := await session.fetch(
        _DEVICES, profile["tenant_id"], profile["id"], after, profile["looked_at"] or looked_at, DEVICES_MAX
    ):
        after = page[-1]["id"]
        everyone = [row["id"] for row in page]
        changed = {row["id"] for row in page if row["changed"]}
        for target in targets:
            devices = everyone
            if not target.whole:
                late = [await work.late.find(table, profile["sequence"]) for table in target.late_in]
                if None not in late:
                    wanted = changed.union(*(some for some in late if some))
                    devices = [one for one in everyone if one in wanted] if wanted else []
            if not devices:
                pass
            elif target.table is None:
                await empty_latest(session, devices, target.expired, target.span[1])
            else:
                rolled = work.reached.rolled
                async for _ in erase(session, target.table, devices, target.expired, target.span, rolled=rolled):
                    yield
            yield
    await session.execute(
        _DONE, profile["id"], profile["version"], rules, work.today, work.reached.all, looked_at
    )  # fmt: skip


def _by_time(stages: Sequence[Stage], ids_of: Mapping[str, Sequence[int]], today: date) -> list[_Target]:
    """Of the tables that are not cut by time, at every stage. The oldest first, of which most goes as whole rows."""
    targets = []
    own = next(stage for stage in stages if stage.rest)
    for stage in reversed(stages):
        span = (BEGINNING, _midnight(today - timedelta(days=stage.days)))
        expired = expired_of(stage, ids_of)
        if expired is not None:
            targets += [_Target(table, expired, span) for table in (*DEFAULTS, DAYS, None)]
        if stage is own:
            targets.append(_Target(EVENTS, EVERYTHING, span))
    return targets


def _by_partition(
    stages: Sequence[Stage], ids_of: Mapping[str, Sequence[int]], work: _Pass, *, since: date | None
) -> list[_Target]:
    """since: when these rules were last applied; None = never."""
    targets = []
    days = [one for one in work.sealed if one.parent == PARENTS[0]]
    for partition in work.sealed:
        stage = stage_at(stages, (work.today - partition.ends).days)
        if stage is None or (expired := expired_of(stage, ids_of)) is None:
            continue
        whole = since is None or stage_at(stages, (since - partition.ends).days) != stage
        span = (_midnight(partition.starts), _midnight(partition.ends))
        late_in = [day.name for day in days if partition.starts <= day.starts < partition.ends]
        if partition not in days:
            late_in.append(DEFAULTS[0].name)  # the partition of a day may be gone, or never have been
        targets.append(_Target(table_of(partition), expired, span, whole, late_in))
    return targets


async def _reached(session: Any) -> _Reached:
    """What the trimmer has let go of, every lane had stored."""
    rows = await session.fetch(
        "SELECT consumer, lane, sequence FROM ingest_position WHERE consumer = ANY ($1::text[])", ["trim", "store", "rollup"]
    )
    position = {(row["consumer"], row["lane"]): row["sequence"] for row in rows}
    lanes = max((lane for _, lane in position), default=0) + 1
    stored, rolled = ([position.get((consumer, lane), 0) for lane in range(lanes)] for consumer in ("store", "rollup"))
    behind = [to for to, there in zip(rolled, stored, strict=True) if to < there]
    return _Reached(min([position.get(("trim", 0), 0), *behind]), rolled)


class _LateDevices:
    """Devices that have rows above a place in the stream in a table of messages; found once for all profiles of a pass."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._known: dict[str, tuple[int, frozenset[UUID] | None]] = {}

    async def find(self, table: str, sequence: int) -> frozenset[UUID] | None:
        """Perhaps some more than asked for. None = too many to be listed."""
        known = self._known.get(table)
        if known is None or known[0] > sequence:
            known = (sequence, await self._look(table, sequence))
            self._known[table] = known
        return known[1]

    async def _look(self, table: str, sequence: int) -> frozenset[UUID] | None:
        async with self._session.transaction():
            # Only the BRIN index finds rows by their sequence without reading everything, whatever the statistics say.
            await self._session.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off")
            rows = await self._session.fetch(
                f"""
                SELECT device_id, count(*) AS rows
                FROM (SELECT device_id FROM {table} WHERE sequence > $1 LIMIT {LATE_ROWS_MAX}) late
                GROUP BY device_id LIMIT {LATE_DEVICES_MAX + 1}
                """,  # noqa: S608  # one of our own tables
                sequence,
            )
        if len(rows) > LATE_DEVICES_MAX or sum(row["rows"] for row in rows) >= LATE_ROWS_MAX:
            return None
        return frozenset(row["device_id"] for row in rows)


async def _metric_ids(session: Any, tenant_id: UUID, names: set[str]) -> dict[str, list[int]]:
    """A name has an id for each type that was ever sent under it."""
    found: dict[str, list[int]] = {}
    for row in await session.fetch(
        "SELECT id, name FROM metric WHERE tenant_id = $1 AND name = ANY ($2::text[])", tenant_id, list(names)
    ):
        found.setdefault(row["name"], []).append(row["id"])
    return found


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)

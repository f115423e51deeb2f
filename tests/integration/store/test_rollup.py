"""Roll-ups on a real PostgreSQL, of what the store's own writer has written, compared with brute force in Python."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from tests.support.clock import FakeClock
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.clock import to_datetime, to_us
from headwater.database.lane_session import open_lane_session
from headwater.database.session import Database, open_pool
from headwater.ids import uuid7
from headwater.store import rollup, rollup_sql
from headwater.store.partitions import PartitionKeeper
from headwater.store.query import Aggregate, AggregateQuery, TelemetryQueries
from headwater.store.query_devices import DeviceSelection
from headwater.store.query_interval import parse_interval
from headwater.store.rollup import RollupDuty
from headwater.store.writer import StoreCounts, StoreParts, StoreWork
from headwater.store.writer_devices import KnownDevices
from headwater.stream.envelope import Kind, Record, encode_batch
from headwater.stream.position import PositionLost, read_position
from headwater.stream.reader import Delivery
from headwater.tenancy.scope import system_scope

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WIDTHS = {"1m": MINUTE, "1h": HOUR, "1d": DAY}

Key = tuple[UUID, int, datetime]
"""device, metric, bucket"""
Parts = tuple[int, float, float, float, tuple[datetime, float], tuple[datetime, float]]
"""count, sum, min, max, first, last"""


def floor(at: datetime, width: timedelta) -> datetime:
    return at - (at - EPOCH) % width


def merge(one: Parts, other: Parts) -> Parts:
    return (
        one[0] + other[0], one[1] + other[1], min(one[2], other[2]), max(one[3], other[3]), min(one[4], other[4]),
        max(one[5], other[5]),
    )  # fmt: skip


@dataclass
class Platform:
    """A tenant with devices, the stream's lanes as the store reads them, and everything that was sent, in Python."""

    owner: Any
    tenant: UUID
    devices: list[UUID]
    clock: FakeClock
    started: datetime
    keeper: PartitionKeeper
    sessions: list[Any]
    works: list[StoreWork]
    sequence: int = 0
    values: list[tuple[UUID, str, str, datetime, float]] = field(default_factory=list)
    """device, metric, its type, when, value: those that count"""

    @property
    def now(self) -> datetime:
        return to_datetime(self.clock.now_us())

    async def send(self, lane: int, messages: Sequence[tuple[UUID, datetime, dict[str, Any]]]) -> None:
        """One batch of the stream, stored in a transaction of its own."""
        self.sequence += 1
        records = [
            Record(self.tenant.bytes, device.bytes, Kind.TELEMETRY, to_us(at), self.clock.now_us(), 1, self.sequence, body)
            for device, at, body in messages
        ]
        await self.store(lane, records)
        for device, at, body in messages:
            for name, value in body.items():
                if isinstance(value, float | int) and math.isfinite(value):
                    kind = "boolean" if isinstance(value, bool) else "integer" if isinstance(value, int) else "float"
                    self.values.append((device, name, kind, at, float(value)))

    async def store(self, lane: int, records: list[Record]) -> None:
        position = await read_position(self.sessions[lane], "store", lane)
        delivery = Delivery(self.sequence, encode_batch(records))
        assert await self.works[lane].apply([delivery], position=position, offset=0) == 1

    def minute_is_over(self) -> None:
        """What has been stored until now may be rolled up."""
        self.clock.advance(120)

    # --- what is there, and what should be ----------------------------------------------------------------------------

    async def expected(self, width: str, before: datetime | None = None) -> dict[Key, Parts]:
        ids = {(row["name"], row["type"]): row["id"] for row in await self.owner.fetch("SELECT * FROM metric")}
        series: dict[Key, Parts] = {}
        for device, name, kind, at, value in self.values:
            if before is None or at < before:
                key = (device, ids[name, kind], floor(at, WIDTHS[width]))
                new = (1, value, value, value, (at, value), (at, value))
                series[key] = merge(series[key], new) if key in series else new
        return series

    async def minutes(self) -> dict[Key, Parts]:
        series: dict[Key, Parts] = {}
        for row in await self.owner.fetch("SELECT * FROM telemetry_1m"):
            assert row["tenant_id"] == self.tenant
            arrays = [row["sums"], *(row[name] or row["sums"] for name in ("mins", "maxs", "firsts", "lasts"))]
            assert {len(array) for array in arrays} == {len(row["metrics"])}
            for metric, total, least, greatest, first, last in zip(row["metrics"], *arrays, strict=True):
                key = (row["device_id"], metric, row["bucket"])
                new = (row["count"], total, least, greatest, (row["first_at"], first), (row["last_at"], last))
                series[key] = merge(series[key], new) if key in series else new
        return series

    async def series(self, width: str) -> dict[Key, Parts]:
        return {
            (row["device_id"], row["metric_id"], row["bucket"]): (
                row["count"], row["sum"], row["min"], row["max"], (row["first_at"], row["first"]),
                (row["last_at"], row["last"]),
            )
            for row in await self.owner.fetch(f"SELECT * FROM telemetry_{width}")
        }  # fmt: skip

    async def folded_to(self) -> datetime:
        at: datetime = await self.owner.fetchval("SELECT folded_to FROM rollup_frontier")
        return at

    async def check(self) -> None:
        """Everything that was sent is in the minutes, and in hours and days as far as the frontier says."""
        folded_to = await self.folded_to()
        assert await self.minutes() == await self.expected("1m")
        for width in ("1h", "1d"):
            assert await self.series(width) == await self.expected(width, folded_to), width

    async def digest(self) -> list[Any]:
        tables = ("telemetry_1m", "telemetry_1h", "telemetry_1d", "telemetry_ledger", "ingest_position", "rollup_frontier")
        return [
            await self.owner.fetchval(f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t")
            for table in tables
        ]


@pytest.fixture
async def platform(database_urls: DatabaseURLs, tenant_factory: TenantFactory) -> AsyncIterator[Platform]:
    tenant = await tenant_factory()
    owner = await asyncpg.connect(database_urls.owner, server_settings={"timezone": "UTC"})
    pool = await open_pool(database_urls.writer, size_max=1, application_name="test")
    clock = FakeClock()
    keeper = PartitionKeeper(pool, clock)
    profile = await owner.fetchval("SELECT id FROM profile WHERE tenant_id = $1", tenant)
    devices = [uuid7() for _ in range(5)]
    await owner.executemany(
        "INSERT INTO device (id, tenant_id, external_id, profile_id) VALUES ($1, $2, $3, $4)",
        [(one, tenant, str(one), profile) for one in devices],
    )
    sessions = [await open_lane_session(database_urls.writer, f"test lane {lane}") for lane in range(3)]
    parts = StoreParts(KnownDevices(), keeper, _NobodyBehind(), _never, StoreCounts())
    works = [StoreWork(session, lane, parts) for lane, session in enumerate(sessions)]
    yield Platform(owner, tenant, devices, clock, to_datetime(clock.now_us()), keeper, sessions, works)
    for session in sessions:
        session.terminate()
    pool.terminate()
    await owner.close()


class _NobodyBehind:
    async def lowest_pending(self, lane: int) -> int | None:
        return None


async def _never(subject: str, payload: bytes, message_id: str) -> object:
    raise AssertionError("nothing here goes to the dead letters")


@pytest.fixture
async def session(database_urls: DatabaseURLs) -> AsyncIterator[Any]:
    """A worker's, which holds the duty."""
    connection = await open_lane_session(database_urls.writer, "test duty")
    yield connection
    connection.terminate()


@pytest.fixture
def duty(platform: Platform) -> RollupDuty:
    return RollupDuty(platform.keeper, platform.clock)


async def perform(duty: RollupDuty, session: Any) -> int:
    turns = 1
    while await duty.perform(session):
        turns += 1
    return turns


# --- at random ----------------------------------------------------------------------------------------------------------


def random_time(rng: random.Random, now: datetime) -> datetime:
    """Mostly lately; often at the very same instant as others; sometimes last month, or by a clock gone mad."""
    match rng.random():
        case r if r < 0.04:
            return datetime(rng.choice([1, 1969, 1990, 2190, 9999]), 12, 31, 23, 59, 59, 999999, UTC)
        case r if r < 0.15:
            return floor(now - rng.random() * 60 * DAY, timedelta(seconds=1))
        case r if r < 0.25:
            return floor(now + rng.random() * 2 * DAY, timedelta(seconds=1))
        case _:
            return floor(now - rng.random() * 4 * HOUR, timedelta(seconds=20))


def random_body(rng: random.Random) -> dict[str, Any]:
    """Numbers whose sums are exact in any order."""
    regular = {"temperature": rng.randint(-400, 400) / 4, "humidity": rng.randint(0, 100), "open": rng.random() < 0.5}
    if rng.random() < 0.6:
        return regular
    everything = regular | {
        "serial": 2**60 + rng.randint(-3, 3) * 2**20 if rng.random() < 0.6 else rng.randint(-9, 9) * 2**20,
        "broken": rng.choice([math.nan, math.inf, -math.inf, 0.5]),
        "name": "text",
        "temperature": rng.choice(["warm", 20, 20.5]),
        **{f"channel_{i}": i / 2 for i in range(rng.choice([0, 3, 40]))},
    }
    return {name: everything[name] for name in rng.sample(sorted(everything), rng.randint(1, len(everything)))}


@pytest.mark.parametrize("seed", range(3))
async def test_every_value_counts_once_and_queries_never_notice(
    platform: Platform, duty: RollupDuty, session: Any, database: Database, monkeypatch: pytest.MonkeyPatch, *, seed: int
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(rollup, "ROWS_MAX", 60)
    monkeypatch.setattr(rollup, "UNFOLDED_MAX", rng.choice([40, 1_000_000]))
    monkeypatch.setattr(rollup_sql, "WIDTH_MAX", rng.choice([3, 16]))
    await platform.owner.execute("UPDATE rollup_frontier SET folded_to = $1", floor(platform.now - 2 * DAY, MINUTE))
    frontiers = set()
    for _ in range(5):
        for _ in range(rng.randint(1, 8)):
            messages = [
                (rng.choice(platform.devices), random_time(rng, platform.now), random_body(rng))
                for _ in range(rng.randint(1, 40))
            ]
            await platform.send(rng.randrange(3), messages)
        platform.minute_is_over()
        before = await ask(database, platform)
        while True:
            more = await duty.perform(session)
            assert differences(await ask(database, platform), before) == []
            frontiers.add(await platform.folded_to())
            if not more:
                break
        await platform.check()
        assert await platform.owner.fetchval("SELECT count(*) FROM telemetry_ledger") == 0
        platform.clock.advance(rng.choice([0, 600, 5000]))
    assert len(frontiers) > 2
    platform.clock.advance(400 * 366 * 86_400)
    await perform(duty, session)
    await platform.check()
    assert differences(await ask(database, platform), before) == []


def differences(found: list[dict[Any, Any]], expected: list[dict[Any, Any]]) -> list[Any]:
    """Said shortly, because the answers are long."""
    return [
        (number, key, one.get(key), other.get(key))
        for number, (one, other) in enumerate(zip(found, expected, strict=True))
        for key in one.keys() | other.keys()
        if one.get(key) != other.get(key)
    ]


async def ask(database: Database, platform: Platform) -> list[dict[Any, Any]]:
    """Answers of the API to questions that need all of the tables."""
    queries, scope = TelemetryQueries(database), system_scope(platform.tenant, "test")
    base = to_us(floor(platform.started, DAY))
    day = 86_400_000_000
    found = []
    for start, end, interval, by_device, devices in (
        (base - 70 * day, base + 10 * day, "1d", True, ()),
        (base - 70 * day, base + 10 * day, "1w", False, ()),
        (base - 2 * day + 1_000_001, base + 3 * day - 1, "1h", True, tuple(platform.devices[:2])),
        (base - day, base + 2 * day, "7m", True, ()),
        (to_us(datetime(1, 1, 1, tzinfo=UTC)), to_us(datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)), None, False, ()),
    ):
        answer = await queries.aggregate(
            scope,
            AggregateQuery(
                DeviceSelection(devices), (), start, end, parse_interval(interval) if interval else None, ZoneInfo("UTC"),
                tuple(Aggregate), by_device=by_device,
            ),
        )  # fmt: skip
        found.append(
            {
                (series.device_id, series.metric, series.type, answer.starts[number]): row
                for series in answer.series
                for number, row in series.points.items()
            }
        )
        assert found[-1]
    return found


# --- what a pass takes --------------------------------------------------------------------------------------------------


async def positions(platform: Platform, consumer: str = "rollup") -> dict[int, int]:
    rows = await platform.owner.fetch("SELECT lane, sequence FROM ingest_position WHERE consumer = $1", consumer)
    return {row["lane"]: row["sequence"] for row in rows}


def readings(platform: Platform, start: datetime, *seconds: int) -> list[tuple[UUID, datetime, dict[str, Any]]]:
    return [
        (device, start + timedelta(seconds=second), {"a": second / 4, "b": second, "c": True})
        for second in seconds
        for device in platform.devices
    ]


async def test_a_minute_of_the_store_is_not_cut(platform: Platform, duty: RollupDuty, session: Any) -> None:
    minute = floor(platform.now, MINUTE)
    await platform.send(0, readings(platform, minute, 1, 11))
    await platform.send(1, readings(platform, minute, 21))
    # The store's time is PostgreSQL's: a clock that stands at the beginning of the minute has not seen its end.
    platform.clock.advance((minute - platform.now).total_seconds())
    assert not await duty.perform(session)
    assert await platform.minutes() == {}
    platform.minute_is_over()
    assert not await duty.perform(session)
    await platform.check()
    rows = await platform.owner.fetch("SELECT count, cardinality(metrics) AS metrics FROM telemetry_1m")
    assert [tuple(row) for row in rows] == [(3, 3)] * len(platform.devices)


async def test_a_minute_with_one_message_takes_little_room(platform: Platform, duty: RollupDuty, session: Any) -> None:
    await platform.send(0, readings(platform, floor(platform.now, MINUTE), 1, 61, 62))
    platform.minute_is_over()
    await perform(duty, session)
    rows = await platform.owner.fetch("SELECT * FROM telemetry_1m ORDER BY bucket")
    for row in rows:
        assert (row["mins"] is row["maxs"] is row["firsts"] is row["lasts"] is None) == (row["count"] == 1)
    assert {row["count"] for row in rows} == {1, 2}
    await platform.check()


async def test_rows_of_minutes_stay_narrow(platform: Platform, duty: RollupDuty, session: Any) -> None:
    body = {f"channel_{i}": i / 2 for i in range(200)}
    at = floor(platform.now, MINUTE)
    await platform.send(0, [(platform.devices[0], at + timedelta(seconds=n), body) for n in range(3)])
    platform.minute_is_over()
    await perform(duty, session)
    widths = [row["width"] for row in await platform.owner.fetch("SELECT cardinality(metrics) AS width FROM telemetry_1m")]
    assert sum(widths) == 200
    assert max(widths) <= 32
    await platform.check()


async def test_a_backlog_is_taken_in_portions(
    platform: Platform, duty: RollupDuty, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "ROWS_MAX", 20)
    monkeypatch.setattr(rollup, "ENTRIES_MAX", 3)
    at = floor(platform.now, MINUTE)
    for second in range(12):
        await platform.send(second % 2, readings(platform, at, second))
    platform.minute_is_over()
    # Five rows each: four transactions of the store make a pass full.
    assert await perform(duty, session) == 3
    await platform.check()


async def test_a_lane_without_telemetry_does_not_stay_behind(platform: Platform, duty: RollupDuty, session: Any) -> None:
    await platform.send(0, readings(platform, platform.now, 1))
    platform.sequence += 1
    event = Record(
        platform.tenant.bytes, platform.devices[0].bytes, Kind.EVENT, platform.clock.now_us(), platform.clock.now_us(), 1, 1,
        {"name": "alarm"},
    )  # fmt: skip
    await platform.store(1, [event])
    platform.minute_is_over()
    await perform(duty, session)
    assert await positions(platform) == await positions(platform, "store") == {0: 1, 1: 2}
    await platform.check()


async def test_the_stores_clock_does_not_decide_what_counts(platform: Platform, duty: RollupDuty, session: Any) -> None:
    """PostgreSQL's clock was set back between two transactions of a lane."""
    for second in range(3):
        await platform.send(0, readings(platform, platform.now, second))
    await platform.owner.execute("UPDATE telemetry_ledger SET stored_at = stored_at + interval '1 hour' WHERE sequence < 3")
    platform.minute_is_over()
    await perform(duty, session)
    await platform.check()
    assert await platform.owner.fetchval("SELECT count(*) FROM telemetry_ledger") == 0


async def test_what_was_observed_at_the_frontier_lies_behind_it(platform: Platform, duty: RollupDuty, session: Any) -> None:
    frontier = floor(platform.now - DAY, MINUTE)
    await platform.owner.execute("UPDATE rollup_frontier SET folded_to = $1", frontier)
    for _ in range(3):
        await platform.send(0, readings(platform, frontier - timedelta(seconds=1), 0, 1, 2))
        platform.minute_is_over()
        await perform(duty, session)
        await platform.check()
        # A message at the very instant to which the next fold goes, and one just before.
        frontier = floor(platform.now + HOUR, HOUR)
        await platform.send(0, readings(platform, frontier - timedelta(seconds=1), 0, 1, 2))
        platform.clock.advance((frontier + rollup.SETTLE - platform.now).total_seconds())
        await perform(duty, session)
        assert await platform.folded_to() == frontier
        await platform.check()


# --- what may go wrong --------------------------------------------------------------------------------------------------


class Interrupted:
    """A session that does something of ours before its first statement with `marker` in it."""

    def __init__(self, session: Any, marker: str, action: Callable[[], Any]) -> None:
        self._session, self._marker, self._action = session, marker, action
        self.reached = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def execute(self, query: str, *arguments: Any) -> Any:
        await self._look(query)
        return await self._session.execute(query, *arguments)

    async def fetch(self, query: str, *arguments: Any) -> Any:
        await self._look(query)
        return await self._session.fetch(query, *arguments)

    async def _look(self, query: str) -> None:
        if self._marker in query and not self.reached:
            self.reached = True
            await self._action()


@pytest.mark.parametrize("marker", ["INTO telemetry_1m", "INTO telemetry_1h", "UPDATE rollup_frontier SET minutes"])
async def test_a_pass_that_dies_has_changed_nothing(
    platform: Platform, duty: RollupDuty, session: Any, database_urls: DatabaseURLs, marker: str
) -> None:
    await platform.owner.execute("UPDATE rollup_frontier SET folded_to = $1", floor(platform.now, MINUTE))
    for lane in (0, 1):
        await platform.send(lane, readings(platform, platform.now - HOUR, 1 + lane))
    platform.minute_is_over()
    await perform(duty, session)
    await platform.send(0, readings(platform, platform.now - HOUR, 3))
    await platform.send(1, readings(platform, platform.now, 5))
    platform.minute_is_over()
    before = await platform.digest()

    dying = await open_lane_session(database_urls.writer, "test that dies")
    process = await dying.fetchval("SELECT pg_backend_pid()")
    killed = Interrupted(dying, marker, lambda: kill(platform.owner, process))
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await duty.perform(killed)
    assert killed.reached
    assert await platform.digest() == before
    await perform(duty, session)
    await platform.check()


async def test_a_fold_that_dies_has_changed_nothing(
    platform: Platform, duty: RollupDuty, session: Any, database_urls: DatabaseURLs
) -> None:
    await platform.owner.execute("UPDATE rollup_frontier SET folded_to = $1", floor(platform.now - DAY, MINUTE))
    await platform.send(0, readings(platform, platform.now, 1, 70))
    platform.minute_is_over()
    dying = await open_lane_session(database_urls.writer, "test that dies")
    process = await dying.fetchval("SELECT pg_backend_pid()")
    killed = Interrupted(dying, "INTO telemetry_1h", lambda: kill(platform.owner, process))
    frontier = await platform.folded_to()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await duty.perform(killed)
    assert killed.reached
    assert await platform.folded_to() == frontier
    await platform.check()
    platform.clock.advance(7200)
    await perform(duty, session)
    assert await platform.folded_to() > platform.started
    await platform.check()


async def waiting_for_locks(owner: Any) -> int:
    count: int = await owner.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return count


async def kill(owner: Any, process: int) -> None:
    assert await owner.fetchval("SELECT pg_terminate_backend($1, 5000)", process)


async def test_of_two_that_hold_the_duty_one_finds_out(
    platform: Platform, duty: RollupDuty, session: Any, database_urls: DatabaseURLs
) -> None:
    await platform.send(0, readings(platform, platform.now, 1, 2))
    await platform.send(1, readings(platform, platform.now, 3))
    platform.minute_is_over()
    await session.execute(rollup_sql.ADD_LANES, "rollup")
    other = await open_lane_session(database_urls.writer, "test other")
    gate = await asyncpg.connect(database_urls.owner)
    async with gate.transaction():
        await gate.fetch("SELECT FROM ingest_position WHERE consumer = 'rollup' FOR UPDATE")
        both = [asyncio.create_task(duty.perform(one)) for one in (session, other)]
        while await waiting_for_locks(platform.owner) < 2:  # noqa: ASYNC110  # another process: there is no event to wait for
            await asyncio.sleep(0.01)
    results = await asyncio.gather(*both, return_exceptions=True)
    await gate.close()
    other.terminate()
    assert sorted(map(repr, results)) == ["False", repr(next(one for one in results if isinstance(one, PositionLost)))]
    await platform.check()


async def test_one_absurd_device_does_not_stop_the_others(
    platform: Platform, duty: RollupDuty, session: Any, database: Database
) -> None:
    at, mad = floor(platform.now, MINUTE), platform.devices[0]
    await platform.owner.execute("UPDATE rollup_frontier SET folded_to = $1", floor(platform.now - DAY, MINUTE))
    await platform.send(0, readings(platform, at, 1, 2))

    def body(n: int) -> dict[str, Any]:
        return {"up": 1.7e308, "down": -1.7e308, "both": 1.7e308 * (-1) ** n, "little": 2.0**-900}

    for half in (range(4), range(4, 8)):
        await platform.send(1, [(mad, at + timedelta(seconds=n), body(n)) for n in half])
        platform.minute_is_over()
        before = await ask(database, platform)
        await perform(duty, session)
        assert differences(await ask(database, platform), before) == []
        platform.clock.advance(7200)
        await perform(duty, session)
        assert differences(await ask(database, platform), before) == []
    names = {row["id"]: row["name"] for row in await platform.owner.fetch("SELECT id, name FROM metric")}
    for width in ("1h", "1d"):
        found, expected = await platform.series(width), await platform.expected(width)
        sums = {names[metric]: parts[1] for (device, metric, _), parts in found.items() if device == mad}
        assert (sums["up"], sums["down"], sums["both"], sums["a"]) == (math.inf, -math.inf, 0.0, 0.75)
        for key, parts in expected.items():
            assert found[key] == parts or (key[0] == mad and (found[key][0], *found[key][2:]) == (parts[0], *parts[2:]))


async def test_rows_that_move_to_a_new_partition_meanwhile_count(
    platform: Platform, duty: RollupDuty, session: Any, database_urls: DatabaseURLs
) -> None:
    far = floor(platform.now + 200 * DAY, DAY)
    await platform.send(0, readings(platform, far, 1, 2))
    assert await platform.owner.fetchval("SELECT count(*) FROM telemetry_default") == 2 * len(platform.devices)
    platform.minute_is_over()
    maker = await asyncpg.connect(database_urls.writer)
    made: list[asyncio.Task[Any]] = []

    async def make() -> None:
        made.append(
            asyncio.create_task(
                maker.execute("SELECT telemetry_partition_create('telemetry', $1, $2)", far.date(), (far + DAY).date())
            )
        )
        while not made[0].done() and not await waiting_for_locks(platform.owner):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
        # Between planning and executing, nobody could stop it; so it has to wait for all of the pass.
        assert not made[0].done()

    interrupted = Interrupted(session, "FROM telemetry WHERE", make)
    await duty.perform(interrupted)
    assert interrupted.reached
    await made[0]
    await maker.close()
    assert await platform.owner.fetchval("SELECT count(*) FROM telemetry_default") == 0
    await platform.check()

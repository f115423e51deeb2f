"""Queries on a real PostgreSQL, compared with brute force in Python."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from tests.integration.store.stored import END_US, Stored, Telemetry
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.clock import to_datetime, to_us
from headwater.database.session import Database
from headwater.device.profile import MetricType
from headwater.errors import NotFound
from headwater.store import query as query_module
from headwater.store.latest import LatestQueries
from headwater.store.query import Aggregate, AggregateQuery, RawQuery, TelemetryQueries
from headwater.store.query_devices import DeviceSelection
from headwater.store.query_errors import QueryTooLarge, QueryTooSlow
from headwater.store.query_gaps import Fill
from headwater.store.query_interval import bucket_starts, parse_interval
from headwater.store.query_plan import Source
from headwater.tenancy.scope import ALL_PERMISSIONS, TenantScope, system_scope

DAY_US = 86_400_000_000
START = to_us(datetime(2026, 3, 27, tzinfo=UTC))
"""Two days before clocks go forward in Europe."""
ALL = tuple(Aggregate)
EVERYWHERE = DeviceSelection()


@pytest.fixture
async def telemetry(database_urls: DatabaseURLs, tenant_factory: TenantFactory) -> Telemetry:
    return Telemetry(database_urls, await tenant_factory())


@pytest.fixture
def queries(database: Database) -> TelemetryQueries:
    return TelemetryQueries(database)


def question(
    start_us: int, end_us: int, interval: str | None, *, metrics: tuple[str, ...] = ("t",), zone: str = "UTC",
    devices: DeviceSelection = EVERYWHERE, aggregates: tuple[Aggregate, ...] = ALL, by_device: bool = True,
    fill: Fill = Fill.NONE,
) -> AggregateQuery:  # fmt: skip
    return AggregateQuery(
        devices, metrics, start_us, end_us, parse_interval(interval) if interval else None, ZoneInfo(zone), aggregates,
        fill, by_device,
    )  # fmt: skip


def brute_force(messages: list[Stored], query: AggregateQuery) -> dict[tuple[UUID | None, str, int], list[float]]:
    """(device, metric, bucket start) -> avg, min, max, sum, count, first, last"""
    starts = bucket_starts(query.interval, query.start_us, query.end_us, query.zone) if query.interval else [query.start_us]
    found: dict[tuple[UUID | None, str, int], list[tuple[int, float]]] = {}
    for message in messages:
        if not query.start_us <= message.at_us < query.end_us:
            continue
        start = max(at for at in starts if at <= message.at_us)
        for name, value in message.values.items():
            if name in query.metrics:
                key = (message.device if query.by_device else None, name, max(start, query.start_us))
                found.setdefault(key, []).append((message.at_us, value))
    return {
        key: [
            sum(v for _, v in values) / len(values), min(v for _, v in values), max(v for _, v in values),
            sum(v for _, v in values), len(values), min(values)[1], max(values)[1],
        ]
        for key, values in found.items()
    }  # fmt: skip


async def assert_equal(
    queries: TelemetryQueries, scope: TenantScope, messages: list[Stored], query: AggregateQuery
) -> list[Source]:
    answer = await queries.aggregate(scope, query)
    found = {
        (series.device_id, series.metric, answer.starts[number]): row
        for series in answer.series
        for number, row in series.points.items()
    }
    expected = brute_force(messages, query)
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert row == pytest.approx(expected[key], rel=1e-9), key
    return answer.sources


def random_messages(seed: int, devices: list[UUID], count: int, days: int) -> list[Stored]:
    """Mostly in order, some late by hours; half the sequences are in no roll-up yet. No two at the same instant."""
    rng = random.Random(seed)
    times = sorted(rng.sample(range(START // 1000, (START + days * DAY_US) // 1000), count))
    messages = []
    for place, at_ms in enumerate(times):
        late = rng.random() < 0.2
        values: dict[str, float | int | bool] = {"t": rng.uniform(-40, 80)}
        if rng.random() < 0.5:
            values["t"] = rng.randint(-40, 80)
        if rng.random() < 0.7:
            values["u"] = rng.randint(0, 1000)
        sequence = rng.randint(1, 1000) if late else 1 + place * 1000 // count
        messages.append(Stored(rng.choice(devices), at_ms * 1000 + rng.randint(0, 999), values, sequence, rng.randint(0, 2)))
    return messages


@pytest.mark.parametrize("seed", range(6))
async def test_aggregates_equal_brute_force(telemetry: Telemetry, queries: TelemetryQueries, seed: int) -> None:
    rng = random.Random(seed)
    devices = await telemetry.devices(4)
    messages = random_messages(seed, devices, 1500, 5)
    folded_to_us = rng.choice([END_US, START + rng.randint(0, 5 * 1440) * 60_000_000])
    await telemetry.store(messages, rolled_up_to=rng.choice([0, 300, 700, 2000]), folded_to_us=folded_to_us)
    scope = system_scope(telemetry.tenant, "test")
    seen: set[Source] = set()
    for interval, zone in (
        ("10m", "UTC"), ("90s", "UTC"), ("1h", "UTC"), ("7h", "UTC"), ("1d", "UTC"), ("1d", "Europe/Berlin"),
        ("1d", "Asia/Kathmandu"), ("1w", "America/New_York"), ("1mo", "Europe/Berlin"), ("1y", "UTC"), (None, "UTC"),
    ):  # fmt: skip
        start = START + rng.randint(0, DAY_US)
        end = START + rng.randint(3 * DAY_US, 5 * DAY_US)
        if rng.random() < 0.5:
            start, end = START, START + 5 * DAY_US
        query = question(
            start, end, interval, zone=zone, metrics=("t", "u"), by_device=rng.random() < 0.5,
            devices=rng.choice([DeviceSelection(), DeviceSelection(tuple(devices[:2]))]),
        )  # fmt: skip
        wanted = [m for m in messages if not query.devices.ids or m.device in query.devices.ids]
        seen |= set(await assert_equal(queries, scope, wanted, query))
    assert seen == set(Source)


async def test_many_devices_find_the_tail_by_its_place(
    telemetry: Telemetry, queries: TelemetryQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.store.query_sql.FEW_DEVICES", 1)
    devices = await telemetry.devices(3)
    messages = random_messages(9, devices, 400, 2)
    await telemetry.store(messages, rolled_up_to=400)
    chosen = DeviceSelection(tuple(devices[1:]))
    query = question(START, START + 2 * DAY_US, "1h", devices=chosen)
    wanted = [m for m in messages if m.device in chosen.ids]
    await assert_equal(queries, system_scope(telemetry.tenant, "test"), wanted, query)


async def test_a_day_of_23_hours_is_one_bucket(telemetry: Telemetry, queries: TelemetryQueries) -> None:
    [device] = await telemetry.devices(1)
    hours = [datetime(2026, 3, 28, 23, 30, tzinfo=UTC) + timedelta(hours=n) for n in range(24)]
    await telemetry.store([Stored(device, to_us(at), {"t": 1.0}) for at in hours], rolled_up_to=1)
    answer = await queries.aggregate(
        system_scope(telemetry.tenant, "test"),
        question(START, START + 5 * DAY_US, "1d", zone="Europe/Berlin", aggregates=(Aggregate.COUNT,)),
    )
    # 29 March 2026 in Berlin: 23:00Z to 22:00Z.
    counts = {to_datetime(answer.starts[number]): row[0] for number, row in answer.series[0].points.items()}
    assert counts == {datetime(2026, 3, 28, 23, tzinfo=UTC): 23, datetime(2026, 3, 29, 22, tzinfo=UTC): 1}


async def test_types_are_kept(telemetry: Telemetry, queries: TelemetryQueries) -> None:
    [device] = await telemetry.devices(1)
    values = {
        "float": 21.0, "integer": 21, "long": 2**60 + 1, "yes": True, "no": False, "text": "21", "json": {"a": [1, None]},
        "place": [52.5, 13.4, 34.0],
    }  # fmt: skip
    await telemetry.store([Stored(device, START, values)])
    scope = system_scope(telemetry.tenant, "test")
    page = await queries.raw(scope, RawQuery(DeviceSelection((device,)), (), START, START + 1))
    found = page.items[0].values
    assert found == {**values, "place": {"latitude": 52.5, "longitude": 13.4, "altitude_m": 34.0}}
    assert {name: type(value) for name, value in found.items()} == {
        "float": float, "integer": int, "long": int, "yes": bool, "no": bool, "text": str, "json": dict, "place": dict,
    }  # fmt: skip
    answer = await queries.aggregate(scope, question(START, START + DAY_US, None, metrics=()))
    rows = {series.metric: (series.type, series.points[0]) for series in answer.series}
    assert rows["yes"] == (MetricType.BOOLEAN, [1.0, True, True, 1, 1, True, True])
    assert rows["integer"] == (MetricType.INTEGER, [21.0, 21, 21, 21, 1, 21, 21])
    assert isinstance(rows["integer"][1][1], int)
    assert rows["text"] == (MetricType.STRING, [None, None, None, None, 1, "21", "21"])
    assert rows["place"][1][5] == {"latitude": 52.5, "longitude": 13.4, "altitude_m": 34.0}
    assert rows["long"][1][4] == 1
    assert rows["long"][1][1] == pytest.approx(2**60)


@pytest.mark.parametrize("descending", [False, True])
async def test_pages_under_equal_times_miss_and_repeat_nothing(
    telemetry: Telemetry, queries: TelemetryQueries, descending: bool
) -> None:
    devices = await telemetry.devices(3)
    rng = random.Random(5)
    messages = [
        Stored(rng.choice(devices), START + rng.randint(0, 3), {"n": n}, rng.randint(1, 2), rng.randint(0, 1))
        for n in range(120)
    ]
    await telemetry.store(messages)
    scope = system_scope(telemetry.tenant, "test")
    seen, times, after = [], [], None
    while True:
        page = await queries.raw(
            scope, RawQuery(DeviceSelection(), ("n",), START, START + 10, descending=descending, limit=7, after=after)
        )
        seen += [item.values["n"] for item in page.items]
        times += [item.observed_at for item in page.items]
        after = page.next
        if after is None:
            break
        assert len(page.items) == 7
    assert sorted(seen) == list(range(120))
    assert times == sorted(times, reverse=descending)


async def test_raw_leaves_out_messages_without_the_metric(telemetry: Telemetry, queries: TelemetryQueries) -> None:
    [device] = await telemetry.devices(1)
    await telemetry.store(
        [
            Stored(device, START, {"a": 1.0, "b": 2.0}),
            Stored(device, START + 1, {"b": 3.0}),
            Stored(device, START + 2, {"a": "x"}),
            Stored(device, START + 3, {"a": 4.0}),
        ]
    )
    page = await queries.raw(
        system_scope(telemetry.tenant, "test"), RawQuery(DeviceSelection((device,)), ("a",), START, START + 3)
    )
    assert [item.values for item in page.items] == [{"a": 1.0}, {"a": "x"}]


async def test_another_tenant_sees_nothing(
    telemetry: Telemetry, queries: TelemetryQueries, database: Database, tenant_factory: TenantFactory
) -> None:
    [device] = await telemetry.devices(1)
    message = Stored(device, START, {"t": 1.0, "s": "secret"})
    await telemetry.store([message], rolled_up_to=1)
    await telemetry.latest(message)
    other = system_scope(await tenant_factory(), "test")
    with pytest.raises(NotFound):
        await queries.raw(other, RawQuery(DeviceSelection((device,)), (), START, START + 1))
    with pytest.raises(NotFound):
        await LatestQueries(database).latest(other, DeviceSelection((device,)))
    assert (await queries.raw(other, RawQuery(DeviceSelection(), (), START, START + 1))).items == []
    assert (await queries.aggregate(other, question(START, START + DAY_US, None, metrics=("t", "s")))).series == []
    assert await queries.metrics(other) == []
    assert [m.name for m in await queries.metrics(system_scope(telemetry.tenant, "test"))] == ["s", "t"]


async def test_a_group_scope_sees_its_devices(
    telemetry: Telemetry, queries: TelemetryQueries, database: Database, database_urls: DatabaseURLs
) -> None:
    inside, outside = await telemetry.devices(2)
    await telemetry.store([Stored(inside, START, {"t": 1.0}), Stored(outside, START, {"t": 10.0})], rolled_up_to=1)
    group = await _group_of(database, telemetry.tenant, inside)
    scope = TenantScope(telemetry.tenant, "token:x", ALL_PERMISSIONS, group)
    answer = await queries.aggregate(scope, question(START, START + DAY_US, None, by_device=False))
    assert answer.series[0].points[0][3] == 1.0
    page = await queries.raw(scope, RawQuery(DeviceSelection(), (), START, START + 1))
    assert [item.device_id for item in page.items] == [inside]
    with pytest.raises(NotFound):
        await queries.raw(scope, RawQuery(DeviceSelection((outside,)), (), START, START + 1))
    await telemetry.latest(Stored(inside, START, {"t": 1.0, "text": "x"}))
    await telemetry.latest(Stored(outside, START, {"hidden": 1.0}))
    assert [metric.name for metric in await queries.metrics(scope)] == ["t", "text"]
    whole = system_scope(telemetry.tenant, "test")
    assert [metric.name for metric in await queries.metrics(whole)] == ["hidden", "t", "text"]
    by_group = await queries.aggregate(whole, question(START, START + DAY_US, None, devices=DeviceSelection(group=group)))
    assert [series.device_id for series in by_group.series] == [inside]
    by_filter = DeviceSelection(filter=f'external_id = "{outside}"')
    answer = await queries.aggregate(whole, question(START, START + DAY_US, None, devices=by_filter))
    assert [series.device_id for series in answer.series] == [outside]


async def _group_of(database: Database, tenant: UUID, device: UUID) -> UUID:
    group = UUID(int=device.int ^ 1)
    async with database.tenant_session(tenant) as connection:
        await connection.execute(
            "INSERT INTO device_group (id, tenant_id, name, kind) VALUES ($1, $2, 'g', 'static')", group, tenant
        )
        await connection.execute(
            "INSERT INTO device_group_member (tenant_id, group_id, device_id) VALUES ($1, $2, $3)", tenant, group, device
        )
    return group


async def test_latest_is_the_newest_of_each_metric(telemetry: Telemetry, database: Database) -> None:
    one, silent = await telemetry.devices(2)
    await telemetry.latest(Stored(one, START + 10, {"a": 1.0, "b": 1.0}))
    await telemetry.latest(Stored(one, START + 20, {"b": 2}))
    await telemetry.latest(Stored(one, START + 10, {"a": 3.0}), epoch=2)
    await telemetry.latest(Stored(one, START, {"c": "late"}), epoch=9)
    found = await LatestQueries(database).latest(system_scope(telemetry.tenant, "test"), DeviceSelection())
    assert [item.device_id for item in found] == [one, silent]
    assert {name: one.value for name, one in found[0].values.items()} == {"a": 3.0, "b": 2, "c": "late"}
    assert found[1].values == {}
    only = await LatestQueries(database).latest(system_scope(telemetry.tenant, "test"), DeviceSelection((one,)), ("b",))
    assert list(only[0].values) == ["b"]


async def test_answers_are_bounded(telemetry: Telemetry, queries: TelemetryQueries, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = await telemetry.devices(2)
    await telemetry.store([Stored(device, START + n * 1_000_000, {"t": 1.0}) for device in devices for n in range(10)])
    scope = system_scope(telemetry.tenant, "test")
    monkeypatch.setattr(query_module, "POINTS_MAX", 15)
    with pytest.raises(QueryTooLarge, match="15 points"):
        await queries.aggregate(scope, question(START, START + DAY_US, "1s"))
    with pytest.raises(QueryTooLarge, match="15 points"):
        await queries.aggregate(scope, question(START, START + 3_600_000_000, "1m", fill=Fill.NULL))
    monkeypatch.setattr(query_module, "DEVICES_RAW_MAX", 1)
    with pytest.raises(QueryTooLarge, match="at most 1 devices"):
        await queries.raw(scope, RawQuery(DeviceSelection(), (), START, START + 1))
    monkeypatch.setattr(query_module, "STATEMENT_S_MAX", 0.001)
    monkeypatch.setattr("headwater.store.query_sql.TAIL", "SELECT pg_sleep(5), 0 AS lane, 0 AS sequence")
    with pytest.raises(QueryTooSlow, match="shorter range"):
        await queries.aggregate(scope, question(START, START + DAY_US, "1h"))

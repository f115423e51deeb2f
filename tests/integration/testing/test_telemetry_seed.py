"""The seed of the benchmarks, counted through the query that a person would use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.clock import to_us
from headwater.database.session import Database
from headwater.store.latest import LatestQueries
from headwater.store.query import Aggregate, AggregateQuery, RawQuery, TelemetryQueries
from headwater.store.query_devices import DeviceSelection
from headwater.tenancy.scope import system_scope
from headwater.testing.telemetry_seed import METRICS, seed


async def test_a_seed_is_stored_whole(
    database_urls: DatabaseURLs, database: Database, tenant_factory: TenantFactory
) -> None:
    tenant = await tenant_factory()
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    start_us, end_us = to_us(end - timedelta(days=2)), to_us(end)
    seeded = await seed(database_urls, tenant, 7, 10_003, start_us=start_us, end_us=end_us)
    assert (len(seeded.devices), seeded.points) == (7, 50_015)
    more = await seed(database_urls, tenant, 2, 2, start_us=start_us, end_us=end_us, lane=1)
    scope = system_scope(tenant, "test")
    queries = TelemetryQueries(database)
    counted = await queries.aggregate(
        scope,
        AggregateQuery(DeviceSelection(), (), start_us, end_us, None, ZoneInfo("UTC"), (Aggregate.COUNT,), by_device=False),
    )
    assert {series.metric: series.points[0] for series in counted.series} == {name: [10_005] for name in METRICS}
    page = await queries.raw(scope, RawQuery(DeviceSelection((more.devices[0],)), (), start_us, end_us))
    assert [tuple(message.values) for message in page.items] == [METRICS]
    latest = await LatestQueries(database).latest(scope, DeviceSelection((seeded.devices[0],)))
    assert latest[0].values["packets"].value == 10_002 // 7

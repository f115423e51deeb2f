"""A fleet with telemetry, its tables and its clock. The clock stands at NOW of the test's module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.integration.store.fleet_model import Fleet, clock_at
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.database.lane_session import open_lane_session
from headwater.database.session import open_pool
from headwater.store.partitions import PartitionKeeper


@pytest.fixture
async def fleet(
    request: pytest.FixtureRequest, database_urls: DatabaseURLs, tenant_factory: TenantFactory
) -> AsyncIterator[Fleet]:
    clock = clock_at(request.module.NOW)
    pool = await open_pool(database_urls.writer, size_max=1, application_name="test")
    owner = await asyncpg.connect(database_urls.owner, server_settings={"timezone": "UTC"})
    yield Fleet(owner, clock, PartitionKeeper(pool, clock), tenant_factory)
    await owner.close()
    pool.terminate()


@pytest.fixture
async def session(database_urls: DatabaseURLs) -> AsyncIterator[Any]:
    """A worker's."""
    connection = await open_lane_session(database_urls.writer, "test")
    yield connection
    connection.terminate()

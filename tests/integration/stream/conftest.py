"""UPLINK on a nats-server that may be killed, and sessions of a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from nats.aio.client import Client
from tests.support.engines import DatabaseURLs
from tests.support.killable_nats import KillableNATS, killable_nats

from headwater.database.lane_session import open_lane_session
from headwater.stream.topology import Topology, ensure

TOPOLOGY = Topology()


@pytest.fixture
async def server() -> AsyncIterator[KillableNATS]:
    with killable_nats() as killable:
        await killable.start()
        yield killable


@pytest.fixture
async def client(server: KillableNATS) -> AsyncIterator[Client]:
    """UPLINK and the other streams are there."""
    async with server.client() as connection:
        await ensure(connection.jetstream(), TOPOLOGY)
        yield connection


@pytest.fixture
async def owner(database_urls: DatabaseURLs) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_urls.owner)
    yield connection
    await connection.close()


@pytest.fixture
async def session(database_urls: DatabaseURLs) -> AsyncIterator[Any]:
    """A worker's."""
    connection = await open_lane_session(database_urls.writer, "test")
    yield connection
    connection.terminate()

"""Migrations on a database that has been somewhere else meanwhile, and by runners that race, differ or die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain

import asyncpg
import pytest
from tests.support.engines import DatabaseURLs, TestPostgres
from tests.support.gateways import eventually

from headwater.database import migrate as migrating
from headwater.database.migrate import Migration, MigrationChanged, migrate, migrations, pending


async def test_a_restored_database_finds_its_tables_again(database_urls: DatabaseURLs) -> None:
    """`pg_restore` without --create brings tables and ledger, but no setting of the database."""
    owner = await asyncpg.connect(database_urls.owner)
    name = await owner.fetchval("SELECT current_database()")
    await owner.execute(f'ALTER DATABASE "{name}" RESET search_path')
    lost = await asyncpg.connect(database_urls.operator)
    assert await lost.fetchval("SELECT to_regclass('tenant')") is None
    await lost.close()

    assert await migrate(owner) == []
    found = await asyncpg.connect(database_urls.operator)
    assert await found.fetchval("SELECT to_regclass('tenant')") is not None
    await found.close()
    await owner.close()


# --- racing, changed and failing ------------------------------------------------------------------------------------


@pytest.fixture
async def empty(postgres_server: TestPostgres) -> AsyncIterator[DatabaseURLs]:
    """A database that was never migrated."""
    name = await postgres_server.create("template0")
    yield postgres_server.urls(name)
    await postgres_server.drop(name)


@asynccontextmanager
async def owners(urls: DatabaseURLs, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
    connections = [await asyncpg.connect(urls.owner) for _ in range(count)]
    yield connections
    for connection in connections:
        await connection.close()


async def test_racing_runners_apply_each_file_once(empty: DatabaseURLs) -> None:
    names = [one.name for one in migrations()]
    async with owners(empty, 5) as connections:
        assert await pending(connections[0]) == names
        applied = await asyncio.gather(*map(migrate, connections))
        assert sorted(chain(*applied)) == names
        assert await pending(connections[0]) == []
        assert [await migrate(one) for one in connections] == [[]] * 5


async def test_racing_runners_share_what_there_is_to_do(empty: DatabaseURLs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that would not bear to be applied twice, and some that were applied before."""
    files = [Migration("0001_first", "CREATE TABLE counted (n int)")]
    files += [Migration(f"{n:04}_more", f"INSERT INTO counted VALUES ({n})") for n in range(2, 12)]
    async with owners(empty, 5) as connections:
        for known in (1, 4, 11):
            monkeypatch.setattr(migrating, "migrations", lambda known=known: files[:known])
            await asyncio.gather(*map(migrate, connections))
            rows = await connections[0].fetch("SELECT n FROM headwater.counted ORDER BY n")
            assert [row["n"] for row in rows] == list(range(2, known + 1))


async def test_a_changed_file_is_refused_and_nothing_behind_it_applied(
    empty: DatabaseURLs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Migration("0001_first", "CREATE TABLE one ()"), Migration("0002_second", "CREATE TABLE two ()")
    async with owners(empty, 2) as (connection, other):
        monkeypatch.setattr(migrating, "migrations", lambda: [first])
        assert await migrate(connection) == ["0001_first"]
        monkeypatch.setattr(migrating, "migrations", lambda: [Migration("0001_first", "CREATE TABLE one (n int)"), second])
        with pytest.raises(MigrationChanged, match="0001_first"):
            await migrate(connection)
        assert await connection.fetchval("SELECT to_regclass('headwater.two')") is None
        # Who was refused does not lock out the one with the right files.
        monkeypatch.setattr(migrating, "migrations", lambda: [first, second])
        async with asyncio.timeout(20):
            assert await migrate(other) == ["0002_second"]


async def test_a_file_that_fails_leaves_nothing_and_is_applied_when_it_is_mended(
    empty: DatabaseURLs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Migration("0001_first", "CREATE TABLE one ()")
    async with owners(empty, 2) as (connection, other):
        broken = Migration("0002_second", "CREATE TABLE two (); SELECT 1 / 0")
        monkeypatch.setattr(migrating, "migrations", lambda: [first, broken])
        with pytest.raises(asyncpg.DivisionByZeroError):
            await migrate(connection)
        assert await connection.fetchval("SELECT to_regclass('headwater.two')") is None
        assert await pending(connection) == ["0002_second"]
        monkeypatch.setattr(migrating, "migrations", lambda: [first, Migration("0002_second", "CREATE TABLE two ()")])
        async with asyncio.timeout(20):
            assert await migrate(other) == ["0002_second"]


async def test_a_runner_that_dies_lets_the_next_one_do_it(empty: DatabaseURLs, monkeypatch: pytest.MonkeyPatch) -> None:
    async with owners(empty, 3) as (dies, waits, killer):
        slow = [Migration("0001_first", "CREATE TABLE one ()"), Migration("0002_second", "SELECT pg_sleep(60)")]
        monkeypatch.setattr(migrating, "migrations", lambda: slow)
        first = asyncio.create_task(migrate(dies))
        pid = dies.get_server_pid()
        asleep = "SELECT true FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'"
        await eventually(lambda: killer.fetchval(asleep, pid), "the first is in the middle")
        monkeypatch.setattr(migrating, "migrations", lambda: [slow[0], Migration("0002_second", "CREATE TABLE two ()")])
        second = asyncio.create_task(migrate(waits))
        await killer.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await first
        assert await second == ["0002_second"]

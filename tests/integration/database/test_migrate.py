"""Migrations on a database that has been somewhere else meanwhile."""

from __future__ import annotations

import asyncpg
from tests.support.engines import DatabaseURLs

from headwater.database.migrate import migrate


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

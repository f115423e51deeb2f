"""Migrations: plain SQL files, applied in order, each once, in its own transaction, by any number of racing runners.

A file that was applied never changes again; its checksum is kept, and a difference stops the runner.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import asyncpg

from headwater.errors import DomainError

_LOCK = 0x68776D67  # "hwmg": one runner at a time in this database

_LEDGER = """
CREATE SCHEMA IF NOT EXISTS headwater;
CREATE TABLE IF NOT EXISTS headwater.migration (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""

_SEARCH_PATH = """
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = headwater, pg_catalog', current_database());
END
$$
"""
"""Every session finds our tables without a prefix; nothing of ours is in public. Said at each run and no migration's: a
database that was restored, or copied from a template, has the tables and the ledger, and not this setting."""


class MigrationChanged(DomainError):
    """A migration that this database has already seen is not what it was."""

    code = "database.migration_changed"


@dataclass(frozen=True, slots=True)
class Migration:
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    folder = resources.files("headwater.database") / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [Migration(f.name.removesuffix(".sql"), f.read_text()) for f in files]


async def migrate(connection: asyncpg.Connection) -> list[str]:
    """Bring the database up to date. Returns the names applied now. The connection is the owner's."""
    applied_now = []
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(_LEDGER)
        await connection.execute(_SEARCH_PATH)
        for migration in migrations():
            async with connection.transaction():
                seen = await connection.fetchval("SELECT checksum FROM headwater.migration WHERE name = $1", migration.name)
                if seen is None:
                    await connection.execute("SET LOCAL search_path = headwater, pg_catalog")
                    await connection.execute(migration.sql)
                    await connection.execute(
                        "INSERT INTO headwater.migration (name, checksum) VALUES ($1, $2)",
                        migration.name,
                        migration.checksum,
                    )
                    applied_now.append(migration.name)
                elif seen != migration.checksum:
                    raise MigrationChanged(
                        f"migration {migration.name} was applied with other contents: this program is not for this database"
                    )
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    return applied_now


async def pending(connection: asyncpg.Connection) -> list[str]:
    """The names not applied yet, in order."""
    exists = await connection.fetchval("SELECT to_regclass('headwater.migration') IS NOT NULL")
    done = {r["name"] for r in await connection.fetch("SELECT name FROM headwater.migration")} if exists else set()
    return [m.name for m in migrations() if m.name not in done]

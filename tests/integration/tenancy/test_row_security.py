"""Row-level security: forced on everything that belongs to a tenant, and the plain role sees nothing without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tests.support.engines import DatabaseURLs
from tests.support.two_tenants import World, two_tenants

TABLES = """
    SELECT c.relname, c.relispartition, c.relrowsecurity, c.relforcerowsecurity,
           (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid) AS policies
    FROM pg_class c
    WHERE c.relnamespace = 'headwater'::regnamespace AND c.relkind IN ('r', 'p')
      AND (c.relname IN ('tenant', 'person')
           OR EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped))
    ORDER BY c.relname
"""


@pytest.fixture
async def owner(database_urls: DatabaseURLs) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_urls.owner)
    yield connection
    await connection.close()


@pytest.fixture
async def plain(database_urls: DatabaseURLs) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_urls.app)
    yield connection
    await connection.close()


async def test_forced_on_every_table_and_partition(owner: Any, database_urls: DatabaseURLs) -> None:
    writer = await asyncpg.connect(database_urls.writer)
    for parent in ("telemetry", "telemetry_1m", "telemetry_1h"):
        made = await writer.fetchval("SELECT telemetry_partition_create($1, date '2026-01-01', date '2026-01-02')", parent)
        assert made is True
    await writer.close()
    tables = await owner.fetch(TABLES)
    assert {"device", "telemetry", "telemetry_20260101", "telemetry_1m_20260101", "api_token"} <= {
        t["relname"] for t in tables
    }
    assert [t["relname"] for t in tables if not (t["relrowsecurity"] and t["relforcerowsecurity"])] == []
    # A table says which rows; a partition, named itself, shows none.
    assert [t["relname"] for t in tables if (t["policies"] == 0) != t["relispartition"]] == []


async def test_the_plain_role_is_plain(plain: Any) -> None:
    role = await plain.fetchrow(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
    )
    assert tuple(role) == (False, False, False, False)
    assert await plain.fetchval("SELECT count(*) FROM pg_class WHERE relowner = current_user::regrole") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await plain.execute("SET ROLE headwater_lookup")


@pytest.fixture
async def world(database_urls: DatabaseURLs, nats_url: str) -> AsyncIterator[World]:
    async with two_tenants(database_urls, nats_url) as made:
        yield made


async def _visible(connection: Any, tables: list[str]) -> dict[str, int]:
    """How many rows of each table; tables that the role may not read at all are left out."""
    seen = {}
    for table in tables:
        try:
            seen[table] = await connection.fetchval(f"SELECT count(*) FROM headwater.{table}")
        except asyncpg.InsufficientPrivilegeError:
            continue
    return seen


async def test_without_a_tenant_nothing_and_with_one_its_own(world: World, owner: Any, plain: Any) -> None:
    tables = [t["relname"] for t in await owner.fetch(TABLES)]
    there = await _visible(owner, tables)  # a superuser
    assert there["device"] == 2
    assert sum(n > 0 for n in there.values()) > 15
    unset = await _visible(plain, tables)
    assert {"device", "telemetry", "api_token", "person", "audit_entry", "invitation"} <= unset.keys()
    assert {t: n for t, n in unset.items() if n} == {}

    async def as_tenant(tenant: UUID) -> dict[str, int]:
        async with world.services.database.tenant_session(tenant) as connection:
            return {t: n for t, n in (await _visible(connection, list(unset))).items() if n}

    alphas = await as_tenant(world.alpha)
    assert alphas["device"] == 2
    assert set(await as_tenant(world.beta)) <= {"tenant", "tenant_usage", "profile"}
    # What the session was, is over with its transaction.
    async with world.services.database.lookup_session() as connection:
        assert {t: n for t, n in (await _visible(connection, list(unset))).items() if n} == {}


async def test_no_row_of_another_tenant_can_be_written(world: World) -> None:
    async with world.services.database.tenant_session(world.beta) as connection:
        for statement in (
            "UPDATE device SET name = 'taken'",
            "DELETE FROM device_group",
            "UPDATE api_token SET revoked_at = now()",
            "DELETE FROM membership",
        ):
            assert (await connection.execute(statement)).split()[-1] == "0"
    for statement in (
        "INSERT INTO device_group (id, tenant_id, name, kind) VALUES (gen_random_uuid(), $1, 'mine', 'static')",
        "INSERT INTO profile (id, tenant_id, name, definition) VALUES (gen_random_uuid(), $1, 'mine', '{}')",
        "INSERT INTO audit_entry (id, tenant_id, actor, action, subject) VALUES (gen_random_uuid(), $1, 'me', 'a', 'b')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with world.services.database.tenant_session(world.beta) as connection:
                await connection.execute(statement, world.alpha)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.services.database.tenant_session(world.beta) as connection:
            await connection.execute("UPDATE audit_entry SET actor = 'nobody'")


async def test_people_are_seen_by_those_they_work_for_and_never_with_the_password(world: World) -> None:
    async with world.services.database.tenant_session(world.alpha) as connection:
        assert await connection.fetchval("SELECT email FROM person") == "alpha@example.com"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT password_hash FROM person")
    async with world.services.database.tenant_session(world.beta) as connection:
        assert await connection.fetch("SELECT email FROM person") == []


async def test_the_writer_touches_telemetry_only(database_urls: DatabaseURLs, world: World) -> None:
    writer = await asyncpg.connect(database_urls.writer)
    for statement in (
        "SELECT * FROM person", "SELECT * FROM api_token", "UPDATE device SET name = 'x'", "DELETE FROM tenant",
        "SELECT * FROM lookup_person_by_email('alpha@example.com')",
    ):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute(statement)
    await writer.close()

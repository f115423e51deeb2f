"""Upkeep on a real PostgreSQL: partitions, what has expired, and the telemetry of devices and tenants that are gone."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tests.integration.store.fleet_model import DAY, Fleet
from tests.support.engines import DatabaseURLs

from headwater.database import long_work
from headwater.device.profile import ProfileDefinition
from headwater.ids import uuid7
from headwater.store import erasure, maintenance, removal
from headwater.store.maintenance import MaintenanceDuty
from headwater.store.removal import AGAIN_AFTER, RemovalDuty

NOW = datetime(2031, 3, 29, 9, 26, tzinfo=UTC)
"""A Saturday, and the month ends with the next one."""


@pytest.fixture
def duty(fleet: Fleet) -> MaintenanceDuty:
    return MaintenanceDuty(fleet.keeper, fleet.clock)


async def perform(duty: Any, session: Any) -> int:
    turns = 1
    while await duty.perform(session):
        turns += 1
    return turns


# --- upkeep ---------------------------------------------------------------------------------------------------------


async def test_partitions_are_there_before_their_days(fleet: Fleet, session: Any, duty: MaintenanceDuty) -> None:
    assert not await duty.perform(session)
    rows = await fleet.owner.fetch("SELECT inhrelid::regclass::text AS name FROM pg_inherits ORDER BY 1")
    names = {row["name"].removeprefix("headwater.") for row in rows}
    assert {name for name in names if name.startswith("telemetry") and "idx" not in name and "pkey" not in name} == {
        "telemetry_default", "telemetry_1m_default", "telemetry_1h_default",
        "telemetry_20310329", "telemetry_20310330", "telemetry_20310331", "telemetry_20310401",
        "telemetry_1m_20310324", "telemetry_1m_20310331", "telemetry_1h_20310301", "telemetry_1h_20310401",
    }  # fmt: skip


async def test_new_pages_enter_the_index(fleet: Fleet, session: Any, duty: MaintenanceDuty) -> None:
    await fleet.keeper.make_ahead()
    old = NOW - 30 * DAY
    await fleet.keeper.ensure({(old - datetime(1970, 1, 1, tzinfo=UTC)).days})

    async def store(at: datetime) -> None:
        await fleet.owner.execute(
            "INSERT INTO telemetry SELECT gen_random_uuid(), gen_random_uuid(), $1, $1, i, 0, '{}', '{}', NULL"
            " FROM generate_series(1, 6000) i",
            at,
        )

    async def left_out(partition: str) -> int:
        """Asking changes it."""
        count = await fleet.owner.fetchval("SELECT brin_summarize_new_values($1::regclass)", f"{partition}_sequence_idx")
        return int(count)

    for at in (NOW, old):
        await store(at)
    await perform(duty, session)
    assert [await left_out(f"telemetry_{at:%Y%m%d}") for at in (NOW, old)] == [0, 0]
    for at in (NOW, old):
        await store(at)
    await perform(duty, session)
    assert await left_out(f"telemetry_{NOW:%Y%m%d}") == 0
    fleet.clock.advance(3600)
    await perform(duty, session)
    assert await left_out(f"telemetry_{old:%Y%m%d}") == 0
    await store(NOW)
    assert await left_out(f"telemetry_{NOW:%Y%m%d}") > 0


async def test_a_partition_that_is_being_vacuumed_is_left_out(fleet: Fleet, session: Any, duty: MaintenanceDuty) -> None:
    await fleet.keeper.make_ahead()
    async with fleet.owner.transaction():
        await fleet.owner.execute(f"LOCK TABLE telemetry_{NOW:%Y%m%d} IN SHARE UPDATE EXCLUSIVE MODE")
        assert not await duty.perform(session)


async def _expiring(owner: Any, tenant: UUID) -> None:
    """Two of each kind, one of them long expired."""
    person = uuid7()
    await owner.execute("INSERT INTO person (id, email) VALUES ($1, 'a@example.com')", person)
    for name, ends in (("old", NOW - timedelta(days=1, minutes=1)), ("new", NOW - timedelta(hours=23))):
        await owner.execute(
            "INSERT INTO idempotency_key VALUES ($1, 'token:x', $2, '', 201, '{}', '', $3)", tenant, name, ends
        )
        await owner.execute(
            "INSERT INTO refresh_token (id, family_id, person_id, secret_hash, expires_at) VALUES ($1, $1, $2, $3, $4)",
            uuid7(), person, name.encode(), ends,
        )  # fmt: skip
        await owner.execute(
            "INSERT INTO invitation (id, tenant_id, email, role, secret_hash, created_by, expires_at)"
            " VALUES ($1, $2, $3, 'viewer', $4, 'x', $5)",
            uuid7(), tenant, f"{name}@example.com", name.encode(), ends,
        )  # fmt: skip
        await owner.execute(
            "INSERT INTO password_reset (id, tenant_id, person_id, secret_hash, created_by, expires_at)"
            " VALUES ($1, $2, $3, $4, 'x', $5)",
            uuid7(), tenant, person, name.encode(), ends,
        )  # fmt: skip


async def test_what_has_expired_is_deleted(fleet: Fleet, session: Any, duty: MaintenanceDuty) -> None:
    await _expiring(fleet.owner, await fleet.make_tenant())
    assert await perform(duty, session) == 1
    assert await fleet.owner.fetchval("SELECT array_agg(key) FROM idempotency_key") == ["new"]
    for table in ("refresh_token", "invitation", "password_reset"):
        assert await fleet.owner.fetchval(f"SELECT array_agg(secret_hash) FROM {table}") == [b"new"], table


async def test_a_bounded_number_at_a_time(
    fleet: Fleet, session: Any, duty: MaintenanceDuty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "ROWS_MAX", 2)
    tenant = await fleet.make_tenant()
    for n in range(5):
        await fleet.owner.execute(
            "INSERT INTO idempotency_key VALUES ($1, 'token:x', $2, '', 201, '{}', '', $3)", tenant, str(n), NOW - 9 * DAY
        )
    assert await perform(duty, session) == 3
    assert await fleet.owner.fetchval("SELECT count(*) FROM idempotency_key") == 0


async def test_the_worker_finds_them_without_reading_secrets(session: Any) -> None:
    for column in ("refresh_token.secret_hash", "invitation.email", "password_reset.secret_hash", "idempotency_key.body"):
        table, name = column.split(".")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await session.fetch(f"SELECT {name} FROM {table}")


async def test_a_chore_that_fails_does_not_keep_the_others_from_being_done(
    fleet: Fleet, session: Any, duty: MaintenanceDuty
) -> None:
    await _expiring(fleet.owner, await fleet.make_tenant())
    await fleet.owner.execute("REVOKE EXECUTE ON FUNCTION telemetry_summarize FROM headwater_writer")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await duty.perform(session)
    assert await fleet.owner.fetchval("SELECT array_agg(key) FROM idempotency_key") == ["new"]


# --- devices and tenants that are gone ------------------------------------------------------------------------------


TABLES = ("telemetry", "telemetry_1m", "telemetry_1h", "telemetry_1d", "telemetry_latest", "event")


async def _fill(fleet: Fleet) -> None:
    rng = random.Random(3)
    await fleet.store(fleet.random_messages(rng, 60, 40))
    await fleet.store(fleet.random_messages(rng, 30, 300))
    await fleet.store((device, NOW + 400 * DAY, {"x": 1.0}) for device in fleet.tenant_of)
    await fleet.happen((device, NOW - 300 * DAY) for device in fleet.tenant_of)


def everywhere(devices: set[UUID]) -> dict[str, set[UUID]]:
    return dict.fromkeys(TABLES, devices)


async def _devices(fleet: Fleet) -> dict[str, set[UUID]]:
    return {
        table: {row["device_id"] for row in await fleet.owner.fetch(f"SELECT DISTINCT device_id FROM {table}")}
        for table in TABLES
    }


async def _digest(fleet: Fleet, devices: set[UUID]) -> dict[str, str]:
    return {
        table: await fleet.owner.fetchval(
            f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t WHERE device_id = ANY ($1::uuid[])",
            devices,
        )
        for table in TABLES
    }


@pytest.mark.parametrize("rows_max", [3, 5_000])
async def test_all_of_a_removed_device_goes_and_nothing_else(
    fleet: Fleet, session: Any, monkeypatch: pytest.MonkeyPatch, rows_max: int
) -> None:
    monkeypatch.setattr(erasure, "ROWS_MAX", rows_max)
    monkeypatch.setattr(removal, "DEVICES_MAX", 2)
    monkeypatch.setattr(long_work, "PAUSE_S_MAX", 0.0)
    profile = await fleet.profile(await fleet.make_tenant(), ProfileDefinition())
    gone = {await fleet.device(profile) for _ in range(3)}
    stay = {await fleet.device(profile) for _ in range(3)}
    await _fill(fleet)
    assert await _devices(fleet) == everywhere(gone | stay)
    before = await _digest(fleet, stay)
    await fleet.owner.execute("DELETE FROM device WHERE id = ANY ($1::uuid[])", gone)
    await perform(RemovalDuty(fleet.clock), session)
    assert await _devices(fleet) == everywhere(stay)
    assert await _digest(fleet, stay) == before


async def test_a_second_time_for_what_was_under_way(fleet: Fleet, session: Any) -> None:
    profile = await fleet.profile(await fleet.make_tenant(), ProfileDefinition())
    device = await fleet.device(profile)
    await fleet.owner.execute("DELETE FROM device WHERE id = $1", device)
    duty = RemovalDuty(fleet.clock)
    await perform(duty, session)
    await fleet.store([(device, NOW - DAY, {"x": 1.0})])
    await fleet.happen([(device, NOW)])
    await perform(duty, session)
    assert await _devices(fleet) == everywhere({device})
    fleet.clock.advance((AGAIN_AFTER + timedelta(seconds=1)).total_seconds())
    await perform(duty, session)
    assert await _devices(fleet) == everywhere(set())
    assert await fleet.owner.fetchval("SELECT count(*) FROM removed_device") == 0


async def test_a_deleted_tenant_takes_all_of_its_telemetry_along(
    fleet: Fleet, session: Any, database_urls: DatabaseURLs
) -> None:
    gone, stays = await fleet.make_tenant(), await fleet.make_tenant()
    for tenant in (gone, stays):
        profile = await fleet.profile(tenant, ProfileDefinition())
        for _ in range(2):
            await fleet.device(profile)
    await _fill(fleet)
    operator = await asyncpg.connect(database_urls.operator)
    await operator.execute("DELETE FROM tenant WHERE id = $1", gone)
    await operator.close()
    await perform(RemovalDuty(fleet.clock), session)
    for table in (*TABLES, "metric", "profile", "device"):
        rows = await fleet.owner.fetch(f"SELECT DISTINCT tenant_id FROM {table}")
        assert [row["tenant_id"] for row in rows] == [stays], table


async def test_a_partition_that_is_dropped_meanwhile_is_no_obstacle(
    fleet: Fleet, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = await fleet.profile(await fleet.make_tenant(), ProfileDefinition())
    device = await fleet.device(profile)
    await fleet.store([(device, NOW - n * DAY, {"x": 1.0}) for n in range(3)])
    await fleet.owner.execute("DELETE FROM device WHERE id = $1", device)
    monkeypatch.setattr(long_work, "TURN_S", 0.0)
    duty = RemovalDuty(fleet.clock)
    assert await duty.perform(session)
    await session.execute("SELECT telemetry_partition_drop($1)", f"telemetry_{NOW:%Y%m%d}")
    await perform(duty, session)
    assert await _devices(fleet) == everywhere(set())

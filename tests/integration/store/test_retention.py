"""Retention on a real PostgreSQL, compared with brute force in Python."""

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
from headwater.database.lane_session import open_lane_session
from headwater.device.profile import Metric, ProfileDefinition
from headwater.store import erasure, retention
from headwater.store.retention import RetentionDuty

NOW = datetime(2031, 3, 14, 9, 26, tzinfo=UTC)
"""A Friday in the middle of a month."""


@pytest.fixture
def duty(fleet: Fleet) -> RetentionDuty:
    return RetentionDuty(fleet.clock)


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few rows take every way that many rows take."""
    monkeypatch.setattr(erasure, "ROWS_MAX", 4)
    monkeypatch.setattr(retention, "DEVICES_MAX", 2)
    monkeypatch.setattr(retention, "PROFILES_MAX", 1)
    monkeypatch.setattr(retention, "LATE_DEVICES_MAX", 2)
    monkeypatch.setattr(long_work, "PAUSE_S_MAX", 0.0)


def keep(days: int, **metrics: int) -> ProfileDefinition:
    return ProfileDefinition(
        metrics=tuple(Metric(name, retention_days=kept) for name, kept in metrics.items()), retention_days=days
    )


async def perform(duty: RetentionDuty, session: Any) -> None:
    while await duty.perform(session):
        pass


async def next_day(fleet: Fleet, days: int = 1) -> None:
    fleet.clock.advance(days * 86_400)


@pytest.mark.usefixtures("small_portions")
@pytest.mark.parametrize("seed", [1, 2])
async def test_exactly_what_has_expired_goes(fleet: Fleet, session: Any, duty: RetentionDuty, seed: int) -> None:
    rng = random.Random(seed)
    one, other = await fleet.make_tenant(), await fleet.make_tenant()
    rules = [
        (one, keep(20, x=3, y=40)), (one, keep(2, place=9, detail=1)), (other, keep(9, x=20, z=2)), (other, keep(150)),
    ]  # fmt: skip
    profiles = [await fleet.profile(tenant, definition) for tenant, definition in rules]
    for profile in profiles * 2:
        await fleet.device(profile)
    await fleet.store(fleet.random_messages(rng, 150, 45))
    await fleet.store(fleet.random_messages(rng, 40, 300))
    await fleet.happen((device, at) for device, at, _ in fleet.random_messages(rng, 40, 60))
    await fleet.trimmed()

    before = len(fleet.messages)
    await perform(duty, session)
    await fleet.expire()
    await fleet.check()
    assert 20 < len(fleet.messages) < before - 20

    for days in (1, 3):
        await next_day(fleet, days)
        await fleet.store(fleet.random_messages(rng, 10, 1))
        await fleet.trimmed()
        await perform(duty, session)
        await fleet.expire()
        await fleet.check()

    # Rules change, devices change sides, and data comes late, all at once.
    await fleet.change(profiles[0], keep(6, x=3, y=10))
    await fleet.change(profiles[2], keep(30, x=4, y=15))
    for device in rng.sample(sorted(fleet.tenant_of), 4):
        await fleet.move(device, rng.choice([p for p in profiles if fleet.profiles[p][0] == fleet.tenant_of[device]]))
    await perform(duty, session)
    await fleet.expire()
    await fleet.store(fleet.random_messages(rng, 60, 40))
    await next_day(fleet)
    await perform(duty, session)
    await fleet.expire()
    await fleet.check()


async def _one_device(fleet: Fleet, definition: ProfileDefinition) -> tuple[UUID, UUID]:
    profile = await fleet.profile(await fleet.make_tenant(), definition)
    return profile, await fleet.device(profile)


async def _times(fleet: Fleet) -> set[datetime]:
    return {row["observed_at"] for row in await fleet.owner.fetch("SELECT observed_at FROM telemetry")}


async def test_nothing_is_gone_through_twice_but_late_rows_are_found(
    fleet: Fleet, session: Any, duty: RetentionDuty
) -> None:
    profile, device = await _one_device(fleet, keep(5))
    await fleet.store([(device, NOW - n * DAY, {"x": 1.0}) for n in (1, 10, 11)])
    await fleet.trimmed()
    await perform(duty, session)
    assert await _times(fleet) == {NOW - DAY}
    done = await fleet.owner.fetchrow("SELECT * FROM retention_done WHERE profile_id = $1", profile)
    assert (done["day"], done["sequence"]) == (NOW.date(), fleet.sequence)

    # Two that came since the last time, of which one says that it had been there before: nobody looks for that one.
    await fleet.store([(device, NOW - 10 * DAY, {"x": 1.0})], place=1)
    await fleet.store([(device, NOW - 11 * DAY, {"x": 1.0})])
    await perform(duty, session)
    assert await _times(fleet) == {NOW - n * DAY for n in (1, 10, 11)}
    await next_day(fleet)
    await perform(duty, session)
    assert await _times(fleet) == {NOW - n * DAY for n in (1, 10)}


async def test_late_rows_wait_for_their_roll_up_and_go_with_it(fleet: Fleet, session: Any, duty: RetentionDuty) -> None:
    _, device = await _one_device(fleet, keep(5))
    # December has a partition of hours, but its first days are too long ago for ones of their own.
    await fleet.store([(device, NOW - n * DAY, {"x": 1.0}) for n in (20, 84)])
    await fleet.trimmed()
    await perform(duty, session)
    late = [(device, NOW - n * DAY, {"y": 1.0}) for n in (20, 99, 200)]
    await fleet.store(late, rolled=False)
    await fleet.trimmed()
    await next_day(fleet)
    await perform(duty, session)
    assert await _times(fleet) == {NOW - n * DAY for n in (20, 99, 200)}
    await fleet.roll_up(late)
    await next_day(fleet)
    await perform(duty, session)
    await fleet.expire()
    assert fleet.messages == []
    await fleet.check()


async def test_late_rows_too_many_to_list(
    fleet: Fleet, session: Any, duty: RetentionDuty, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, device = await _one_device(fleet, keep(5, x=9))
    await fleet.trimmed()
    await perform(duty, session)
    await fleet.store([(device, NOW - 20 * DAY + n * timedelta(minutes=1), {"x": 1.0}) for n in range(4)])
    await next_day(fleet)
    monkeypatch.setattr(retention, "LATE_ROWS_MAX", 3)
    await perform(duty, session)
    assert await _times(fleet) == set()


async def test_a_retention_that_was_shortened_is_honoured_at_once(fleet: Fleet, session: Any, duty: RetentionDuty) -> None:
    profile, device = await _one_device(fleet, keep(60))
    await fleet.store([(device, NOW - n * DAY, {"x": 1.0}) for n in (1, 10, 40)])
    await fleet.trimmed()
    await perform(duty, session)
    assert len(await _times(fleet)) == 3
    await fleet.change(profile, keep(5))
    await perform(duty, session)
    assert await _times(fleet) == {NOW - DAY}


async def test_a_device_that_changed_its_profile(fleet: Fleet, session: Any, duty: RetentionDuty) -> None:
    profile, device = await _one_device(fleet, keep(60))
    shorter = await fleet.profile(fleet.profiles[profile][0], keep(5))
    stays = await fleet.device(profile)
    await fleet.store([(one, NOW - 10 * DAY, {"x": 1.0}) for one in (device, stays)])
    await fleet.trimmed()
    await perform(duty, session)
    await fleet.move(device, shorter)
    await next_day(fleet)
    await perform(duty, session)
    for table in ("telemetry", "telemetry_1d"):
        assert [row["device_id"] for row in await fleet.owner.fetch(f"SELECT device_id FROM {table}")] == [stays]


async def test_a_latest_value_goes_and_when_it_was_heard_stays(fleet: Fleet, session: Any, duty: RetentionDuty) -> None:
    _, device = await _one_device(fleet, keep(5, x=30))
    await fleet.store([(device, NOW - 10 * DAY, {"x": 1.0, "place": [1.0, 2.0]}), (device, NOW - 50 * DAY, {"y": 1.0})])
    await perform(duty, session)
    rows = await fleet.owner.fetch("SELECT * FROM telemetry_latest ORDER BY observed_at")
    assert [(row["observed_at"], row["numbers"], row["extras"]) for row in rows] == [
        (NOW - 50 * DAY, [], None),
        (NOW - 10 * DAY, [1.0], None),
    ]


async def test_a_latest_value_that_is_being_written_is_not_waited_for(
    fleet: Fleet, session: Any, duty: RetentionDuty
) -> None:
    _, device = await _one_device(fleet, keep(5))
    await fleet.store([(device, NOW - 10 * DAY, {name: 1.0}) for name in "xy"])
    async with fleet.owner.transaction():
        held = await fleet.owner.fetchval("SELECT metric_set FROM telemetry_latest LIMIT 1 FOR UPDATE")
        await session.execute("SET lock_timeout = '100ms'")
        await perform(duty, session)
    left = await fleet.owner.fetch("SELECT metric_set FROM telemetry_latest WHERE metrics <> '{}'")
    assert [row["metric_set"] for row in left] == [held]


async def _partitions(fleet: Fleet, parent: str) -> set[str]:
    rows = await fleet.owner.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::regclass", parent
    )
    return {row["name"].removeprefix("headwater.") for row in rows} - {f"{parent}_default"}


async def test_partitions_are_dropped_after_the_longest_retention_of_all(
    fleet: Fleet, session: Any, duty: RetentionDuty
) -> None:
    for definition in (keep(3), keep(4, x=10)):
        _, device = await _one_device(fleet, definition)
    # The default profiles say nothing, which means a year.
    await fleet.owner.execute("DELETE FROM profile WHERE definition = '{}'")
    await fleet.store([(device, NOW - n * DAY, {"y": 1.0}) for n in range(60)])
    await fleet.trimmed()
    await perform(duty, session)
    # Ten days after their end, which is at the latest on the 4th of March.
    assert min(await _partitions(fleet, "telemetry")) == "telemetry_20310304"
    assert min(await _partitions(fleet, "telemetry_1m")) == "telemetry_1m_20310303"
    assert min(await _partitions(fleet, "telemetry_1h")) == "telemetry_1h_20310301"
    assert min(await _times(fleet)) == NOW - 4 * DAY


async def test_a_partition_that_is_being_read_is_dropped_later(
    fleet: Fleet, session: Any, duty: RetentionDuty, database_urls: DatabaseURLs, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, device = await _one_device(fleet, keep(3))
    await fleet.owner.execute("DELETE FROM profile WHERE definition = '{}'")
    await fleet.owner.execute("ALTER FUNCTION telemetry_partition_drop SET lock_timeout = '50ms'")
    await fleet.store([(device, NOW - n * DAY, {"y": 1.0}) for n in (1, 20)])
    await fleet.trimmed()
    reader = await asyncpg.connect(database_urls.owner)
    async with reader.transaction():
        await reader.fetch("SELECT FROM telemetry LIMIT 1")
        await perform(duty, session)
        assert "telemetry_20310222" in await _partitions(fleet, "telemetry")
    await reader.close()
    await perform(duty, session)
    assert "telemetry_20310222" in await _partitions(fleet, "telemetry")  # not again at once: others wait meanwhile
    await fleet.owner.execute("ALTER FUNCTION telemetry_partition_drop SET lock_timeout = '10s'")
    monkeypatch.setattr(duty, "_drop_again_at", 0.0)
    await perform(duty, session)
    assert await _partitions(fleet, "telemetry") == {"telemetry_20310313"}


async def test_one_profile_that_cannot_be_done_does_not_hold_up_the_others(
    fleet: Fleet, session: Any, duty: RetentionDuty
) -> None:
    _, held = await _one_device(fleet, keep(3))
    _, free = await _one_device(fleet, keep(3))
    await fleet.store([(device, NOW - 10 * DAY, {"y": 1.0}) for device in (held, free)])
    await session.execute("SET lock_timeout = '100ms'")
    async with fleet.owner.transaction():
        await fleet.owner.fetch("SELECT FROM telemetry WHERE device_id = $1 FOR UPDATE", held)
        await perform(duty, session)
        assert [row["device_id"] for row in await fleet.owner.fetch("SELECT device_id FROM telemetry")] == [held]
    await perform(duty, session)
    assert await _times(fleet) == set()


async def test_another_worker_goes_on(
    fleet: Fleet, session: Any, duty: RetentionDuty, database_urls: DatabaseURLs, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, device = await _one_device(fleet, keep(3))
    await fleet.store([(device, NOW - n * DAY, {"y": 1.0}) for n in (1, 5, 10)])
    monkeypatch.setattr(long_work, "TURN_S", 0.0)
    for _ in range(20):
        assert await duty.perform(session)
    session.terminate()
    monkeypatch.undo()
    fresh = await open_lane_session(database_urls.writer, "test")
    await perform(RetentionDuty(fleet.clock), fresh)
    fresh.terminate()
    await fleet.expire()
    await fleet.check()

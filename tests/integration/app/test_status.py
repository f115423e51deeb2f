"""What `headwater status` says of a database, without asking for more rights than the operator's role has."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import pytest
from tests.support.engines import DatabaseURLs

from headwater.app.status import status_of
from headwater.ids import uuid7

OLD = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(database_urls: DatabaseURLs, nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_DATABASE_OPERATOR_URL", database_urls.operator)
    monkeypatch.setenv("HEADWATER_NATS_URL", nats_url)


@pytest.mark.usefixtures("settings")
async def test_rows_that_the_operator_may_not_read_are_counted(database_urls: DatabaseURLs, tmp_path) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    for sequence in range(3):
        await owner.execute(
            "INSERT INTO telemetry VALUES ($1, $1, $2, $2, $3, 0, '{}', '{}')", uuid7(), OLD, sequence
        )  # to the partition of what is old
    await owner.execute("SELECT pg_stat_force_next_flush()")
    await owner.execute("ANALYZE telemetry")  # which writes the sum at the partitioned table, too
    status = await status_of(tmp_path / "none")
    assert status.rows["telemetry"] == 3
    await owner.execute("INSERT INTO telemetry VALUES ($1, $1, $2, $2, 3, 0, '{}', '{}')", uuid7(), OLD)
    await owner.execute("SELECT pg_stat_force_next_flush()")
    await owner.close()
    assert (await status_of(tmp_path / "none")).rows["telemetry"] == 4


async def test_a_machine_without_anything_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("DATABASE_URL", "DATABASE_OPERATOR_URL", "DATABASE_OWNER_URL", "NATS_URL"):
        monkeypatch.delenv(f"HEADWATER_{name}", raising=False)
    status = await status_of(tmp_path / "none")
    assert (status.up, status.problems) == (None, [])

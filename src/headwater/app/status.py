"""What runs in a home, and how far it has come: read only, and whatever does not answer is left out, with the reason."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
from nats.js.errors import Error as JetStreamError

import headwater
from headwater.app.engine_checks import connect_database, nats_once
from headwater.app.home import Home, Up
from headwater.app.home_settings import read
from headwater.app.settings import Settings
from headwater.database.away import AWAY
from headwater.database.migrate import pending
from headwater.errors import DomainError
from headwater.stream.topology import CONSUMERS, UPLINK_STREAM

TABLES = ("tenant", "person", "device", "telemetry", "telemetry_latest")

NATSError = (nats.errors.Error, JetStreamError, OSError, TimeoutError)


class StreamStatus(msgspec.Struct):
    name: str
    messages: int
    bytes: int
    bytes_max: int


class Backlog(msgspec.Struct):
    """Batches of a lane or partition that a consumer has not worked on yet."""

    consumer: str
    subject: str
    batches: int


class Status(msgspec.Struct):
    version: str
    home: str
    up: Up | None
    postgres_version: str = ""
    nats_version: str = ""
    migrations_pending: list[str] = []
    rows: dict[str, int] = {}
    """estimates of PostgreSQL, seconds old, where a table is large or not the operator's to read"""
    streams: list[StreamStatus] = []
    backlog: list[Backlog] = []
    problems: list[str] = []


async def status_of(path: Path) -> Status:
    home = Home(path)
    settings = read(path)
    status = Status(headwater.__version__, str(home.path), home.find_up())
    named = settings.database.operator_url or settings.nats.url
    if status.up is not None or (named and home.find_decisions() is None):  # a home at rest has its engines at rest
        positions = await _database(settings, status)
        await _stream(settings, status, positions)
    return status


async def _database(settings: Settings, status: Status) -> dict[tuple[str, int], int]:
    """Returns the positions of the consumers: (consumer, lane) -> sequence."""
    try:
        connection = await connect_database(settings.database.operator_url, "DATABASE_OPERATOR_URL")
    except DomainError as error:
        status.problems.append(f"{error.detail} [{error.code}]")
        return {}
    try:
        status.postgres_version = await connection.fetchval("SHOW server_version")
        status.migrations_pending = await pending(connection)
        if status.migrations_pending:
            return {}
        status.rows = {table: await _rows(connection, table) for table in TABLES}
        rows = await connection.fetch("SELECT consumer, lane, sequence FROM ingest_position")
        return {(row["consumer"], row["lane"]): row["sequence"] for row in rows}
    except AWAY as error:
        status.problems.append(f"PostgreSQL: {error}")
        return {}
    finally:
        await connection.close()


async def _rows(connection: Any, table: str) -> int:
    """What the statistics say (with those of its partitions), or a count where they say little."""
    # reltuples says nothing before the first ANALYZE, the live count nothing after a crash; a partitioned table itself
    # has no rows, and would count those of its partitions again.
    estimate = await connection.fetchval(
        "SELECT coalesce(sum(greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)), 0)::bigint FROM pg_class c "
        "WHERE c.relkind = 'r' AND (c.oid IN (SELECT relid FROM pg_partition_tree($1::regclass)) OR c.oid = $1::regclass)",
        f"headwater.{table}",
    )
    permitted = await connection.fetchval("SELECT has_table_privilege($1::regclass, 'SELECT')", f"headwater.{table}")
    if estimate > 100_000 or not permitted:
        return int(estimate)
    return int(await connection.fetchval(f"SELECT count(*) FROM headwater.{table}"))  # noqa: S608  # a name from TABLES


async def _stream(settings: Settings, status: Status, positions: dict[tuple[str, int], int]) -> None:
    try:
        async with nats_once(settings.nats) as client, asyncio.timeout(20):
            status.nats_version = str(client.connected_server_version._server_version)
            await _read_streams(client.jetstream(), settings, status, positions)
    except DomainError as error:
        status.problems.append(f"{error.detail} [{error.code}]")
    except NATSError as error:
        status.problems.append(f"NATS: {error}")


async def _read_streams(jetstream: Any, settings: Settings, status: Status, positions: dict[tuple[str, int], int]) -> None:
    for info in await jetstream.streams_info():
        status.streams.append(
            StreamStatus(info.config.name, info.state.messages, info.state.bytes, max(0, info.config.max_bytes or 0))
        )
    for consumer in CONSUMERS:
        lanes = settings.nats.lanes if consumer.reads == "hw.up" else settings.nats.partitions
        for lane in range(lanes):
            subject = f"{consumer.reads}.{lane}"
            waiting = await _waiting(jetstream, subject, positions.get((consumer.name, lane), 0))
            status.backlog.append(Backlog(consumer.name, subject, waiting))


async def _waiting(jetstream: Any, subject: str, position: int) -> int:
    """Messages of a subject behind a position. An ephemeral consumer that starts there knows the number."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy  # noqa: PLC0415  # slow to import, and only here

    info = await jetstream.add_consumer(
        UPLINK_STREAM,
        config=ConsumerConfig(
            filter_subject=subject, ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=position + 1, inactive_threshold=5, mem_storage=True,
        ),
    )  # fmt: skip
    waiting = int(info.num_pending or 0)
    await jetstream.delete_consumer(UPLINK_STREAM, info.name)
    return waiting

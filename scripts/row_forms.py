"""Three ways to keep a message of several metrics, measured: a row a metric, a row a message with arrays, a row with JSONB.

    .venv/bin/python scripts/row_forms.py postgresql://user@host/database [--messages 400000]

Makes the schema `row_forms` in that database and drops it again. The rows are encoded before the clock starts, so a rate is
PostgreSQL's own; they come as the store's writer sends them: binary COPY, transactions of 5,000 messages of all devices,
sorted by device, synchronous_commit off. The figures of docs/adr/0005 are from here.
"""

from __future__ import annotations

# ruff: noqa: S608  # the statements are put together from constants of this file
import argparse
import asyncio
import io
import json
import random
import statistics
import struct
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import asyncpg

METRICS = 5
MESSAGES_A_DAY = 2_000
"""of one device, which sends every 43 s"""
BATCH = 5_000
HEADER, TRAILER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0), b"\xff\xff"
DAY_US = 86_400_000_000
START_US = 820_540_800_000_000  # 2026-01-01, counted from 2000 as PostgreSQL does
QUERIES = 30

FACTS = (
    "tenant_id uuid NOT NULL, device_id uuid NOT NULL, observed_at timestamptz NOT NULL, received_at timestamptz NOT NULL,"
    " sequence bigint NOT NULL, lane smallint NOT NULL"
)
DAY = "device_id = $1 AND observed_at >= '2026-01-01Z' AND observed_at < '2026-01-02Z'"
HOUR = "date_bin('1 hour', observed_at, '2000-01-01Z')"


@dataclass(frozen=True)
class Message:
    tenant: bytes
    device: bytes
    observed_at: int
    sequence: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Form:
    """raw: all values of a device's day, as Python has them; hourly: the means of its third metric"""

    name: str
    columns: str
    index: str
    rows: Callable[[Message], list[bytes]]
    raw: str
    hourly: str


def facts(message: Message, more: int) -> bytes:
    return struct.pack(
        "!hi16si16siqiqiqih", 6 + more, 16, message.tenant, 16, message.device, 8, message.observed_at,
        8, message.observed_at + 80_000, 8, message.sequence, 2, 0,
    )  # fmt: skip


def narrow(message: Message) -> list[bytes]:
    head = facts(message, 2)
    return [head + struct.pack("!iiid", 4, metric, 8, value) for metric, value in enumerate(message.values, 1)]


def arrays(message: Message) -> list[bytes]:
    count = len(message.values)
    metrics = struct.pack("!iiiii", 1, 0, 23, count, 1) + b"".join(struct.pack("!ii", 4, n) for n in range(1, count + 1))
    numbers = struct.pack("!iiiii", 1, 0, 701, count, 1) + b"".join(struct.pack("!id", 8, v) for v in message.values)
    columns = struct.pack("!i", len(metrics)) + metrics + struct.pack("!i", len(numbers)) + numbers
    return [facts(message, 3) + columns + struct.pack("!i", -1)]


def document(message: Message) -> list[bytes]:
    text = json.dumps({f"metric_{n}": value for n, value in enumerate(message.values, 1)}).encode()
    return [facts(message, 1) + struct.pack("!ib", len(text) + 1, 1) + text]


FORMS = (
    Form(
        "a row a metric", "metric_id integer NOT NULL, value float8 NOT NULL", "(device_id, metric_id, observed_at)", narrow,
        f"SELECT observed_at, metric_id, value FROM t WHERE {DAY} ORDER BY observed_at",
        f"SELECT {HOUR}, avg(value) FROM t WHERE {DAY} AND metric_id = 3 GROUP BY 1",
    ),
    Form(
        "a row a message, arrays", "metrics integer[] NOT NULL, numbers float8[] NOT NULL, extras jsonb",
        "(device_id, observed_at)", arrays,
        f"SELECT observed_at, metrics, numbers, extras FROM t WHERE {DAY} ORDER BY observed_at",
        f"SELECT {HOUR}, avg(numbers[array_position(metrics, 3)]) FROM t WHERE {DAY} GROUP BY 1",
    ),
    Form(
        "a row a message, JSONB", "body jsonb NOT NULL", "(device_id, observed_at)", document,
        f"SELECT observed_at, body FROM t WHERE {DAY} ORDER BY observed_at",
        f"SELECT {HOUR}, avg((body ->> 'metric_3')::float8) FROM t WHERE {DAY} GROUP BY 1",
    ),
)  # fmt: skip


def batches(messages: int) -> Iterator[list[Message]]:
    rng = random.Random(5)  # noqa: S311  # nothing secret
    tenant = uuid.UUID(int=1).bytes
    devices = [uuid.UUID(int=rng.getrandbits(128), version=4).bytes for _ in range(max(1, messages // MESSAGES_A_DAY))]
    every_us = DAY_US // MESSAGES_A_DAY
    made: list[Message] = []
    for number in range(messages):
        tick, device = divmod(number, len(devices))
        observed = START_US + tick * every_us + device * 997
        values = tuple(round(rng.gauss(20, 5), 2) for _ in range(METRICS))
        made.append(Message(tenant, devices[device], observed, number // BATCH, values))
        if len(made) == BATCH:
            yield made
            made = []
    if made:
        yield made


async def measure(connection: asyncpg.Connection, form: Form, messages: int) -> list[str]:
    await connection.execute("DROP TABLE IF EXISTS t")
    await connection.execute(f"CREATE TABLE t ({FACTS}, {form.columns})")
    await connection.execute(f"CREATE INDEX t_device ON t {form.index}")
    encoded = []
    for batch in batches(messages):
        device = batch[0].device
        encoded.append(b"".join([HEADER, *sorted(row for message in batch for row in form.rows(message)), TRAILER]))
    began = time.perf_counter()
    for data in encoded:
        await connection.copy_to_table("t", source=io.BytesIO(data), format="binary")
    took = time.perf_counter() - began
    await connection.execute("VACUUM ANALYZE t")
    rows, table, index = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM t), pg_table_size('t'), pg_indexes_size('t')"
    )
    raw, hourly = [await median_ms(connection, query, uuid.UUID(bytes=device)) for query in (form.raw, form.hourly)]
    return [
        form.name, f"{messages / took:,.0f}", f"{rows / took:,.0f}", f"{table / 1e6:,.0f}", f"{index / 1e6:,.0f}",
        f"{(table + index) / messages:,.0f}", f"{raw:.1f}", f"{hourly:.1f}",
    ]  # fmt: skip


async def median_ms(connection: asyncpg.Connection, query: str, device: uuid.UUID) -> float:
    times = []
    for _ in range(QUERIES):
        began = time.perf_counter()
        assert await connection.fetch(query, device)
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Compare three row forms of telemetry.")
    parser.add_argument("url")
    parser.add_argument("--messages", type=int, default=400_000)
    said = parser.parse_args()
    connection = await asyncpg.connect(said.url)
    await connection.set_type_codec("jsonb", encoder=str, decoder=json.loads, schema="pg_catalog")
    await connection.execute("CREATE SCHEMA row_forms")
    try:
        await connection.execute("SET search_path = row_forms; SET synchronous_commit = off")
        heads = ["form", "messages/s", "rows/s", "table MB", "index MB", "bytes/message", "day, raw ms", "day, hourly ms"]
        lines = [heads, ["---"] * len(heads)] + [await measure(connection, form, said.messages) for form in FORMS]
        sys.stdout.write("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    finally:
        await connection.execute("DROP SCHEMA row_forms CASCADE")
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())

"""(d) How soon questions are answered when there is much to ask about: through the HTTP API, over a seeded database."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import aiohttp

from headwater.clock import to_us
from headwater.testing.bench.context import Bench, BenchFailed
from headwater.testing.bench.installation import Installation, installation
from headwater.testing.bench.processes import Usage
from headwater.testing.bench.report import Outcome, Row, percentiles_ms
from headwater.testing.telemetry_seed import METRICS, Seeded, seed

DAYS = 2
"""At 10 million points and 1,000 devices: a message of a device every 86 s, 1,000 a day."""
ROLLUP_STILL_S = 60.0
"""Roll-ups that do not move for so long are not going to."""
ROLLUP_LOOK_S = 2.0
PAGE = 10_000
"""messages, the most that a page of JSON may have: a device's whole day"""
PAGE_OF_MANY = 1_000
"""What a page has where nothing is said; of a thousand devices it may not have many more."""
DEVICES_MAX = 1_000
"""that a query may name"""
METRIC = METRICS[0]

Question = Callable[[random.Random], tuple[str, str, Any, Any]]
"""-> method, path, query, body"""


async def measure(bench: Bench) -> Outcome:
    options = bench.options
    outcome = Outcome("queries")
    async with installation(bench) as up:
        seeded = await _seed(bench, up)
        outcome.figures |= {
            "points": seeded.points, "messages": seeded.messages, "devices": len(seeded.devices), "days": DAYS,
            **await _settle(bench, up),
        }  # fmt: skip
        async with Usage(up.programs()) as usage, up.api() as api:
            for what, question in _questions(seeded).items():
                bench.say(f"{what}: {options.repetitions} times")
                outcome.rows.append(await _ask(api, what, question, options.repetitions))
    outcome.processes = usage.processes
    return outcome


async def _seed(bench: Bench, up: Installation) -> Seeded:
    """Whole days that have ended. Workers stand still: the seed writes to one of their lanes."""
    options = bench.options
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    bench.say(f"seeding {options.points:,} points")
    urls = _URLs(up.settings.database.url, up.settings.database.writer_url)
    with up.workers_held():
        return await seed(
            urls, up.tenant_id, options.query_devices, options.points // len(METRICS),
            start_us=to_us(end - timedelta(days=DAYS)), end_us=to_us(end),
        )  # fmt: skip


class _URLs:
    def __init__(self, app: str, writer: str) -> None:
        self.app, self.writer = app, writer


async def _settle(bench: Bench, up: Installation) -> dict[str, Any]:
    """Until the roll-ups have read everything, then as the database would be after some time: vacuumed."""
    start = moved_at = monotonic()
    left: int | None = None
    async with up.database() as connection:
        bench.say("waiting for the roll-ups")
        while True:
            now = int(await connection.fetchval("SELECT coalesce(sum(rows), 0)::bigint FROM headwater.telemetry_ledger"))
            if now != left:
                left, moved_at = now, monotonic()
            if not left or monotonic() - moved_at > ROLLUP_STILL_S:
                break
            await asyncio.sleep(ROLLUP_LOOK_S)
        rolled_up_s = round(monotonic() - start, 1)
        await connection.execute("VACUUM (ANALYZE) headwater.telemetry", timeout=600)
        size = await connection.fetchval("SELECT pg_database_size(current_database())")
    return {"messages_not_rolled_up": left, "rolled_up_s": rolled_up_s, "database_bytes": int(size)}


def _questions(seeded: Seeded) -> dict[str, Question]:
    """Each time another device and day, or another hour, so that not always the same pages are in memory."""
    start = datetime.fromtimestamp(seeded.start_us / 1e6, UTC)
    many = [str(device) for device in seeded.devices[:DEVICES_MAX]]

    def day(chance: random.Random) -> dict[str, str]:
        at = start + timedelta(days=chance.randrange(DAYS))
        return {"from": at.isoformat(), "to": (at + timedelta(days=1)).isoformat()}

    def hour(chance: random.Random) -> dict[str, str]:
        at = start + timedelta(hours=chance.randrange(24 * DAYS))
        return {"from": at.isoformat(), "to": (at + timedelta(hours=1)).isoformat()}

    def one(chance: random.Random, **more: str) -> tuple[str, str, Any, Any]:
        return "GET", f"devices/{chance.choice(seeded.devices)}/telemetry", day(chance) | more, None

    def of_many(span: dict[str, str], **more: Any) -> tuple[str, str, Any, Any]:
        return "POST", "telemetry/query", None, {"devices": {"ids": many}, "metrics": [METRIC]} | span | more

    devices = f"{len(many):,} devices"
    return {
        "one device, one day, raw": lambda chance: one(chance, limit=str(PAGE)),
        "one device, one day, by 5 min": lambda chance: one(chance, interval="5m"),
        f"one metric of {devices}, one hour, raw": lambda chance: of_many(hour(chance), limit=PAGE_OF_MANY),
        f"one metric of {devices}, one day, by hour": lambda chance: of_many(day(chance), interval="1h"),
        f"one metric of {devices}, one day, together by hour": lambda chance: of_many(
            day(chance), interval="1h", by_device=False
        ),
    }


async def _ask(api: aiohttp.ClientSession, what: str, question: Question, repetitions: int) -> Row:
    """One after the other. Raises BenchFailed."""
    chance = random.Random(7)  # noqa: S311  # the same questions each time, so that runs can be compared
    latencies_s: list[float] = []
    size = 0
    for _ in range(repetitions):
        method, path, query, body = question(chance)
        start = time.perf_counter()
        async with api.request(method, path, params=query, json=body) as response:
            data = await response.read()
        latencies_s.append(time.perf_counter() - start)
        if response.status != 200:
            raise BenchFailed(f"{what}: {response.status} {data[:500].decode(errors='replace')}")
        size += len(data)
    return Row(what, latency_ms=percentiles_ms(latencies_s), note=f"{size / repetitions / 1024:,.0f} KiB an answer")

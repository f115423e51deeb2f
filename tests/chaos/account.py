"""The account at the end: what is in PostgreSQL, beside what devices heard."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

from headwater.app.connections import connect_nats
from headwater.app.settings import Settings
from headwater.database.session import open_pool
from headwater.store.writer_frontier import StreamFrontier
from tests.chaos.devices import Fleet

DRAINED_S = 120.0
NO_LANE = -1

_STORED = """
SELECT device.external_id, numbers[array_position(metrics, sent.id)]::bigint AS number
FROM headwater.telemetry
JOIN headwater.device ON device.id = telemetry.device_id
CROSS JOIN (SELECT id FROM headwater.metric WHERE name = 'sent_us') AS sent
"""
_POSITIONS = "SELECT consumer, lane, sequence, updated_at FROM headwater.ingest_position ORDER BY 1, 2"
_LATEST = """
SELECT device.external_id, max(numbers[array_position(metrics, sent.id)])::bigint AS number
FROM headwater.telemetry_latest AS latest
JOIN headwater.device ON device.id = latest.device_id
CROSS JOIN (SELECT id FROM headwater.metric WHERE name = 'sent_us') AS sent
GROUP BY 1
"""
_COUNTED = """
SELECT (SELECT coalesce(sum(count), 0) FROM headwater.telemetry_1m)::bigint AS rolled_up,
       (SELECT count(*) FROM headwater.telemetry
        WHERE NOT EXISTS (SELECT FROM headwater.ingest_position AS rolled
                          WHERE rolled.consumer = 'rollup' AND rolled.lane = telemetry.lane
                            AND rolled.sequence >= telemetry.sequence)) AS waiting
"""
"""What the roll-ups have counted, and what their positions do not cover yet: a message is in one of them."""


async def settle(settings: Settings, fleet: Fleet, *, doubled_max: int = 0) -> None:
    """Wait until everything is stored, and compare: all that was acknowledged, each once, and the newest is the latest.

    fleet        finished
    doubled_max  messages that may be there twice; 0 wherever a test does not say why not
    """
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            await open_pool(settings.database.owner_url, size_max=2, application_name="headwater chaos")
        )
        client = await connect_nats(settings.nats, name="headwater chaos")
        stack.push_async_callback(client.close)
        frontier = StreamFrontier(pool, client.jetstream(), settings.nats.lanes)
        give_up = time.monotonic() + DRAINED_S
        while (pending := await frontier.lowest_pending(NO_LANE)) is not None:
            positions = [tuple(row) for row in await pool.fetch(_POSITIONS)]
            assert time.monotonic() < give_up, f"{pending} is not stored after {DRAINED_S} s: {positions}"
            await asyncio.sleep(0.2)
        stored = Counter((row["external_id"], row["number"]) for row in await pool.fetch(_STORED))
        acknowledged = {(device.external_id, number) for device in fleet.devices for number in device.acknowledged}
        lost, doubled = acknowledged - stored.keys(), {one: copies for one, copies in stored.items() if copies > 1}
        assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged messages are lost: {sorted(lost)[:10]}"
        assert len(doubled) <= doubled_max, f"{len(doubled)} messages are stored again: {sorted(doubled.items())[:10]}"
        assert stored.keys() == acknowledged  # finished: all that was sent was acknowledged
        assert await _latest(pool) == {device.external_id: device.sent - 1 for device in fleet.devices}
        counted = await pool.fetchrow(_COUNTED)
        assert counted["rolled_up"] + counted["waiting"] == stored.total(), counted


async def _latest(pool: Any) -> dict[str, int]:
    return {row["external_id"]: row["number"] for row in await pool.fetch(_LATEST)}

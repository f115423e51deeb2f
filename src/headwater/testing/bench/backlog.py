"""How far the store is behind the stream, looked at once a second.

Two figures a lane, of which the worst counts: how many batches it has not stored, and how old the oldest of them is. The
second is what the first means: a batch may hold one message or five hundred.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec

from headwater.stream import subjects
from headwater.stream.topology import STORE, UPLINK_STREAM
from headwater.testing.bench.context import BenchFailed, until

LOOK_S = 1.0
REQUEST_S = 10.0
DRAIN_S = 600.0
DRAINED_LOOK_S = 0.2


class Sample(msgspec.Struct, frozen=True):
    """at_s: since the beginning"""

    at_s: float
    batches: int
    behind_s: float


class Backlog:
    """Use as `async with`: samples are taken while it is entered."""

    def __init__(self, client: Any, connection: Any, lanes: int) -> None:
        self._client = client
        self._connection = connection
        self._lanes = lanes
        self._looking: asyncio.Task[None] | None = None
        self._end = asyncio.Event()
        self.samples: list[Sample] = []

    async def __aenter__(self) -> Backlog:
        self.samples = []
        self._end.clear()
        self._looking = asyncio.create_task(self._look_until_the_end())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Raises what ended the looking."""
        assert self._looking is not None
        self._end.set()
        await self._looking

    async def drained(self) -> None:
        """Returns when everything is stored. Raises TimeoutError. Not while it is entered: there is one connection."""

        async def nothing_waits() -> bool:
            batches, _ = await self._look()
            return batches == 0

        await until(nothing_waits, DRAIN_S, every_s=DRAINED_LOOK_S)

    async def _look_until_the_end(self) -> None:
        start = time.monotonic()
        while not self._end.is_set():
            batches, behind_s = await self._look()
            self.samples.append(Sample(round(time.monotonic() - start, 2), batches, round(behind_s, 3)))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), LOOK_S)

    async def _look(self) -> tuple[int, float]:
        offset = await self._connection.fetchval(
            "SELECT coalesce((SELECT sequence_offset FROM headwater.uplink_stream ORDER BY id DESC LIMIT 1), 0)"
        )
        rows = await self._connection.fetch(
            "SELECT lane, sequence FROM headwater.ingest_position WHERE consumer = $1", STORE.name
        )
        positions = {row["lane"]: max(0, row["sequence"] - offset) for row in rows}
        batches, behind_s = 0, 0.0
        for lane in range(self._lanes):
            waiting = await self._waiting(subjects.up(lane), positions.get(lane, 0) + 1)
            if waiting:
                batches += waiting
                behind_s = max(behind_s, await self._age_s(subjects.up(lane), positions.get(lane, 0) + 1))
        return batches, behind_s

    async def _waiting(self, subject: str, sequence: int) -> int:
        """Messages of a subject from a sequence on: a consumer that would start there knows."""
        name = f"bench-{uuid4().hex}"
        config = {
            "name": name, "deliver_policy": "by_start_sequence", "opt_start_seq": sequence, "filter_subject": subject,
            "ack_policy": "none", "mem_storage": True, "inactive_threshold": 5_000_000_000,
        }  # fmt: skip
        made = await self._ask(
            f"CONSUMER.CREATE.{UPLINK_STREAM}.{name}.{subject}", {"stream_name": UPLINK_STREAM, "config": config}
        )
        await self._ask(f"CONSUMER.DELETE.{UPLINK_STREAM}.{name}", {})
        if "error" in made:
            raise BenchFailed(f"NATS: {made['error'].get('description')}")
        return int(made["num_pending"])

    async def _age_s(self, subject: str, sequence: int) -> float:
        found = await self._ask(f"STREAM.MSG.GET.{UPLINK_STREAM}", {"seq": sequence, "next_by_subj": subject})
        if "error" in found:
            return 0.0  # it was stored and trimmed in this moment
        return max(0.0, time.time() - datetime.fromisoformat(found["message"]["time"]).timestamp())

    async def _ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._client.request(f"$JS.API.{what}", msgspec.json.encode(body), timeout=REQUEST_S)
        return msgspec.json.decode(answer.data, type=dict[str, Any])


def growth_s(samples: Sequence[Sample]) -> float:
    """How much further behind the store was in the last quarter of the time than in the second one: in the first it finds
    its pace. Medians, because a checkpoint or a roll-up of a second is no growth. Fewer than four samples say nothing."""
    quarter = len(samples) // 4
    if not quarter:
        return 0.0
    early = statistics.median(sample.behind_s for sample in samples[quarter : 2 * quarter])
    late = statistics.median(sample.behind_s for sample in samples[-quarter:])
    return round(late - early, 3)

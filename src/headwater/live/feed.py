"""A gateway's copies of what is watched: given away once the stream has the records, waited for by nobody.

When copies cannot keep up, the oldest are dropped, and an empty batch takes their place: "something is missing here".
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any
from uuid import UUID

import nats.errors
import structlog

from headwater.live.watch import WatchList
from headwater.stream import subjects
from headwater.stream.envelope import Record, encode_batch

log = structlog.get_logger(__name__)

PENDING_MAX = 256
"""Batches waiting for NATS, of at most 512 KiB each and mostly of a few; at rest there is never more than one."""
_GAP = encode_batch([])


class LiveFeed:
    """A `stream.batcher.Live`.

    run            publishes what was offered; a task of the gateway
    dropped_total  batches that watchers were told they missed
    """

    def __init__(self, nats: Any, watch_list: WatchList) -> None:
        self._nats = nats
        self.watch_list = watch_list
        self._pending: deque[tuple[bytes, bytes]] = deque()
        self._gaps: set[bytes] = set()
        self._wake = asyncio.Event()
        self.dropped_total = 0

    def offer(self, records: list[Record]) -> None:
        if self.watch_list.is_empty:
            return
        for tenant, selected in self.watch_list.select(records).items():
            self._pending.append((tenant, encode_batch(selected)))
            if len(self._pending) > PENDING_MAX:
                self._dropped(self._pending.popleft()[0])
            self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                tenant, payload = self._pending.popleft()
                try:
                    if tenant in self._gaps:
                        await self._publish(tenant, _GAP)
                        self._gaps.discard(tenant)
                    await self._publish(tenant, payload)
                except (nats.errors.Error, OSError) as error:
                    log.warning("live_copy_dropped", tenant=tenant.hex(), error=str(error))
                    self._dropped(tenant)

    async def _publish(self, tenant: bytes, payload: bytes) -> None:
        await self._nats.publish(subjects.live(UUID(bytes=tenant)), payload)

    def _dropped(self, tenant: bytes) -> None:
        self.dropped_total += 1
        self._gaps.add(tenant)

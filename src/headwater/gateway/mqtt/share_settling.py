"""What a gateway's members of a shared subscription are done with, on its way to be marked and forgotten.

An acknowledgement is not enough: a NATS that is killed forgets it (stream/settled.py). Until a batch is marked, its receipts
say that it is somebody's already.
"""

from __future__ import annotations

import asyncio

import structlog

from headwater.errors import DomainError
from headwater.gateway.mqtt.share_consumer import ShareConsumer
from headwater.stream.share_store import ShareStore

log = structlog.get_logger(__name__)

MARK_S = 0.1
"""Batches that end within so long are marked together."""


class Settling:
    """forgettable  marked batches whose receipts nobody needs: those go with the next that are written"""

    def __init__(self, store: ShareStore, consumer: ShareConsumer) -> None:
        self.forgettable: list[int] = []
        self._store = store
        self._consumer = consumer
        self._acknowledged: dict[int, bool] = {}
        self._marking: asyncio.Task[None] | None = None

    def add(self, sequence: int, *, needs_receipts: bool) -> None:
        """A batch that NATS has heard is done with. needs_receipts: a session may still have to learn what it was given."""
        self._acknowledged[sequence] = needs_receipts
        if self._marking is None:
            self._marking = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            while self._acknowledged:
                await asyncio.sleep(MARK_S)
                await self._mark()
        except DomainError as error:  # the receipts stay until the next batch has more luck
            log.warning("share_not_marked", error=repr(error))
        finally:
            self._marking = None

    async def _mark(self) -> None:
        acknowledged, self._acknowledged = self._acknowledged, {}
        try:
            is_new_record = await self._store.settle(acknowledged)
        except DomainError:
            self._acknowledged |= acknowledged
            raise
        self.forgettable += [sequence for sequence, needs_receipts in acknowledged.items() if not needs_receipts]
        if is_new_record:
            await self._store.raise_floor(await self._consumer.floor())

    async def finish(self) -> None:
        """Mark and forget all that there is. Raises DomainErrors."""
        if self._marking is not None:
            await self._marking
        if self._acknowledged:
            await self._mark()
        if self.forgettable:
            await self._store.drop(self.forgettable)
            self.forgettable = []

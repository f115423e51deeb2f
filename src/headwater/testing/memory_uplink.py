"""An Uplink that keeps everything in memory, and can be told to refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from headwater.errors import DomainError
from headwater.stream.envelope import DeadLetter, Record


class MemoryUplink:
    """Twin of stream.uplink.StreamUplink; implements ingest.ports.Uplink.

    refusal  what `submit` and `reject` fail with, while it is not None
    held     while True, futures stay open until `release`
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.letters: list[tuple[UUID, DeadLetter]] = []
        self.refusal: DomainError | None = None
        self.held = False
        self._open: list[tuple[asyncio.Future[None], list[Record]]] = []

    def submit(self, records: Sequence[Record]) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self._open.append((future, list(records)))
        if not self.held:
            self.release()
        return future

    def control(self, record: Record) -> asyncio.Future[None]:
        return self.submit((record,))

    def reject(self, tenant_id: UUID, letter: DeadLetter) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        if self.refusal is not None:
            future.set_exception(self.refusal)
        else:
            self.letters.append((tenant_id, letter))
            future.set_result(None)
        return future

    def release(self) -> None:
        """Store, or refuse, what was held."""
        waiting, self._open = self._open, []
        for future, records in waiting:
            if self.refusal is not None:
                future.set_exception(self.refusal)
            else:
                self.records.extend(records)
                future.set_result(None)

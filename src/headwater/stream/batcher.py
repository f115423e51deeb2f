"""Group commit: everything that arrives within one turn becomes one stored message.

A batch is sent as soon as fewer than `IN_FLIGHT_MAX` are under way; what arrives meanwhile gathers in the next one. Under
load batches grow by themselves, at rest a record waits for nobody. Completions are handed out in the order of the batches,
so acknowledgements keep the order of the messages [MQTT-4.6.0-2].

Nothing here awaits or allocates per record: a caller appends to `open.records` and notes itself in the batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from headwater.errors import DomainError
from headwater.ingest.ports import StreamUnavailable
from headwater.stream.envelope import Record, encode_batch
from headwater.stream.publisher import Publisher

log = structlog.get_logger(__name__)

IN_FLIGHT_MAX = 3
"""One being written, one on its way, one being encoded; more only makes batches smaller."""
RECORDS_MAX = 2_048
"""About 300 KiB of ordinary telemetry: below NATS's default max_payload of 1 MiB."""
BYTES_MAX = 512 * 1024
"""Payload bytes as they came from devices; their normalised form is of about the same size."""


class Waiter(Protocol):
    """Somebody who must hear what became of a batch, called once per batch."""

    def stored(self, token: list[int]) -> None: ...

    def refused(self, token: list[int], error: DomainError) -> None: ...


class Batch:
    """Records that will be stored together, and who waits for them."""

    __slots__ = ("bytes", "error", "finished", "records", "waiters")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.waiters: list[tuple[Waiter, list[int]]] = []
        self.bytes = 0
        self.finished = False
        self.error: DomainError | None = None


class Batcher:
    """Batches for one subject.

    open       the batch that gathers now; callers append to it and then call `wake`
    backlog    records not stored yet: what a caller looks at before it reads more
    on_stored  called with each batch that the stream has stored, after its waiters
    """

    def __init__(
        self, publisher: Publisher, subject: str, *, in_flight_max: int = IN_FLIGHT_MAX,
        on_stored: Callable[[list[Record]], None] | None = None,
    ) -> None:  # fmt: skip
        self._publisher = publisher
        self._subject = subject
        self._in_flight_max = in_flight_max
        self._on_stored = on_stored
        self._under_way: deque[Batch] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self.open = Batch()
        self.backlog = 0
        self.stored_total = 0
        self.batches_total = 0

    def wake(self) -> None:
        """Something was appended to `open`: send it at the end of this turn of the loop, together with what else comes."""
        if not self._scheduled:
            self._scheduled = True
            self._idle.clear()
            self._loop.call_soon(self._flush)

    def seal_if_full(self) -> None:
        """Keeps a batch within NATS's max_payload; called after records were appended."""
        batch = self.open
        if len(batch.records) >= RECORDS_MAX or batch.bytes >= BYTES_MAX:
            self._send()

    def add(self, records: Sequence[Record], size: int = 0) -> asyncio.Future[None]:
        """For callers outside the hot path: a future that is done when the records are stored."""
        future: asyncio.Future[None] = self._loop.create_future()
        batch = self.open
        batch.records.extend(records)
        batch.bytes += size
        batch.waiters.append((_FutureWaiter(future), []))
        self.seal_if_full()
        self.wake()
        return future

    async def drain(self) -> None:
        """Returns when nothing is open or under way any more."""
        await self._idle.wait()

    def _flush(self) -> None:
        self._scheduled = False
        if len(self._under_way) < self._in_flight_max and (self.open.records or self.open.waiters):
            self._send()
        elif not self._under_way:
            self._idle.set()

    def _send(self) -> None:
        batch, self.open = self.open, Batch()
        self.backlog += len(batch.records)
        self._under_way.append(batch)
        task = self._loop.create_task(self._store(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _store(self, batch: Batch) -> None:
        try:
            if batch.records:
                await self._publisher.publish(self._subject, encode_batch(batch.records))
        except DomainError as error:
            batch.error = error
        except Exception as error:  # a batch without an end would stop the lane: whatever it was, the waiters hear of it
            log.exception("batch_failed", subject=self._subject)
            batch.error = StreamUnavailable(f"the batch could not be published: {type(error).__name__}")
        batch.finished = True
        self._finish()

    def _finish(self) -> None:
        """Hand out completions from the front; a batch that overtook another waits for it."""
        while self._under_way and self._under_way[0].finished:
            batch = self._under_way.popleft()
            self.backlog -= len(batch.records)
            self.batches_total += 1
            if batch.error is None:
                self.stored_total += len(batch.records)
                for waiter, token in batch.waiters:
                    waiter.stored(token)
                if self._on_stored is not None:
                    self._on_stored(batch.records)
            else:
                for waiter, token in batch.waiters:
                    waiter.refused(token, batch.error)
        self._flush()


class _FutureWaiter:
    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def stored(self, token: list[int]) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def refused(self, token: list[int], error: DomainError) -> None:
        if not self._future.done():
            self._future.set_exception(error)

"""Group commit: everything that arrives within a moment becomes one stored message.

At rest a record waits for nobody: its batch goes out at the end of the turn of the loop in which it came. Under load, which
the size of the last batch tells, batches keep a distance of `GAP_S`, because each costs an fsync whatever its size. At most
`IN_FLIGHT_MAX` are under way; what arrives meanwhile gathers in the next one. Completions are handed out in the order of
the batches, so acknowledgements keep the order of the messages [MQTT-4.6.0-2].

Nothing here awaits per record: a caller appends, and notes itself in the batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog

from headwater.errors import DomainError
from headwater.ingest.ports import StreamUnavailable
from headwater.stream.envelope import BatchWriter, Record
from headwater.stream.publisher import Publisher

log = structlog.get_logger(__name__)

IN_FLIGHT_MAX = 3
"""One being written, one on its way, one being encoded; more only makes batches smaller."""
GAP_S = 0.006
"""Between two batches under load: 160 fsyncs a second, and a delay that no device at the end of a network notices."""
LOADED_RECORDS = 32
"""A batch of this size says that the gateway is under load."""
RECORDS_MAX = 2_048
"""About 300 KiB of ordinary telemetry: below NATS's default max_payload of 1 MiB."""
BYTES_MAX = 512 * 1024


BACKLOG_MAX = 50_000
"""Records in memory while NATS is slow or away, about 30 MB; beyond it devices are not read from."""


class Waiter(Protocol):
    """Somebody who must hear what became of a batch, called once per batch."""

    def stored(self, token: list[int]) -> None: ...

    def refused(self, token: list[int], error: DomainError) -> None: ...


class Live(Protocol):
    """Who is watched, and where copies of their records go."""

    @property
    def is_empty(self) -> bool: ...

    def wanted(self, tenant: bytes, device: bytes) -> bool: ...

    def offer(self, records: list[Record]) -> None: ...


class Batch:
    """Records that will be stored together, and who waits for them.

    watched  the records that somebody watches live; the others are encoded and forgotten
    """

    __slots__ = ("error", "finished", "waiters", "watched", "writer")

    def __init__(self) -> None:
        self.writer = BatchWriter()
        self.waiters: list[tuple[Waiter, list[int]]] = []
        self.watched: list[Record] = []
        self.finished = False
        self.error: DomainError | None = None


class Batcher:
    """Batches for one subject.

    open     the batch that gathers now
    backlog  records sent and not stored yet
    full     callers should read no further: what is in memory is enough
    live     gets the watched records of each batch that the stream has stored, after its waiters
    """

    def __init__(
        self, publisher: Publisher, subject: str, *, in_flight_max: int = IN_FLIGHT_MAX, live: Live | None = None
    ) -> None:
        self._publisher = publisher
        self._subject = subject
        self._in_flight_max = in_flight_max
        self._live = live
        self._under_way: deque[Batch] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._next_send_at = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self.open = Batch()
        self.backlog = 0
        self.full = False
        self.stored_total = 0
        self.batches_total = 0

    def batch_for(self, count: int) -> Batch:
        """The open batch, with room for this many records: what came in one message is stored or refused in one piece."""
        writer = self.open.writer
        if writer.count and (writer.count + count > RECORDS_MAX or writer.size >= BYTES_MAX):
            self._send()
        return self.open

    def append(self, batch: Batch, record: Record) -> None:
        """To the batch that `batch_for` gave, before anything else happens."""
        batch.writer.append(record)
        live = self._live
        if live is not None and not live.is_empty and live.wanted(record.tenant, record.device):
            batch.watched.append(record)

    def wake(self) -> None:
        """Something was appended to the open batch: send it with what else comes in this turn, or when the gap is over."""
        if self._scheduled:
            return
        self._scheduled = True
        self._idle.clear()
        wait_s = self._next_send_at - self._loop.time()
        if wait_s <= 0:
            self._loop.call_soon(self._flush)
        else:
            self._loop.call_later(wait_s, self._flush)

    def add(self, records: Sequence[Record]) -> asyncio.Future[None]:
        """For callers outside the hot path: a future that is done when all of the records are stored."""
        future: asyncio.Future[None] = self._loop.create_future()
        parts = [records[start : start + RECORDS_MAX] for start in range(0, len(records), RECORDS_MAX)] or [records]
        waiter = _FutureWaiter(future, len(parts))
        for part in parts:
            batch = self.batch_for(len(part))
            for record in part:
                self.append(batch, record)
            batch.waiters.append((waiter, []))
        self.wake()
        return future

    async def drain(self) -> None:
        """Returns when nothing is open or under way any more."""
        await self._idle.wait()

    def _flush(self) -> None:
        self._scheduled = False
        if len(self._under_way) < self._in_flight_max:
            self._send()

    def _settle(self) -> None:
        """A batch has ended: go on with what gathered, or be idle."""
        if self.open.writer.count or self.open.waiters:
            self.wake()
        elif not self._under_way and not self._scheduled:
            self._idle.set()

    def _send(self) -> None:
        batch, self.open = self.open, Batch()
        self.backlog += batch.writer.count
        self.full = self.backlog > BACKLOG_MAX
        self._under_way.append(batch)
        if batch.writer.count >= LOADED_RECORDS:
            self._next_send_at = self._loop.time() + GAP_S
        task = self._loop.create_task(self._store(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _store(self, batch: Batch) -> None:
        try:
            if batch.writer.count:
                await self._publisher.publish(self._subject, batch.writer.finish())
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
            self.backlog -= batch.writer.count
            self.full = self.backlog > BACKLOG_MAX
            self.batches_total += 1
            if batch.error is None:
                self.stored_total += batch.writer.count
                for waiter, token in batch.waiters:
                    waiter.stored(token)
                if batch.watched and self._live is not None:
                    self._live.offer(batch.watched)
            else:
                for waiter, token in batch.waiters:
                    waiter.refused(token, batch.error)
        self._settle()


class _FutureWaiter:
    """Waits for several batches; the first refusal is what the future says."""

    __slots__ = ("_future", "_left")

    def __init__(self, future: asyncio.Future[None], batches: int) -> None:
        self._future = future
        self._left = batches

    def stored(self, token: list[int]) -> None:
        self._left -= 1
        if self._left == 0 and not self._future.done():
            self._future.set_result(None)

    def refused(self, token: list[int], error: DomainError) -> None:
        if not self._future.done():
            self._future.set_exception(error)

"""Group commit: everything that arrives within a moment becomes one stored message.

At rest a record waits for nobody: its batch goes out at the end of the turn of the loop in which it came. Under load, which
the size of the last batch tells, batches keep a distance of `gap_s`, because each costs an fsync whatever its size. At most
`IN_FLIGHT_MAX` are under way; what arrives meanwhile gathers in the next ones, which wait in their order. Completions are
handed out in the order of the batches, so acknowledgements keep the order of the messages [MQTT-4.6.0-2].

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
from headwater.stream.envelope import BatchWriter, Message, Record

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
"""A batch of this size takes nothing more. With the last message in it, 256 KiB unless a quota says otherwise, it stays
below the same 1 MiB."""

BACKLOG_MAX = 50_000
"""Records in memory while NATS is slow or away, some 10 MB of ordinary ones; beyond it devices are not read from."""
BACKLOG_BYTES_MAX = 64 << 20
"""The same for large ones: what each of the connections may still add is at most one message."""


class Waiter(Protocol):
    """Somebody who must hear what became of a batch, called once per batch, in the order of the batches.

    token  what was left with `Batch.waiters`: the packet identifiers of a connection's messages in the batch
    """

    def stored(self, token: list[int]) -> None:
        """Fsynced or replicated."""

    def refused(self, token: list[int], error: DomainError) -> None:
        """error: StreamFull, StreamUnavailable"""


class Publishes(Protocol):
    async def publish(self, subject: str, payload: bytes) -> int:
        """Returns the stream sequence, 0 where nothing is stored. Raises DomainErrors."""


class Watched(Protocol):
    """is_empty  nobody watches anything: an attribute, because every message looks at it"""

    is_empty: bool

    def wanted(self, tenant: bytes, device: bytes) -> bool: ...


class Live(Protocol):
    """Who is watched, and where copies of their records go."""

    @property
    def watch_list(self) -> Watched: ...

    def offer(self, records: list[Record]) -> None: ...


class Batch(BatchWriter):
    """Records that will be stored together, and who waits for them.

    watched   the records that somebody watches live; the others are encoded and forgotten
    sequence  the stream's, once it is stored
    """

    __slots__ = ("error", "finished", "sequence", "waiters", "watched")

    def __init__(self) -> None:
        super().__init__()
        self.waiters: list[tuple[Waiter, list[int]]] = []
        self.watched: list[Record] = []
        self.finished = False
        self.sequence = 0
        self.error: DomainError | None = None


class Batcher:
    """Batches for one subject.

    open     the batch that gathers now
    backlog  records in the batches that take nothing more and are not stored yet
    full     callers should read no further: what is in memory is enough
    live     gets the watched records of each batch that the stream has stored, after its waiters
    """

    def __init__(
        self, publisher: Publishes, subject: str, *, in_flight_max: int = IN_FLIGHT_MAX, gap_s: float = GAP_S,
        live: Live | None = None,
    ) -> None:  # fmt: skip
        self._publisher = publisher
        self._subject = subject
        self._in_flight_max = in_flight_max
        self._gap_s = gap_s
        self._live = live
        self._watch_list = live.watch_list if live is not None else _Nobody()
        self._waiting: deque[Batch] = deque()
        self._under_way: deque[Batch] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._next_send_at = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self.open = Batch()
        self.backlog = 0
        self._backlog_bytes = 0
        self.full = False
        self.stored_total = 0
        self.batches_total = 0

    def put(self, records: Sequence[Record]) -> Batch:
        """What came in one message: stored or refused in one piece. Returns the batch; the caller adds itself to its waiters
        before anything else happens. One call a message, because this is the hot path."""
        batch = self.open
        if batch.count + len(records) > RECORDS_MAX or batch.size >= BYTES_MAX:
            batch = self._with_room(len(records))
        for record in records:
            batch.append(record)
        if not self._watch_list.is_empty:
            wanted = self._watch_list.wanted
            batch.watched += [record for record in records if wanted(record.tenant, record.device)]
        if not self._scheduled:
            self._schedule()
        return batch

    def put_message(self, message: Message) -> Batch:
        """An ordinary message, which nobody watches; otherwise as `put`."""
        batch = self.open
        if batch.count >= RECORDS_MAX or batch.size >= BYTES_MAX:
            batch = self._with_room(1)
        batch.append(message)
        if not self._scheduled:
            self._schedule()
        return batch

    def _with_room(self, count: int) -> Batch:
        """The open batch, or a new one where these records would be too many for it."""
        batch = self.open
        if batch.count and (batch.count + count > RECORDS_MAX or batch.size >= BYTES_MAX):
            self._close()
        return self.open

    def _schedule(self) -> None:
        """Send the open batch with what else comes in this turn, or when the gap is over."""
        self._scheduled = True
        self._idle.clear()
        wait_s = self._next_send_at - self._loop.time()
        if wait_s <= 0:
            self._loop.call_soon(self._flush)
        else:
            self._loop.call_later(wait_s, self._flush)

    def add(self, records: Sequence[Record]) -> asyncio.Future[None]:
        """For callers outside the hot path: a future that is done when all of the records are stored.

        What fits into a batch stays in one piece.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        waiter = _FutureWaiter(future)
        batch = self._with_room(min(len(records), RECORDS_MAX))
        waiter.wait_for(batch)
        for record in records:
            if batch.count >= RECORDS_MAX or batch.size >= BYTES_MAX:
                batch = self._with_room(1)
                waiter.wait_for(batch)
            self.put((record,))
        self.put(())  # also nothing has an end
        return future

    async def drain(self) -> None:
        """Returns when nothing is open or under way any more."""
        await self._idle.wait()

    def _flush(self) -> None:
        self._scheduled = False
        if len(self._under_way) < self._in_flight_max:
            self._close()

    def _settle(self) -> None:
        """A batch has ended: go on with what gathered, or be idle."""
        self._send_waiting()
        if self.open.count or self.open.waiters:
            if not self._scheduled:
                self._schedule()
        elif not self._under_way and not self._scheduled:
            self._idle.set()

    def _close(self) -> None:
        """The open batch takes nothing more: it goes as soon as it may."""
        batch, self.open = self.open, Batch()
        self._waiting.append(batch)
        self._count(batch, 1)
        self._send_waiting()

    def _count(self, batch: Batch, sign: int) -> None:
        self.backlog += sign * batch.count
        self._backlog_bytes += sign * batch.size
        self.full = self.backlog > BACKLOG_MAX or self._backlog_bytes > BACKLOG_BYTES_MAX

    def _send_waiting(self) -> None:
        while self._waiting and len(self._under_way) < self._in_flight_max:
            batch = self._waiting.popleft()
            self._under_way.append(batch)
            if batch.count >= LOADED_RECORDS:
                self._next_send_at = self._loop.time() + self._gap_s
            task = self._loop.create_task(self._store(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _store(self, batch: Batch) -> None:
        try:
            if batch.count:
                batch.sequence = await self._publisher.publish(self._subject, batch.finish())
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
            self._count(batch, -1)
            self.batches_total += 1
            if batch.error is None:
                self.stored_total += batch.count
            for waiter, token in batch.waiters:
                self._tell(waiter, token, batch.error)
            if batch.error is None and batch.watched and self._live is not None:
                self._live.offer(batch.watched)
        self._settle()

    def _tell(self, waiter: Waiter, token: list[int], error: DomainError | None) -> None:
        try:
            if error is None:
                waiter.stored(token)
            else:
                waiter.refused(token, error)
        except Exception:  # one connection's trouble, which must not keep the others waiting for ever
            log.exception("waiter_failed", subject=self._subject)


class _Nobody:
    """Where no copies go."""

    is_empty = True

    def wanted(self, tenant: bytes, device: bytes) -> bool:
        return False


class _FutureWaiter:
    """Waits for several batches; the first refusal is what the future says."""

    __slots__ = ("_future", "_left")

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future
        self._left = 0

    def wait_for(self, batch: Batch) -> None:
        self._left += 1
        batch.waiters.append((self, []))

    def stored(self, token: list[int]) -> None:
        self._left -= 1
        if self._left == 0 and not self._future.done():
            self._future.set_result(None)

    def refused(self, token: list[int], error: DomainError) -> None:
        if not self._future.done():
            self._future.set_exception(error)

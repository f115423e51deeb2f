"""A stream with one message a subject, read by key: sessions and retained messages.

Owns group commit for such a stream: what is put within a moment is stored as one atomic batch, which costs one fsync (24,000
puts a second in batches of 100, against 4,000 one by one), and what is asked for within a moment is asked for at once.

A put may name the sequence that it replaces; where somebody else was quicker it fails with `Overtaken` and nothing is
stored. What is removed leaves an empty message behind that expires at once, so a removal is a put like any other.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from headwater.errors import DomainError
from headwater.ingest.ports import StreamFull, StreamUnavailable
from headwater.stream.direct_get import BATCH_MAX, ReadFailed, StoredMessage, TooManySubjects, read_last

log = structlog.get_logger(__name__)

ATTEMPT_S = 3.0
GIVE_UP_S = 20.0
"""A client waits for its CONNACK or its PUBACK meanwhile; a leader election takes about two seconds."""
RETRY_S = 0.2
PUTS_MAX = 250
"""Of one batch. NATS takes 1,000; a smaller one keeps the stream free for others in between."""
BATCH_BYTES_MAX = 512 * 1024
"""Of one batch: what NATS holds of it in memory until it is complete."""
REMOVED_TTL_S = 1
"""The shortest that NATS knows."""
PAGE = 256
COUNTED_S = 10.0
"""A bound of a hundred thousand may be passed by what comes in so long."""
COUNTS_MAX = 10_000
FULL_RETRY_AFTER_S = 60.0

_WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
"""JSStreamWrongLastSequenceErrF, JSStreamWrongLastSequenceConstant"""
_FULL = frozenset({10077, 10023, 10047})


class Overtaken(DomainError):
    """Somebody else has changed it since it was read."""

    code = "stream.overtaken"


@dataclass(slots=True)
class _Put:
    subject: str
    data: bytes
    expected: int | None
    ttl_s: int | None
    done: asyncio.Future[int]

    @property
    def headers(self) -> dict[str, str]:
        headers = {}
        if self.expected is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(self.expected)
        if self.ttl_s is not None:
            headers["Nats-TTL"] = f"{self.ttl_s}s"
        return headers


@dataclass(slots=True)
class _Question:
    subjects: tuple[str, ...]
    done: asyncio.Future[list[StoredMessage]]
    tokens: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = [tuple(subject.split(".")) for subject in self.subjects]

    def wants(self, subject: str) -> bool:
        parts = subject.split(".")
        return any(_matches(tokens, parts) for tokens in self.tokens)


class KeyedStream:
    """One of them, as one process sees it."""

    def __init__(self, client: Client, stream: str) -> None:
        self._nats = client
        self._jetstream = client.jetstream()
        self._stream = stream
        self._puts: list[_Put] = []
        self._busy: set[str] = set()
        self._questions: list[_Question] = []
        self._counts: dict[str, tuple[float, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._instance = uuid.uuid4().hex[:16]
        self._batch = itertools.count(1)

    # -- writing --------------------------------------------------------------------------------------------------------

    async def put(self, subject: str, data: bytes, *, expected: int | None = None, ttl_s: int | None = None) -> int:
        """Returns its sequence once it is stored (fsynced or replicated). Puts of one subject are stored in their order.

        expected  the sequence that it replaces, 0 = there is none; None = whatever there is
        Raises    Overtaken, StreamFull, StreamUnavailable
        """
        put = _Put(subject, data, expected, ttl_s, asyncio.get_running_loop().create_future())
        if not self._puts:
            asyncio.get_running_loop().call_soon(self._send)
        self._puts.append(put)
        return await put.done

    async def remove(self, subject: str, *, expected: int | None = None) -> None:
        """Raises what `put` does."""
        await self.put(subject, b"", expected=expected, ttl_s=REMOVED_TTL_S)

    def _send(self) -> None:
        """One batch has a subject once, and none that is still under way: those wait, so that they keep their order."""
        batch: list[_Put] = []
        left: list[_Put] = []
        size = 0
        held = set(self._busy)
        for put in self._puts:
            if put.subject in held or len(batch) == PUTS_MAX or size > BATCH_BYTES_MAX:
                left.append(put)
            else:
                batch.append(put)
                size += len(put.data)
            held.add(put.subject)
        self._puts = left
        if batch:
            self._busy.update(put.subject for put in batch)
            self._spawn(self._store(batch))
            if left and not all(put.subject in self._busy for put in left):
                asyncio.get_running_loop().call_soon(self._send)

    async def _store(self, batch: list[_Put]) -> None:
        try:
            if len(batch) > 1 and await self._store_together(batch):
                return
            await asyncio.gather(*(self._store_one(put) for put in batch))
        finally:
            self._busy.difference_update(put.subject for put in batch)
            if self._puts:
                self._send()

    async def _store_together(self, batch: list[_Put]) -> bool:
        """False = not one of them is stored, or it is not known: each is tried by itself."""
        name = f"{self._instance}-{next(self._batch)}"
        try:
            for number, put in enumerate(batch, 1):
                headers = {**put.headers, "Nats-Batch-Id": name, "Nats-Batch-Sequence": str(number)}
                if number < len(batch):
                    await self._nats.publish(put.subject, put.data, headers=headers)
                else:
                    headers["Nats-Batch-Commit"] = "1"
                    answer = await self._nats.request(put.subject, put.data, timeout=ATTEMPT_S, headers=headers)
            said = msgspec.json.decode(answer.data)
        except (TimeoutError, nats.errors.Error, OSError, msgspec.DecodeError) as error:
            log.info("batch_not_acknowledged", stream=self._stream, error=repr(error))
            return False
        if said.get("error") is not None or said.get("count") != len(batch):
            return False
        for number, put in enumerate(batch):
            if not put.done.done():
                put.done.set_result(said["seq"] - len(batch) + 1 + number)
        return True

    async def _store_one(self, put: _Put) -> None:
        try:
            sequence = await self._until_stored(put)
        except Exception as error:  # whoever waits for it hears it
            if not put.done.done():
                put.done.set_exception(error)
        else:
            if not put.done.done():
                put.done.set_result(sequence)

    async def _until_stored(self, put: _Put) -> int:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + GIVE_UP_S
        while True:
            try:
                if not self._nats.is_connected:
                    raise nats.errors.ConnectionReconnectingError
                answer = await self._nats.request(put.subject, put.data, timeout=ATTEMPT_S, headers=put.headers or None)
                said = msgspec.json.decode(answer.data)
            except (TimeoutError, nats.errors.Error, OSError, msgspec.DecodeError) as error:
                problem: Any = error
            else:
                problem = said.get("error")
                if problem is None:
                    return int(said["seq"])
                code = problem.get("err_code")
                if code in _WRONG_LAST_SEQUENCE:
                    return await self._own_or_overtaken(put)
                if code in _FULL:
                    raise StreamFull(f"the stream {self._stream} is full", retry_after_s=FULL_RETRY_AFTER_S)
            if loop.time() >= give_up:
                raise StreamUnavailable(f"the stream {self._stream} did not take it for {GIVE_UP_S:.0f} s: {problem}")
            await asyncio.sleep(RETRY_S)

    async def _own_or_overtaken(self, put: _Put) -> int:
        """An acknowledgement that got lost looks the same: then what is stored is what was put."""
        stored = await self.find(put.subject)
        if stored is not None and stored.data == put.data:
            return stored.sequence
        raise Overtaken("it has been changed since it was read")

    # -- reading --------------------------------------------------------------------------------------------------------

    async def find(self, subject: str) -> StoredMessage | None:
        """Of this very subject; with data b"" where it was removed a moment ago. Raises ReadFailed."""
        found = await self._question((subject,))
        return found[0] if found else None

    async def select(self, subjects: tuple[str, ...]) -> list[StoredMessage]:
        """The newest of each subject that one of these means; they may have wildcards. Raises ReadFailed."""
        return [message for message in await self._question(subjects) if message.data]

    async def _question(self, subjects: tuple[str, ...]) -> list[StoredMessage]:
        question = _Question(subjects, asyncio.get_running_loop().create_future())
        if not self._questions:
            asyncio.get_running_loop().call_soon(self._ask)
        self._questions.append(question)
        return await question.done

    def _ask(self) -> None:
        questions, self._questions = self._questions[:PAGE], self._questions[PAGE:]
        self._spawn(self._answer(questions))
        if self._questions:
            asyncio.get_running_loop().call_soon(self._ask)

    async def _answer(self, questions: Sequence[_Question]) -> None:
        try:
            wanted = list(dict.fromkeys(subject for question in questions for subject in question.subjects))
            found = await read_last(self._nats, self._stream, wanted)
        except TooManySubjects:
            await asyncio.gather(*(self._answer_alone(question) for question in questions))
        except Exception as error:  # whoever waits for it hears it
            for question in questions:
                if not question.done.done():
                    question.done.set_exception(error)
        else:
            for question in questions:
                if not question.done.done():
                    question.done.set_result([message for message in found if question.wants(message.subject)])

    async def _answer_alone(self, question: _Question) -> None:
        try:
            found = [stored async for stored in self.scan(*question.subjects)]
        except Exception as error:  # whoever waits for it hears it
            if not question.done.done():
                question.done.set_exception(error)
        else:
            if not question.done.done():
                question.done.set_result(found)

    async def count(self, subject: str) -> int:
        """How many subjects match, up to COUNTED_S ago. Raises ReadFailed."""
        now = asyncio.get_running_loop().time()
        counted_at, count = self._counts.get(subject, (-COUNTED_S, 0))
        if now - counted_at < COUNTED_S:
            return count
        config = ConsumerConfig(
            filter_subject=subject, deliver_policy=DeliverPolicy.LAST_PER_SUBJECT, ack_policy=AckPolicy.NONE,
            mem_storage=True, num_replicas=1, inactive_threshold=COUNTED_S,
        )  # fmt: skip
        try:
            count = (await self._jetstream.add_consumer(self._stream, config)).num_pending or 0
        except (TimeoutError, nats.errors.Error) as error:
            raise ReadFailed(f"the stream {self._stream} did not answer within {ATTEMPT_S:.0f} s") from error
        if len(self._counts) >= COUNTS_MAX:
            self._counts.clear()
        self._counts[subject] = (now, count)
        return count

    async def scan(self, *subjects: str) -> AsyncIterator[StoredMessage]:
        """However many there are: through a consumer, at some ten times the cost of a direct get. Raises ReadFailed."""
        config = ConsumerConfig(
            filter_subjects=list(subjects), deliver_policy=DeliverPolicy.LAST_PER_SUBJECT, ack_policy=AckPolicy.NONE,
            mem_storage=True, num_replicas=1, inactive_threshold=60,
        )  # fmt: skip
        try:
            puller = await self._jetstream.pull_subscribe("", stream=self._stream, config=config)
            try:
                left = (await puller.consumer_info()).num_pending or 0
                while left > 0:
                    for message in await puller.fetch(min(left, BATCH_MAX), timeout=ATTEMPT_S):
                        left -= 1
                        if message.data:
                            yield StoredMessage(message.metadata.sequence.stream, message.data, message.subject)
            finally:
                await puller.unsubscribe()
        except (TimeoutError, nats.errors.Error) as error:
            raise ReadFailed(f"the stream {self._stream} did not answer within {ATTEMPT_S:.0f} s") from error

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _matches(pattern: Sequence[str], tokens: Sequence[str]) -> bool:
    for at, token in enumerate(pattern):
        if token == ">":
            return len(tokens) > at
        if at == len(tokens) or (token not in ("*", tokens[at])):
            return False
    return len(pattern) == len(tokens)

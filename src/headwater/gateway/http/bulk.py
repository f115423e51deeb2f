"""NDJSON: one record a line, as many lines as a back-fill needs, in bounded memory.

By default all lines are read and judged before the first is stored; with `partial` good lines are stored as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from headwater.gateway.http.errors import IngestBusy
from headwater.gateway.http.rejection import Rejections
from headwater.gateway.http.request import BULK_BODY_S, Request
from headwater.gateway.http.submission import Submission
from headwater.ingest.errors import PayloadEmpty, PayloadTooLarge, PayloadTooManyRecords, Rejected
from headwater.ingest.profile_compiled import Observed

BODY_FACTOR = 32
"""The body of a bulk request may be this many times a message's size: 8 MiB unless the quota says otherwise."""
LINES_MAX = 100_000
_TURN_LINES = 200
"""Lines read before the event loop serves others: about a millisecond."""

ReadLine = Callable[[bytes], list[Observed]]


class BulkSlots:
    """How many bulk requests are under way: their bodies are what can fill the memory.

    32 bodies of 8 MiB are 256 MiB; two of one device, so that no device can take all the slots.
    """

    def __init__(self, total_max: int = 32, per_device_max: int = 2) -> None:
        self._total_max = total_max
        self._per_device_max = per_device_max
        self._by_device: dict[UUID, int] = {}
        self._total = 0

    @contextmanager
    def slot(self, device_id: UUID) -> Iterator[None]:
        held = self._by_device.get(device_id, 0)
        if self._total >= self._total_max or held >= self._per_device_max:
            raise IngestBusy("too many bulk requests at once; try again", retry_after_s=2)
        self._total += 1
        self._by_device[device_id] = held + 1
        try:
            yield
        finally:
            self._total -= 1
            self._by_device[device_id] -= 1
            if not self._by_device[device_id]:
                del self._by_device[device_id]


async def store_all_or_nothing(
    request: Request, message_bytes_max: int, read: ReadLine, submission: Submission, rejections: Rejections
) -> None:
    """Nothing is submitted where a line is bad. Reads twice: the body is smaller than what it becomes."""
    body = b"".join([part async for part in request.chunks(message_bytes_max * BODY_FACTOR, BULK_BODY_S)])
    lines = [line async for line in _lines(_whole(body), message_bytes_max)]
    for number, line in lines:
        _judge(read, number, line, rejections)
        await _breathe(number)
    if rejections.first is None:
        for number, line in lines:
            await submission.add(read(line))
            await _breathe(number)


async def store_the_good(
    request: Request, message_bytes_max: int, read: ReadLine, submission: Submission, rejections: Rejections
) -> None:
    chunks = request.chunks(message_bytes_max * BODY_FACTOR, BULK_BODY_S)
    async for number, line in _lines(chunks, message_bytes_max):
        records = _judge(read, number, line, rejections)
        if records:
            await submission.add(records)
        await _breathe(number)


def _judge(read: ReadLine, number: int, line: bytes, rejections: Rejections) -> list[Observed] | None:
    try:
        return read(line)
    except Rejected as rejected:
        rejections.add(rejected, line, "application/json", line=number)
        return None


async def _breathe(number: int) -> None:
    if number % _TURN_LINES == 0:
        await asyncio.sleep(0)


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _lines(chunks: AsyncIterator[bytes], line_bytes_max: int) -> AsyncIterator[tuple[int, bytes]]:
    """(number from 1, line) of every line that is not blank. Raises PayloadEmpty, PayloadTooLarge, PayloadTooManyRecords."""
    rest = b""
    number = 0
    found = False
    async for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            number += 1
            _check_line(number, line, line_bytes_max)
            if stripped := line.strip():
                found = True
                yield number, stripped
        _check_line(number + 1, rest, line_bytes_max)
    if last := rest.strip():
        found = True
        yield number + 1, last
    if not found:
        raise PayloadEmpty("the body has no lines")


def _check_line(number: int, line: bytes, line_bytes_max: int) -> None:
    if len(line) > line_bytes_max:
        raise PayloadTooLarge(f"line {number} has more than {line_bytes_max} bytes", line=number, bytes_max=line_bytes_max)
    if number > LINES_MAX:
        raise PayloadTooManyRecords(f"more than {LINES_MAX} lines", records_max=LINES_MAX)

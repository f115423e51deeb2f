"""Reading a stream's stored messages by subject and sequence, without a consumer: JetStream's batched direct gets."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NATSError

from headwater.errors import Unavailable

BATCH_MAX = 256
"""About 10 ms of one core for small messages; more only delays whoever shares the connection."""
ANSWER_S = 5.0
"""A leader election takes about two seconds."""


class ReadFailed(Unavailable):
    """NATS did not answer, or not to the end."""

    code = "stream.read_failed"


TOO_MANY = 1_024
"""Subjects that one question may be answered with: NATS's own bound."""


class TooManySubjects(ReadFailed):
    """More than TOO_MANY subjects match: this way of asking does not answer."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    sequence: int
    data: bytes
    subject: str


async def read_from(nats: Client, stream: str, subject: str, sequence: int, batch: int) -> list[StoredMessage]:
    """Up to `batch` messages of exactly this subject from `sequence` on, ascending. Fewer = there are no more.

    Raises ReadFailed.
    """
    return await _ask(nats, stream, {"seq": max(1, sequence), "next_by_subj": subject, "batch": min(batch, BATCH_MAX)})


async def read_last(nats: Client, stream: str, subjects: Sequence[str]) -> list[StoredMessage]:
    """The newest message of each of these subjects, which may have wildcards; what has none is absent.

    Raises ReadFailed, TooManySubjects.
    """
    return await _ask(nats, stream, {"multi_last": list(subjects)})


async def last_sequence(nats: Client, stream: str, subject: str) -> int:
    """Of the newest message of exactly this subject; 0 = there is none. Raises ReadFailed."""
    last = await read_last(nats, stream, [subject])
    return last[0].sequence if last else 0


async def next_at_leader(nats: Client, stream: str, subject: str, sequence: int) -> int:
    """The sequence of the first message of exactly this subject from `sequence` on, as the stream's leader has it; 0 = none.

    Direct gets are answered by any replica, and one may be behind: where nothing is found that should be there, ask here.
    Raises ReadFailed.
    """
    request = msgspec.json.encode({"seq": max(1, sequence), "next_by_subj": subject})
    try:
        answer = await nats.request(f"$JS.API.STREAM.MSG.GET.{stream}", request, timeout=ANSWER_S)
    except (NATSError, TimeoutError) as error:
        raise ReadFailed(f"the stream {stream} did not answer within {ANSWER_S:.0f} s") from error
    said = msgspec.json.decode(answer.data)
    problem = said.get("error")
    if problem is None:
        return int(said["message"]["seq"])
    if problem.get("code") == 404:
        return 0
    raise ReadFailed(f"the stream {stream} answered with {problem}")


async def _ask(nats: Client, stream: str, request: dict[str, Any]) -> list[StoredMessage]:
    inbox = nats.new_inbox()
    subscription = await nats.subscribe(inbox)
    try:
        await nats.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), reply=inbox)
        found: list[StoredMessage] = []
        while not _is_end(message := await subscription.next_msg(ANSWER_S)):
            headers = message.headers or {}
            found.append(StoredMessage(int(headers["Nats-Sequence"]), message.data, headers["Nats-Subject"]))
    except (NATSError, TimeoutError) as error:
        raise ReadFailed(f"the stream {stream} did not answer within {ANSWER_S:.0f} s") from error
    finally:
        with contextlib.suppress(NATSError):  # the connection is gone, and the inbox with it
            await subscription.unsubscribe()
    return found


def _is_end(message: Msg) -> bool:
    """204: the batch is complete. 404: nothing at all. Raises ReadFailed."""
    status = (message.headers or {}).get("Status")
    if status is None:
        return False
    if status == "413":
        raise TooManySubjects(f"more than {TOO_MANY} subjects match")
    if status not in {"204", "404"}:
        raise ReadFailed(f"the stream answered with status {status}")
    return True

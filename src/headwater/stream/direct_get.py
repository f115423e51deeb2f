"""Reading a stream's stored messages by subject and sequence, without a consumer: JetStream's batched direct get."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class StoredMessage:
    sequence: int
    data: bytes


async def read_from(nats: Client, stream: str, subject: str, sequence: int, batch: int) -> list[StoredMessage]:
    """Up to `batch` messages of exactly this subject from `sequence` on, ascending. Fewer = there are no more.

    Raises ReadFailed.
    """
    request = {"seq": max(1, sequence), "next_by_subj": subject, "batch": min(batch, BATCH_MAX)}
    inbox = nats.new_inbox()
    subscription = await nats.subscribe(inbox)
    try:
        await nats.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), reply=inbox)
        found: list[StoredMessage] = []
        while not _is_end(message := await subscription.next_msg(ANSWER_S)):
            found.append(StoredMessage(int((message.headers or {})["Nats-Sequence"]), message.data))
    except (NATSError, TimeoutError) as error:
        raise ReadFailed(f"the stream {stream} did not answer within {ANSWER_S:.0f} s") from error
    finally:
        await subscription.unsubscribe()
    return found


def _is_end(message: Msg) -> bool:
    """204: the batch is complete. 404: nothing at all. Raises ReadFailed."""
    status = (message.headers or {}).get("Status")
    if status is None:
        return False
    if status not in {"204", "404"}:
        raise ReadFailed(f"the stream answered with status {status}")
    return True

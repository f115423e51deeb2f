"""What the LIVE stream still has of a tenant, read by sequence with direct gets: no consumer, no state on the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from nats.errors import Error as NATSError

from headwater.live.errors import ReplayFailed
from headwater.stream import subjects
from headwater.stream.topology import LIVE_STREAM

PAGE_BATCHES = 64
ANSWER_S = 2.0
"""A direct get takes less than a millisecond; beyond this the stream is gone or NATS is away."""
_DIRECT_GET = f"$JS.API.DIRECT.GET.{LIVE_STREAM}"


@dataclass(frozen=True, slots=True)
class StoredBatch:
    sequence: int
    stored_at: datetime
    payload: bytes


async def last(nats: Any, tenant: UUID) -> StoredBatch | None:
    """The newest batch of a tenant. Raises ReplayFailed."""
    async for batch in _ask(nats, {"last_by_subj": subjects.live(tenant)}):
        return batch
    return None


async def first_at_or_behind(nats: Any, sequence: int, tenant: UUID) -> StoredBatch | None:
    """Raises ReplayFailed."""
    async for batch in _ask(nats, {"seq": sequence, "next_by_subj": subjects.live(tenant)}):
        return batch
    return None


async def page(nats: Any, sequence: int, tenant: UUID) -> list[StoredBatch]:
    """Up to PAGE_BATCHES batches of a tenant from `sequence` on; empty at the end. Raises ReplayFailed."""
    request = {"seq": sequence, "next_by_subj": subjects.live(tenant), "batch": PAGE_BATCHES}
    return [batch async for batch in _ask(nats, request)]


async def _ask(nats: Any, request: dict[str, object]) -> AsyncIterator[StoredBatch]:
    inbox = nats.new_inbox()
    subscription = await nats.subscribe(inbox)
    try:
        await nats.publish(_DIRECT_GET, msgspec.json.encode(request), reply=inbox)
        while True:
            message = await subscription.next_msg(timeout=ANSWER_S)
            headers = message.headers or {}
            status = headers.get("Status")
            if status in {"204", "404"}:
                return
            if status is not None:
                raise ReplayFailed(f"NATS answered {status} to a direct get of the live stream")
            yield StoredBatch(
                int(headers["Nats-Sequence"]), datetime.fromisoformat(headers["Nats-Time-Stamp"]), message.data
            )
            if "batch" not in request:
                return
    except (TimeoutError, NATSError) as error:
        raise ReplayFailed("the live stream did not answer") from error
    finally:
        await subscription.unsubscribe()

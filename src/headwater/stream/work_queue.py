"""Taking messages off a stream that workers share as a queue: each goes to one of them, and leaves the stream when done.

For what may be done twice without harm and in any order; UPLINK, where neither is so, has positions instead
(stream/position.py). What a worker took and did not finish comes back after `ACK_WAIT_S`.
"""

from __future__ import annotations

from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

ACK_WAIT_S = 60.0
"""Far more than writing down what was taken needs."""
PENDING_MAX = 1_000
"""Messages that all workers together have taken and not finished."""
GATHER_S = 0.1
"""How long behind a first message others are waited for: fewer and larger transactions."""


class WorkQueue:
    """The consumer `name` of a work-queue stream. `open` also makes the consumer, where it is not there yet."""

    def __init__(self, client: Client, *, stream: str, subject: str, name: str) -> None:
        self._client = client
        self._stream = stream
        self._subject = subject
        self._name = name
        self._subscription: Any = None

    async def open(self) -> None:
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WAIT_S, max_ack_pending=PENDING_MAX)
        self._subscription = await self._client.jetstream().pull_subscribe(
            self._subject, durable=self._name, stream=self._stream, config=config
        )

    async def take(self, *, messages_max: int, wait_s: float) -> list[Msg]:
        """Waits up to `wait_s` for a first one, then shortly for others."""
        first = await self._fetch(1, wait_s)
        return first + await self._fetch(messages_max - 1, GATHER_S) if first else []

    async def _fetch(self, messages_max: int, wait_s: float) -> list[Msg]:
        try:
            fetched: list[Msg] = await self._subscription.fetch(messages_max, timeout=wait_s)
        except (TimeoutError, nats.errors.TimeoutError):
            return []
        return fetched

    async def finish(self, messages: list[Msg]) -> None:
        """They are done. One whose acknowledgement is lost comes again."""
        for message in messages:
            await message.ack()

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

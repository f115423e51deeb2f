"""Retained messages: the newest of each topic, in the stream RETAINED (section 3.3.1.3).

When two publish to one topic at the same moment through two gateways, the one that the stream got last is kept.
"""

from __future__ import annotations

import time
from uuid import UUID

from nats.aio.client import Client

from headwater.errors import QuotaExceeded
from headwater.stream import subjects
from headwater.stream.envelope import Message, decode_message, encode_message
from headwater.stream.keyed import KeyedStream
from headwater.stream.topology import RETAINED_STREAM
from headwater.turns import Turns

RETRY_AFTER_S = 60


class RetainedStore:
    def __init__(self, client: Client) -> None:
        self._stream = KeyedStream(client, RETAINED_STREAM)
        self._turns = Turns[str]()
        """of topics that are being written: for some the count is asked first, and what follows must not overtake them"""

    async def keep(self, tenant_id: UUID, message: Message, count_max: int | None = None) -> None:
        """In place of what the topic had; an empty payload removes that [MQTT-3.3.1-6]. In the order of the calls.

        count_max  topics that the tenant may have
        Raises     QuotaExceeded, StreamFull, StreamUnavailable, ReadFailed
        """
        subject = subjects.retained(tenant_id, message.topic)
        async with self._turns.take(subject):
            await self._keep(tenant_id, subject, message, count_max)

    async def _keep(self, tenant_id: UUID, subject: str, message: Message, count_max: int | None) -> None:
        if not message.payload:
            await self._stream.remove(subject)
            return
        if count_max is not None and await self._stream.count(f"{subjects.RETAINED}.{tenant_id.hex}.>") >= count_max:
            stored = await self._stream.find(subject)
            if stored is None or not stored.data:
                raise QuotaExceeded(f"the tenant may have {count_max} retained messages", retry_after_s=RETRY_AFTER_S)
        ttl_s = None
        if message.expires_at:
            ttl_s = max(1, -(-(message.expires_at - time.time_ns() // 1000) // 1_000_000))
        await self._stream.put(subject, encode_message(message), ttl_s=ttl_s)

    async def matching(self, tenant_id: UUID, topic_filter: str) -> list[Message]:
        """Of every topic that the filter's subjects mean, in the order in which they were retained: more than the filter
        does where that begins with a wildcard (stream/subjects.py). Raises ReadFailed."""
        stored = await self._stream.select(subjects.retained_matching(tenant_id, topic_filter))
        now_us = time.time_ns() // 1000
        messages = [decode_message(each.data) for each in sorted(stored, key=lambda each: each.sequence)]
        return [message for message in messages if not 0 < message.expires_at <= now_us]

    async def find(self, tenant_id: UUID, topic: str) -> Message | None:
        """Raises ReadFailed."""
        stored = await self._stream.find(subjects.retained(tenant_id, topic))
        return decode_message(stored.data) if stored is not None and stored.data else None

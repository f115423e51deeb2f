"""The durable consumer of a shared subscription in a tenant's log, and how long it lasts.

While a session that outlives its connection has subscribed, what is published waits for the group, also when nobody is
connected. Otherwise the group ends a moment after its last member, whichever gateway that was on.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from headwater.errors import DomainError, Unavailable
from headwater.gateway.mqtt.sessions import EXPIRY_S_MAX
from headwater.protocols.mqtt.topics import Share
from headwater.stream import subjects
from headwater.stream.session_store import SessionStore
from headwater.stream.share_store import ShareStore
from headwater.stream.topology import MESSAGE_STREAM

log = structlog.get_logger(__name__)

ACK_WAIT_S = 30.0
"""How long a batch of a dead gateway stays with it."""
ACKS_PENDING_MAX = 1_000
"""Batches of one group under way on all gateways."""
UNUSED_S = 1.0
"""Between two looks at whether anybody uses a group."""
TRANSIENT_S = 60.0
"""A group without members that outlive their connections ends so long after its last pull."""


class ShareConsumer:
    def __init__(self, client: Client, store: ShareStore, sessions: SessionStore, tenant_id: UUID, share: Share) -> None:
        self._jetstream = client.jetstream()
        self._store = store
        self._sessions = sessions
        self._tenant_id = tenant_id
        self._topic_filter = f"$share/{share.name}/{share.topic_filter}"
        self.name = f"share-{tenant_id.hex}-{subjects.share(tenant_id, *share).rpartition('.')[2]}"

    async def open(self, session: bytes, *, is_first: bool) -> None:
        """session: of a member whose session outlives its connection, by the client's key; else b"". is_first: of this
        gateway's. Raises DomainErrors."""
        if is_first:
            await self._store.read()
            if await self._dismiss_the_gone() and not self._store.record.sessions:
                await self._delete_if_unused()  # or what was published for those would be the new one's
        if session:
            await self._store.enlist(session)
        await self._ensure()

    async def leave(self, session: bytes, *, is_used: bool) -> None:
        """A session is no part of it any more. is_used: by others here. Raises DomainErrors."""
        if session in self._store.record.sessions:
            await self._store.dismiss((session,))
            if is_used:
                await self._ensure()

    async def end_if_unused(self) -> None:
        """The last member on any gateway may have left: what is published from now on is for nobody."""
        try:
            await self._store.read()
            await self._dismiss_the_gone()
            if not self._store.record.sessions:
                await self._delete_if_unused()
        except DomainError as error:  # it ends by itself
            log.info("share_not_ended", error=repr(error))

    async def floor(self) -> int:
        """Batches up to this sequence are done with. Raises Unavailable."""
        try:
            info = await self._jetstream.consumer_info(MESSAGE_STREAM, self.name)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable("the shared subscription cannot be looked at now") from error
        return info.ack_floor.stream_seq if info.ack_floor is not None else 0

    async def _ensure(self) -> None:
        config = ConsumerConfig(
            durable_name=self.name,
            filter_subject=subjects.message(self._tenant_id),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            deliver_policy=DeliverPolicy.NEW,
            max_ack_pending=ACKS_PENDING_MAX,
            inactive_threshold=EXPIRY_S_MAX if self._store.record.sessions else TRANSIENT_S,
        )
        try:
            await self._jetstream.add_consumer(MESSAGE_STREAM, config)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable("the shared subscription cannot be made now; try again") from error

    async def _dismiss_the_gone(self) -> bool:
        """Sessions expire, and clean starts discard them, without a word to their groups. True = there were some."""
        sessions = list(self._store.record.sessions)
        waiting = await asyncio.gather(*map(self._waits, sessions))
        gone = [session for session, waits in zip(sessions, waiting, strict=True) if not waits]
        await self._store.dismiss(gone)
        return bool(gone)

    async def _waits(self, session: bytes) -> bool:
        """One that is connected may only just have subscribed."""
        record = (await self._sessions.find_of(self._tenant_id, session)).record
        return record is not None and (
            record.connected or any(each.topic_filter == self._topic_filter for each in record.subscriptions)
        )

    async def _delete_if_unused(self) -> None:
        """A gateway with members has a request or a batch at the consumer, but for the moment between two of them: one look
        does not tell."""
        try:
            first = await self._looked_at()
            await asyncio.sleep(UNUSED_S)
            if first is not None and await self._looked_at() == first:
                await self._jetstream.delete_consumer(MESSAGE_STREAM, self.name)
        except nats.js.errors.NotFoundError:
            return  # another gateway has ended it
        except (nats.errors.Error, TimeoutError, OSError) as error:  # it ends by itself
            log.info("share_not_ended", error=repr(error))

    async def _looked_at(self) -> int | None:
        """How much the group has been given so far; None = somebody is there."""
        info = await self._jetstream.consumer_info(MESSAGE_STREAM, self.name)
        if info.num_waiting or info.num_ack_pending:
            return None
        return info.delivered.consumer_seq if info.delivered is not None else 0

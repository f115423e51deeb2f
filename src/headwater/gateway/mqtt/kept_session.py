"""One session that outlives its connection, while this gateway serves it.

Owns the session's record and when it is written: at once where something must not be said before it is stored, and otherwise
every SNAPSHOT_S, so that after the death of a gateway a client is sent again at QoS 1 what it was sent in that time, and
nothing else. A record that somebody else has written meanwhile ends the connection: the client is theirs now.

A session with no lifetime of its own is kept as well where it has a will, so that the will outlives the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from headwater.device.presence import Ended
from headwater.errors import DomainError
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.delivery import Delivery
from headwater.stream.keyed import Overtaken
from headwater.stream.session_store import SessionRecord, SessionStore, StoredWill

if TYPE_CHECKING:
    from headwater.gateway.mqtt.connection import MQTTConnection

log = structlog.get_logger(__name__)

SNAPSHOT_S = 2.0
"""Ten thousand busy sessions are then some 50 fsyncs a second."""


class KeptSession:
    """Implements delivery.Keeps.

    record    as it was written last, or is about to be
    revision     of what was written last
    received     the client's QoS 2 packet ids between PUBLISH and PUBREL
    published    its own QoS 2 messages up to this sequence of the log are in `received`, or done with
    publishes    packet ids of those that are on their way there
    is_lost      nothing is written any more: it has ended, or another gateway has it
    """

    def __init__(self, store: SessionStore, connection: MQTTConnection, record: SessionRecord, revision: int) -> None:
        self.connection = connection
        self.record = record
        self.revision = revision
        self.delivery: Delivery | None = None
        self.received = set(record.received)
        self.published = record.published
        self.publishes: set[int] = set()
        self.is_dirty = False
        self._receipt = max((record.receipts, *record.receipts_above))
        self._promised: set[int] = set()
        self._receipts_above = set(record.receipts_above)
        self._store = store
        self._staged: list[Callable[[], object]] = []
        self._running: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self.is_lost = False
        self._under_way = 0
        self._nothing_under_way = asyncio.Event()
        self._nothing_under_way.set()

    # -- the client's QoS 2 publishes -----------------------------------------------------------------------------------

    def publishing(self, packet_id: int) -> None:
        """It is on its way to the log: the end of the session waits for it, so that its repetition will be known."""
        self.publishes.add(packet_id)
        self._begin()

    def _begin(self) -> None:
        self._under_way += 1
        self._nothing_under_way.clear()

    def _finish(self, count: int) -> None:
        self._under_way -= count
        if not self._under_way:
            self._nothing_under_way.set()

    def published_at(self, packet_ids: list[int], sequence: int, ended: Collection[int]) -> None:
        """ended: of those that were on their way; packet_ids: of those that are stored"""
        self.received.update(packet_ids)
        self.received.discard(0)  # a will's, which has none
        self.published = max(self.published, sequence)
        self.is_dirty = True
        self.publishes.difference_update(ended)
        self._finish(len(ended))

    def refused(self, packet_ids: list[int]) -> bool:
        """The client may use them for others once it is told [MQTT-4.3.3-9]. True = not before that is stored: they are in
        the log, and the next gateway would take those others for repetitions."""
        was_received = not self.received.isdisjoint(packet_ids)
        self.received.difference_update(packet_ids)
        self.is_dirty = self.is_dirty or was_received
        return was_received

    def released(self, packet_id: int) -> None:
        """PUBREL: PUBCOMP goes once it is stored that the packet id is free, or the next message under it would be lost."""
        self.received.discard(packet_id)
        self.stage(partial(self._complete, packet_id))

    def _complete(self, packet_id: int) -> None:
        if self.connection.alive:
            self.connection.session.complete(packet_id)

    # -- its shares at QoS 2 --------------------------------------------------------------------------------------------

    def number_from(self, newest: int) -> None:
        """A session before this one may have had receipts up to this number."""
        self._receipt = max(self._receipt, newest)

    def promise(self) -> int:
        """The number of a receipt that is about to be written: the end of the session waits for that."""
        self._receipt += 1
        self._promised.add(self._receipt)
        self._begin()
        return self._receipt

    def fulfil(self, number: int) -> None:
        """It is written, and its message among what is pending; or the message is somebody else's."""
        self._promised.discard(number)
        self._receipts_above.add(number)
        self._finish(1)

    def doubt(self, error: DomainError) -> None:
        """It is not known whether it is written: the connection ends, and the next gateway looks."""
        self._finish(1)
        self._close_unstored(error)

    def unpromise(self, number: int) -> None:
        """It is not written: another gateway has taken the session over."""
        self._promised.discard(number)
        self._finish(1)
        self._lose()

    # -- while it is served ---------------------------------------------------------------------------------------------

    def changed(self) -> None:
        self.is_dirty = True

    def stage(self, action: Callable[[], object]) -> None:
        self._staged.append(action)
        if self._running is None:
            self._running = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            while self._staged and not self.is_lost:
                staged, self._staged = self._staged, []
                if not await self.write():
                    return
                for action in staged:
                    action()
                self.connection.flush()
        finally:
            self._running = None

    async def write(self) -> bool:
        """Store what is known now. False = it could not be, and the connection ends."""
        try:
            async with self._writing:
                if self.is_lost or not self.connection.alive:
                    return False
                await self._save()
        except Overtaken:
            self._lose()
            return False
        except DomainError as error:
            self._close_unstored(error)
            return False
        return True

    async def _save(self) -> None:
        self.is_dirty = False
        self._gather()
        self.revision = await self._store.save(self.record, self.revision)

    async def is_ours(self) -> bool:
        """Whether no other gateway has taken it over. Raises DomainErrors."""
        try:
            async with self._writing:
                if self.is_lost:
                    return False
                await self._save()
        except Overtaken:
            self._lose()
            return False
        return True

    @property
    def tenant_id(self) -> UUID:
        return UUID(bytes=self.record.tenant)

    def _lose(self) -> None:
        self.is_lost = True
        if self.connection.alive:
            self.connection.close(reasons.SESSION_TAKEN_OVER, "taken over by a new connection")

    def _close_unstored(self, error: DomainError) -> None:
        log.warning("session_not_stored", client_id=self.record.client_id[:100], error=repr(error))
        if self.connection.alive:
            self.connection.close(reasons.disconnect_of(error), error.detail, Ended.NOT_STORED)

    def _gather(self) -> None:
        record, delivery = self.record, self.delivery
        record.received = sorted(self.received)
        record.published = self.published
        record.receipts = min(self._promised) - 1 if self._promised else self._receipt
        self._receipts_above = {number for number in self._receipts_above if number > record.receipts}
        record.receipts_above = sorted(self._receipts_above)
        if delivery is not None:  # without one it has subscribed to nothing
            record.sequence, record.index = delivery.next_place
            record.pending = list(delivery.pending.values())
            record.subscriptions = [*self.connection.shared.values(), *delivery.subscriptions.values()]

    # -- the end --------------------------------------------------------------------------------------------------------

    async def end(self, will: StoredWill | None, will_at: int) -> bool:
        """The connection is gone: the record says where the next one goes on. False = it is somebody else's already.

        will, will_at  what is still to be published, and when
        """
        await self._nothing_under_way.wait()
        async with self._writing:
            if self.is_lost:
                return False
            record = self.record
            self._gather()
            record.connected, record.will, record.will_at = False, will, will_at
            record.is_behind = bool(self._promised)
            self.is_lost = True  # to this connection
            try:
                if record.expiry_s == 0 and will is None:
                    await self._store.remove(record, self.revision)
                else:
                    self.revision = await self._store.save(record, self.revision)
            except Overtaken:
                return False
            except DomainError as error:  # it stays as it was written last: the next connection goes on from there
                log.warning("session_end_not_stored", client_id=record.client_id[:100], error=repr(error))
        return True

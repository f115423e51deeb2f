"""Shared subscriptions (MQTT 5, section 4.8): a group of clients, on however many gateways, shares the messages of a filter.

A group has one durable consumer of the tenant's log, and each gateway with members pulls batches of it, as many as its
members take: the faster ones get more. A batch is acknowledged when each of its messages is done with; that of a gateway
that died goes to another. What a client is about to be given at QoS 2 is noted first, with the client, so that nobody else
gets it [MQTT-4.8.2-4] [MQTT-4.8.2-5], and its session does (stream/share_store.py). At QoS 0 a queue group of NATS shares
what is published now.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from headwater.errors import DomainError, Unavailable
from headwater.gateway.mqtt.delivery import NOTHING, QUEUE_MAX, Delivery, Waiting
from headwater.gateway.mqtt.messages import deliverable_of
from headwater.gateway.mqtt.sessions import EXPIRY_S_MAX
from headwater.gateway.mqtt.share_consumer import ShareConsumer
from headwater.gateway.mqtt.share_settling import Settling
from headwater.protocols.mqtt.topics import Share
from headwater.protocols.mqtt.topics import match as topic_matches
from headwater.stream import subjects
from headwater.stream.envelope import Message, decode_messages
from headwater.stream.keyed import KeyedStream
from headwater.stream.message_log import Place
from headwater.stream.session_store import SessionStore, StoredSubscription
from headwater.stream.share_store import Noted, Receipt, ShareStore
from headwater.stream.topology import MESSAGE_STREAM, SESSION_STREAM

log = structlog.get_logger(__name__)

ALIVE_S = 10.0
"""How often a batch that is still being worked on says so."""
PULLED_MAX = 8
"""Batches of one group on one gateway at once."""
PULL_S = 5.0
CLOSE_S = 5.0
"""For the marks of a group that closes. What is not marked is known by its receipts."""


class _Pulled:
    """One batch: how many of its messages are not done with.

    is_noted    there are receipts for some of them
    is_settled  nobody needs those once the batch is marked
    """

    def __init__(self, stored: Msg) -> None:
        self.stored = stored
        self.sequence = stored.metadata.sequence.stream
        self.left = 0
        self.is_noted = False
        self.is_settled = True
        self.done = asyncio.Event()

    def finish_one(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.done.set()


class _Given:
    """One message with one member.

    receipt  at QoS 2
    """

    __slots__ = ("delivery", "finished", "index", "is_finished", "message", "pulled", "receipt", "subscription")

    def __init__(self, pulled: _Pulled, index: int, message: Message, ended: Callable[[_Given], None]) -> None:
        self.pulled = pulled
        self.index = index
        self.message = message
        self.delivery: Delivery | None = None
        self.subscription: StoredSubscription | None = None
        self.receipt: Receipt | None = None
        self.is_finished = False
        self.finished: Callable[[], None] = partial(ended, self)

    @property
    def place(self) -> Place:
        return self.pulled.sequence, self.index


class Group:
    """One share, as far as this gateway has members of it."""

    def __init__(
        self, client: Client, shares: KeyedStream, sessions: SessionStore, tenant_id: UUID, share: Share
    ) -> None:  # fmt: skip
        self._nats = client
        self._jetstream = client.jetstream()
        self._tenant_id = tenant_id
        self._share = share
        self._store = ShareStore(shares, subjects.share(tenant_id, *share), EXPIRY_S_MAX)
        self.consumer = ShareConsumer(client, self._store, sessions, tenant_id, share)
        self.members: dict[Delivery, StoredSubscription] = {}
        self._given: dict[Delivery, dict[int, _Given]] = {}
        self._turn = itertools.count()
        self._room = asyncio.Event()
        self._puller: Any = None
        self._pulling: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._open: set[_Pulled] = set()
        self._fleeting: Any = None
        self._handing: set[asyncio.Task[list[_Given]]] = set()
        self._settling = Settling(self._store, self.consumer)
        self._is_closed = False

    # -- members --------------------------------------------------------------------------------------------------------

    async def open(self, session: bytes) -> None:
        """session: see ShareConsumer.open. Raises DomainErrors."""
        await self.consumer.open(session, is_first=self._pulling is None)
        try:
            if self._fleeting is None:
                self._fleeting = await self._nats.subscribe(
                    subjects.out(self._tenant_id), queue=self.consumer.name, cb=self._receive_fleeting
                )
            await self._nats.flush(timeout=5)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable("the shared subscription cannot be made now; try again") from error
        if self._pulling is None:
            self._pulling = asyncio.ensure_future(self._pull())

    def join(self, delivery: Delivery, subscription: StoredSubscription) -> None:
        if delivery.outlives and delivery.kept is not None:
            delivery.kept.number_from(self._store.record.newest_of(delivery.connection.client_key))
        self.members[delivery] = subscription
        self._room.set()

    def leave(self, delivery: Delivery) -> None:
        """What it was not sent goes to others; what it was sent, too, at QoS 1, unless its session has written it down."""
        self.members.pop(delivery, None)
        given = self._given.pop(delivery, {})
        unsent = {id(each.finished) for each in delivery.queue or () if each.finished is not None}
        for each in list(given.values()):
            was_sent = id(each.finished) not in unsent
            subscription = each.subscription
            qos = min(each.message.qos, subscription.qos) if subscription is not None else 0
            if was_sent and (delivery.outlives or qos != 1):
                each.pulled.is_settled = False
                self._end(each)
            else:
                each.delivery = None
                self._give(each)
        if delivery.queue is not None:
            delivery.take_back()

    async def close(self) -> None:
        """The last member has left this gateway."""
        self._is_closed = True
        self._room.set()
        open_now = list(self._open)
        for task in list(self._working):
            task.cancel()
        await asyncio.gather(*self._handing, return_exceptions=True)
        for pulled in open_now:
            with contextlib.suppress(nats.errors.Error):
                await pulled.stored.nak()
        try:
            await self._take_request_back()
            if self._fleeting is not None:
                await self._fleeting.unsubscribe()
            async with asyncio.timeout(CLOSE_S):
                await self._settling.finish()
        except (nats.errors.Error, TimeoutError, OSError, DomainError) as error:  # it ends by itself
            log.info("share_not_closed", error=repr(error))

    async def _take_request_back(self) -> None:
        """Take the request back that lies with the server: else the next message of the group would come here, and to nobody
        before ACK_WAIT_S is over. What is on its way here by now, `_pull` gives back; it ends with its request and is not
        cancelled, because a message that it was just being handed would be lost with it."""
        if self._puller is not None:
            # As `unsubscribe` does, which would drop what is on its way.
            await self._nats._send_unsubscribe(self._puller._sub._id)
            await self._nats.flush(timeout=5)

    # -- at QoS 0 -------------------------------------------------------------------------------------------------------

    async def _receive_fleeting(self, received: Any) -> None:
        if received.headers and "Nats-Sequence" in received.headers:
            return
        touched = set()
        for message in decode_messages(received.data):
            if topic_matches(self._share.topic_filter, message.topic) and self.members:
                delivery = self._next_member()
                delivery.add(self._waiting(self.members[delivery], message, NOTHING, None))
                delivery.pump()
                touched.add(delivery)
        for delivery in touched:
            delivery.connection.flush()

    def _in_turn(self) -> list[Delivery]:
        members = list(self.members)
        start = next(self._turn) % len(members) if members else 0
        return members[start:] + members[:start]

    def _next_member(self) -> Delivery:
        """In turn, and those that keep up first."""
        members = self._in_turn()
        return next((member for member in members if _takes(member)), members[0])

    @staticmethod
    def _waiting(
        subscription: StoredSubscription, message: Message, place: Place, finished: Callable[[], None] | None
    ) -> Waiting:
        qos = min(message.qos, subscription.qos)
        retain = message.retain and subscription.retain_as_published
        identifiers = (subscription.identifier,) if subscription.identifier else ()
        return Waiting(message, None, qos, retain, identifiers, place, finished=finished)

    # -- from the log ---------------------------------------------------------------------------------------------------

    @property
    def _may_pull(self) -> bool:
        return len(self._working) < PULLED_MAX and any(map(_takes, self.members))

    async def _pull(self) -> None:
        await self._pull_while_open()
        if self._puller is None:
            return
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):  # it goes to others when ACK_WAIT_S is over
            await self._take_request_back()
            arrived = self._puller._sub._pending_queue
            while not arrived.empty():
                message = arrived.get_nowait()
                if message.reply.startswith("$JS.ACK."):  # the rest says how requests ended
                    await message.nak()
            await self._puller.unsubscribe()

    async def _pull_while_open(self) -> None:
        while not self._is_closed:
            try:
                if not self._may_pull:
                    self._watch_for_room()
                    await self._room.wait()
                    continue
                if self._puller is None:
                    self._puller = await self._jetstream.pull_subscribe_bind(self.consumer.name, MESSAGE_STREAM)
                for message in await self._puller.fetch(1, timeout=PULL_S):
                    if self._is_closed:
                        await message.nak()
                        continue
                    pulled = _Pulled(message)
                    self._open.add(pulled)
                    task = asyncio.ensure_future(self._work(pulled))
                    self._working.add(task)
                    task.add_done_callback(self._worked)
            except (nats.errors.TimeoutError, TimeoutError):
                continue
            except (nats.errors.Error, OSError, DomainError) as error:
                log.warning("share_not_pulled", error=repr(error))
                self._puller = None
                await asyncio.sleep(1)
                if not self._is_closed:
                    await self._open_again()

    async def _open_again(self) -> None:
        """Whoever was away from NATS for long may find that the group has ended."""
        try:
            await self.open(b"")
        except DomainError as error:
            log.warning("share_not_opened", error=repr(error))

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._room.set()
        if not task.cancelled() and task.exception() is not None:
            log.warning("share_not_worked", error=repr(task.exception()))

    async def _work(self, pulled: _Pulled) -> None:
        """Give its messages to members, and acknowledge it when all of them are done with."""
        try:
            wanted = [
                _Given(pulled, index, message, self._end)
                for index, message in enumerate(decode_messages(pulled.stored.data))
                if topic_matches(self._share.topic_filter, message.topic) and deliverable_of(message) is not None
            ]
            if any(given.message.qos == 2 for given in wanted):
                wanted = await self._without_taken(pulled, wanted)
            pulled.left = len(wanted)
            for given in wanted:
                if given.message.qos != 2:
                    self._give(given)
            self._flush()
            await self._give_once(pulled, [given for given in wanted if given.message.qos == 2])
            while pulled.left > 0:
                await self._wait(pulled, pulled.done)
            await self._acknowledge(pulled)
        finally:
            self._open.discard(pulled)

    async def _without_taken(self, pulled: _Pulled, wanted: list[_Given]) -> list[_Given]:
        """Whether it says so or not, a batch may have been with another gateway before."""
        taken = await self._store.taken(pulled.sequence)
        if taken is None:
            return []
        if taken:  # by members whose gateway may be dead: they learn of it from the receipts
            pulled.is_noted, pulled.is_settled = True, False
        return [given for given in wanted if given.index not in taken]

    async def _acknowledge(self, pulled: _Pulled) -> None:
        if not pulled.is_noted:
            await pulled.stored.ack()
            return
        await pulled.stored.ack_sync(timeout=ALIVE_S)
        self._settling.add(pulled.sequence, needs_receipts=not pulled.is_settled)

    async def _wait(self, pulled: _Pulled, event: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(ALIVE_S):
                await event.wait()
        except TimeoutError:
            await pulled.stored.in_progress()

    async def _give_once(self, pulled: _Pulled, wanted: list[_Given]) -> None:
        """What is published at QoS 2: only what members can be sent at once, and noted before that. Were it noted
        afterwards, two clients could have it."""
        while wanted:
            promised = self._promise(wanted)
            if not promised:
                self._watch_for_room()
                await self._wait(pulled, self._room)
                continue
            wanted = wanted[len(promised) :]
            handing = asyncio.ensure_future(self._hand_over(pulled, promised))
            self._handing.add(handing)
            handing.add_done_callback(self._handing.discard)
            wanted = [*await asyncio.shield(handing), *wanted]  # once begun it is finished, whether the group closes or not

    def _promise(self, wanted: list[_Given]) -> list[_Given]:
        """Find a member for each, as far as there is room."""
        promised = []
        for given in wanted:
            delivery = self._next_with_room()
            if delivery is None:
                break
            given.delivery, given.subscription = delivery, self.members[delivery]
            delivery.promised += 1
            if given.subscription.qos == 2:
                given.receipt = Receipt(number=secrets.randbits(62))
                if delivery.outlives and delivery.kept is not None:
                    given.receipt = Receipt(delivery.connection.client_key, delivery.kept.promise())
            promised.append(given)
        return promised

    async def _hand_over(self, pulled: _Pulled, promised: list[_Given]) -> list[_Given]:
        """Returns what has to be promised to others."""
        receipts = {given.index: given.receipt for given in promised if given.receipt is not None}
        refused: list[_Given] = []
        if receipts:
            noted = await self._note(pulled, promised, receipts)
            for given in [each for each in promised if each.index in receipts and each.index not in noted.ours]:
                promised.remove(given)
                if given.index in noted.refused:
                    self._refuse(given)
                    refused.append(given)
                else:
                    self._leave_to_another(given)
        unwanted = [given.index for given in promised if not self._hand(given)]
        if unwanted:
            await self._store.take_back(pulled.sequence, unwanted)
        self._flush()
        return refused

    async def _note(self, pulled: _Pulled, promised: list[_Given], receipts: dict[int, Receipt]) -> Noted:
        settled, self._settling.forgettable = self._settling.forgettable, []
        pulled.is_noted = True
        try:
            return await self._store.note(pulled.sequence, receipts, settled)
        except DomainError as error:
            self._settling.forgettable += settled
            for given in promised:
                self._doubt(given, error)
            raise

    def _doubt(self, given: _Given, error: DomainError) -> None:
        assert given.delivery is not None
        given.delivery.promised -= 1
        if given.receipt is not None and given.receipt.client and given.delivery.kept is not None:
            given.delivery.kept.doubt(error)

    def _refuse(self, given: _Given) -> None:
        """This gateway was taken for dead, and another one has the member."""
        assert given.delivery is not None
        assert given.delivery.kept is not None
        assert given.receipt is not None
        given.delivery.promised -= 1
        given.delivery.kept.unpromise(given.receipt.number)
        given.receipt = None

    def _leave_to_another(self, given: _Given) -> None:
        """Another gateway has the same batch, and noted this one first."""
        assert given.delivery is not None
        given.delivery.promised -= 1
        if given.receipt is not None and given.receipt.client and given.delivery.kept is not None:
            given.delivery.kept.fulfil(given.receipt.number)
        given.pulled.is_settled = False
        self._end(given)

    def _hand(self, given: _Given) -> bool:
        """To the member that it was promised to, or to another one where that has left and has no session that could have
        it. False = there is nobody."""
        delivery, subscription = given.delivery, given.subscription
        assert delivery is not None
        assert subscription is not None
        delivery.promised -= 1
        if given.receipt is not None and given.receipt.client and delivery.kept is not None:
            delivery.give(self._waiting(subscription, given.message, given.place, given.finished))
            delivery.kept.fulfil(given.receipt.number)
            if delivery in self.members:
                self._given.setdefault(delivery, {})[id(given)] = given
            else:
                given.pulled.is_settled = False
                self._end(given)
        elif delivery in self.members:
            self._give_to(given, delivery)
        else:
            self._give(given)
        return given.is_finished or bool(self.members)

    def _watch_for_room(self) -> None:
        """A member has room again also when messages of its own are done with, which the group does not see."""
        self._room.clear()
        for member in self.members:
            member.await_room(self._room)

    def _next_with_room(self) -> Delivery | None:
        return next((member for member in self._in_turn() if _room_of(member) > 0), None)

    def _flush(self) -> None:
        for delivery in self.members:
            delivery.connection.flush()

    def _give(self, given: _Given) -> None:
        if self.members:  # else it goes to another gateway after ack_wait, or waits for the next member
            self._give_to(given, self._next_member())

    def _give_to(self, given: _Given, delivery: Delivery) -> None:
        subscription = self.members[delivery]
        given.delivery, given.subscription = delivery, subscription
        self._given.setdefault(delivery, {})[id(given)] = given
        delivery.add(self._waiting(subscription, given.message, given.place, given.finished))
        delivery.pump()

    def _end(self, given: _Given) -> None:
        if given.is_finished:
            return
        given.is_finished = True
        if given.delivery is not None:
            self._given.get(given.delivery, {}).pop(id(given), None)
        given.pulled.finish_one()
        self._room.set()


def _takes(delivery: Delivery) -> bool:
    return delivery.connection.alive and len(delivery.queue or ()) < QUEUE_MAX // 2


def _room_of(delivery: Delivery) -> int:
    """Messages that it can be sent at once."""
    if not delivery.connection.alive or delivery.queue is not None:
        return 0
    return delivery.window


class SharedSubscriptions:
    """Every group that has members here."""

    def __init__(self, client: Client) -> None:
        self._nats = client
        self._shares = KeyedStream(client, SESSION_STREAM)
        self._sessions = SessionStore(client)
        self._groups: dict[tuple[UUID, Share], Group] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def join(self, tenant_id: UUID, share: Share, delivery: Delivery, subscription: StoredSubscription) -> None:
        """Returns when nothing that is published from now on passes the group by. Raises DomainErrors."""
        while True:
            group = self._groups.get((tenant_id, share))
            if group is None:
                group = Group(self._nats, self._shares, self._sessions, tenant_id, share)
                self._groups[tenant_id, share] = group
            await group.open(delivery.connection.client_key if delivery.outlives else b"")
            if self._groups.get((tenant_id, share)) is group:  # the last member may have left meanwhile
                group.join(delivery, subscription)
                return

    async def leave(self, tenant_id: UUID, share: Share, delivery: Delivery, *, for_ever: bool) -> None:
        """for_ever  its session is no part of the group any more"""
        group = self._groups.get((tenant_id, share))
        if group is None:
            return
        group.leave(delivery)
        if for_ever:
            try:
                await group.consumer.leave(delivery.connection.client_key, is_used=bool(group.members))
            except DomainError as error:  # the next one that looks finds it gone
                log.info("share_not_left", error=repr(error))
        if not group.members and self._groups.get((tenant_id, share)) is group:
            del self._groups[tenant_id, share]
            await group.close()
            ending = asyncio.ensure_future(group.consumer.end_if_unused())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

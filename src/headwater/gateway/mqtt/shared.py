"""Shared subscriptions (MQTT 5, section 4.8): a group of clients, on however many gateways, shares the messages of a filter.

A group has one durable consumer of the tenant's log, and each gateway with members pulls batches of it, as many as its
members take: the faster ones get more. A batch is acknowledged when each of its messages is done with; that of a gateway
that died goes to another. What was given to a client at QoS 2 is noted first, so that it is given to nobody else
[MQTT-4.8.2-4] [MQTT-4.8.2-5]. At QoS 0 a queue group of NATS shares what is published now.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from headwater.errors import DomainError, Unavailable
from headwater.gateway.mqtt.delivery import NOTHING, QUEUE_MAX, Delivery, Waiting
from headwater.gateway.mqtt.messages import deliverable_of
from headwater.protocols.mqtt.topics import Share
from headwater.protocols.mqtt.topics import match as topic_matches
from headwater.stream import subjects
from headwater.stream.envelope import Message, decode_messages
from headwater.stream.keyed import KeyedStream, Overtaken
from headwater.stream.session_store import StoredSubscription
from headwater.stream.topology import DAY_S, MESSAGE_DAYS, MESSAGE_STREAM, SESSION_STREAM

log = structlog.get_logger(__name__)

ACK_WAIT_S = 30.0
"""How long a batch of a dead gateway stays with it."""
ALIVE_S = 10.0
"""How often a batch that is still being worked on says so."""
PULLED_MAX = 8
"""Batches of one group on one gateway at once."""
PULL_S = 5.0
ACKS_PENDING_MAX = 1_000
"""Batches of one group under way on all gateways."""
UNUSED_S = 1.0
"""Between two looks at whether anybody uses a group."""
TRANSIENT_S = 60.0
"""A group without members that outlive their connections ends so long after its last pull."""


class _Pulled:
    """One batch: how many of its messages are not done with."""

    def __init__(self, stored: Msg) -> None:
        self.stored = stored
        self.sequence = stored.metadata.sequence.stream
        self.left = 0
        self.done = asyncio.Event()

    def finish_one(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.done.set()


class _Given:
    """One message with one member."""

    __slots__ = ("delivery", "finished", "index", "is_finished", "message", "pulled", "subscription")

    def __init__(self, pulled: _Pulled, index: int, message: Message, ended: Callable[[_Given], None]) -> None:
        self.pulled = pulled
        self.index = index
        self.message = message
        self.delivery: Delivery | None = None
        self.subscription: StoredSubscription | None = None
        self.is_finished = False
        self.finished: Callable[[], None] = partial(ended, self)


class Group:
    """One share, as far as this gateway has members of it."""

    def __init__(self, client: Client, progress: KeyedStream, tenant_id: UUID, share: Share) -> None:
        self._nats = client
        self._jetstream = client.jetstream()
        self._progress = progress
        self._tenant_id = tenant_id
        self._share = share
        self._subject = subjects.share(tenant_id, share.name, share.topic_filter)
        self.name = f"share-{tenant_id.hex}-{self._subject.rpartition('.')[2]}"
        self.members: dict[Delivery, StoredSubscription] = {}
        self._given: dict[Delivery, dict[int, _Given]] = {}
        self._turn = itertools.count()
        self._room = asyncio.Event()
        self._puller: Any = None
        self._pulling: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._open: set[_Pulled] = set()
        self._fleeting: Any = None
        self._taken: dict[int, list[int]] = {}
        """QoS 2 messages that were given to somebody: sequence -> indices"""
        self._outlives = False
        self._is_closed = False

    # -- members --------------------------------------------------------------------------------------------------------

    async def open(self, outlives: bool) -> None:
        """outlives: a member's session does its connection. Raises Unavailable."""
        self._outlives = self._outlives or outlives
        config = ConsumerConfig(
            durable_name=self.name,
            filter_subject=subjects.message(self._tenant_id),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            deliver_policy=DeliverPolicy.NEW,
            max_ack_pending=ACKS_PENDING_MAX,
            inactive_threshold=MESSAGE_DAYS * DAY_S if self._outlives else TRANSIENT_S,
        )
        try:
            await self._jetstream.add_consumer(MESSAGE_STREAM, config)
            if self._fleeting is None:
                self._fleeting = await self._nats.subscribe(
                    subjects.out(self._tenant_id), queue=self.name, cb=self._receive_fleeting
                )
            await self._nats.flush(timeout=5)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable("the shared subscription cannot be made now; try again") from error
        if self._pulling is None:
            self._pulling = asyncio.ensure_future(self._pull())

    def join(self, delivery: Delivery, subscription: StoredSubscription) -> None:
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
            if was_sent and (delivery.kept is not None or qos != 1):
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
        for task in list(self._working):
            task.cancel()
        for pulled in list(self._open):
            with contextlib.suppress(nats.errors.Error):
                await pulled.stored.nak()
        try:
            await self._take_request_back()
            if self._fleeting is not None:
                await self._fleeting.unsubscribe()
        except (nats.errors.Error, TimeoutError, OSError) as error:  # it ends by itself
            log.info("share_not_closed", error=repr(error))

    async def end_if_unused(self) -> None:
        """The last member on any gateway may have left: what is published from now on is for nobody. A gateway with members
        has a request or a batch at the consumer, but for the moment between two of them: one look does not tell."""
        if self._outlives:
            return
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
                self._send_to(delivery, self.members[delivery], message, NOTHING, None)
                touched.add(delivery)
        for delivery in touched:
            delivery.connection.flush()

    def _next_member(self) -> Delivery:
        """In turn, and those that keep up first."""
        members = list(self.members)
        start = next(self._turn)
        turns = (members[(start + i) % len(members)] for i in range(len(members)))
        return next((m for m in turns if _takes(m)), members[start % len(members)])

    @staticmethod
    def _send_to(
        delivery: Delivery, subscription: StoredSubscription, message: Message, place: tuple[int, int],
        finished: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        qos = min(message.qos, subscription.qos)
        retain = message.retain and subscription.retain_as_published
        identifiers = (subscription.identifier,) if subscription.identifier else ()
        delivery.add(Waiting(message, None, qos, retain, identifiers, place, finished=finished))
        delivery.pump()

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
                    self._room.clear()
                    await self._room.wait()
                    continue
                if self._puller is None:
                    self._puller = await self._jetstream.pull_subscribe_bind(self.name, MESSAGE_STREAM)
                    self._taken = (await self._noted())[1]
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
            await self.open(self._outlives)
        except DomainError as error:
            log.warning("share_not_opened", error=repr(error))

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._room.set()
        if not task.cancelled() and task.exception() is not None:
            log.warning("share_not_worked", error=repr(task.exception()))

    async def _work(self, pulled: _Pulled) -> None:
        """Give its messages to members, and acknowledge it when all of them are done with."""
        taken = set(self._taken.get(pulled.sequence, ()))
        if pulled.stored.metadata.num_delivered > 1:  # what another gateway noted is not in our memory
            taken |= set((await self._noted())[1].get(pulled.sequence, ()))
        wanted = [
            _Given(pulled, index, message, self._end)
            for index, message in enumerate(decode_messages(pulled.stored.data))
            if topic_matches(self._share.topic_filter, message.topic)
            and index not in taken
            and deliverable_of(message) is not None
        ]
        pulled.left = len(wanted)
        for given in wanted:
            if given.message.qos != 2:
                self._give(given)
        self._flush()
        await self._give_once(pulled, [given for given in wanted if given.message.qos == 2], taken)
        while pulled.left > 0:
            await self._wait(pulled, pulled.done)
        await pulled.stored.ack()
        self._open.discard(pulled)
        self._taken.pop(pulled.sequence, None)

    async def _wait(self, pulled: _Pulled, event: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(ALIVE_S):
                await event.wait()
        except TimeoutError:
            await pulled.stored.in_progress()

    async def _give_once(self, pulled: _Pulled, wanted: list[_Given], taken: set[int]) -> None:
        """At QoS 2: only what members can be sent at once, and noted before that. A gateway that dies in between has given
        them to nobody; were they noted afterwards, two clients could have them."""
        while wanted:
            room = sum(_room_of(delivery) for delivery in self.members)
            if not room:
                self._room.clear()
                await self._wait(pulled, self._room)
                continue
            now, wanted = wanted[:room], wanted[room:]
            taken |= {given.index for given in now}
            await self._note(pulled.sequence, sorted(taken))
            for given in now:
                self._give(given)
            self._flush()

    def _flush(self) -> None:
        for delivery in self.members:
            delivery.connection.flush()

    async def _noted(self) -> tuple[int, dict[int, list[int]]]:
        """What all gateways noted, and its revision."""
        stored = await self._progress.find(self._subject)
        if stored is None or not stored.data:
            return stored.sequence if stored else 0, {}
        return stored.sequence, msgspec.msgpack.decode(stored.data, type=dict[int, list[int]])

    async def _note(self, sequence: int, indices: list[int]) -> None:
        """Beside what other gateways of the group note, of other batches."""
        self._taken[sequence] = indices
        while True:
            revision, noted = await self._noted()
            noted[sequence] = indices
            newest = dict(sorted(noted.items())[-ACKS_PENDING_MAX:])
            try:
                await self._progress.put(
                    self._subject, msgspec.msgpack.encode(newest), expected=revision, ttl_s=MESSAGE_DAYS * 86_400
                )
            except Overtaken:
                continue
            return

    def _give(self, given: _Given) -> None:
        if not self.members:
            # Nobody is here any more: after ack_wait the batch goes to another gateway, or waits for the next member.
            return
        delivery = self._next_member()
        subscription = self.members[delivery]
        given.delivery, given.subscription = delivery, subscription
        self._given.setdefault(delivery, {})[id(given)] = given
        self._send_to(delivery, subscription, given.message, (given.pulled.sequence, given.index), given.finished)

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
        self._progress = KeyedStream(client, SESSION_STREAM)
        self._groups: dict[tuple[UUID, Share], Group] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def join(self, tenant_id: UUID, share: Share, delivery: Delivery, subscription: StoredSubscription) -> None:
        """Returns when nothing that is published from now on passes the group by. Raises Unavailable."""
        while True:
            group = self._groups.get((tenant_id, share))
            if group is None:
                group = self._groups[tenant_id, share] = Group(self._nats, self._progress, tenant_id, share)
            await group.open(delivery.kept is not None)
            if self._groups.get((tenant_id, share)) is group:  # the last member may have left meanwhile
                group.join(delivery, subscription)
                return

    async def leave(self, tenant_id: UUID, share: Share, delivery: Delivery) -> None:
        group = self._groups.get((tenant_id, share))
        if group is None:
            return
        group.leave(delivery)
        if not group.members:
            del self._groups[tenant_id, share]
            await group.close()
            ending = asyncio.ensure_future(group.end_if_unused())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

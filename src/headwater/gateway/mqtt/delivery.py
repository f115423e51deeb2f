"""One client's messages on their way to it.

Owns what waits for the client: at QoS 1 and 2 up to QUEUE_MAX messages stand here, and the log has the rest. A client that
does not keep up falls behind in the log and reads on from its own place, at its own pace, so a slow one costs no memory and
misses nothing. At QoS 0 it is sent what it can take at that moment.

For a session that outlives its connection (`kept`), `pending` says what the client has not finished with, and nothing at
QoS 2 is sent before that is stored: a PUBLISH not before its packet id, a PUBREL not before the PUBREC that it answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from headwater.errors import DomainError
from headwater.gateway.mqtt.messages import deliverable_of
from headwater.gateway.mqtt.targets import Target
from headwater.protocols.mqtt.deliverable import Deliverable
from headwater.protocols.mqtt.errors import PacketTooLarge, WouldBlock
from headwater.protocols.mqtt.session import CONNECTED
from headwater.stream.envelope import Message
from headwater.stream.message_log import Place
from headwater.stream.session_store import Pending, StoredSubscription

if TYPE_CHECKING:
    from headwater.gateway.mqtt.connection import MQTTConnection
    from headwater.gateway.mqtt.space import Space

log = structlog.get_logger(__name__)

QUEUE_MAX = 4_000
"""Messages that wait here for one client; beyond it they stay in the log."""
QUEUE_BYTES_MAX = 1 << 20
"""The same of their payloads."""
READ_BATCHES = 32
"""Of the log in one question."""
READ_AGAIN_S = 0.5
WRITE_BUFFER_BYTES_MAX = 256 * 1024
"""A client that does not read what it is sent gets nothing more."""
NOTHING: Place = (0, 0)

Finished = Callable[[], None]


class Waiting(NamedTuple):
    """place: in the log; NOTHING = it is not from there. topic: of a retained message. packet_id: it was sent before."""

    message: Message
    deliverable: Deliverable | None
    """made when it is sent, where it was not made before or its lifetime is running"""
    qos: int
    retain: bool
    identifiers: tuple[int, ...]
    place: Place = NOTHING
    packet_id: int = 0
    topic: str = ""
    finished: Finished | None = None

    @property
    def is_next(self) -> bool:
        """From the client's own subscriptions, and not sent before."""
        return self.place is not NOTHING and not self.packet_id and self.finished is None


class Keeps(Protocol):
    """What a delivery needs of the session that outlives it; see gateway/mqtt/kept_session.py."""

    def stage(self, action: Callable[[], object]) -> None:
        """Do it once all that is known now is stored."""

    def changed(self) -> None:
        """Store it in time."""

    def number_from(self, newest: int) -> None:
        """Receipts have numbers above this one from now on."""

    def promise(self) -> int:
        """The number of a receipt that is about to be written."""

    def fulfil(self, number: int) -> None:
        """It is written, and its message is pending."""

    def doubt(self, error: DomainError) -> None:
        """Nobody knows whether it is written."""

    def unpromise(self, number: int) -> None:
        """It is not written: the session is with another gateway now."""


class Delivery:
    """subscriptions  filter -> subscription; shared ones are in gateway/mqtt/shared.py
    place             where to read on, while `lagging`
    dropped           messages at QoS 0 that it could not take
    promised          shares at QoS 2 for which there must be room
    """

    __slots__ = (
        "_finished", "_for_room", "_held", "_packet_id", "_queue_bytes", "_reading", "_skip", "connection", "dropped",
        "kept", "lagging", "pending", "place", "promised", "queue", "space", "subscriptions",
    )  # fmt: skip

    def __init__(self, connection: MQTTConnection, space: Space, kept: Keeps | None) -> None:
        self.connection = connection
        self.space = space
        self.kept = kept
        self.subscriptions: dict[str, StoredSubscription] = {}
        self.queue: deque[Waiting] | None = None
        self.pending: dict[int, Pending] = {}
        self.lagging = False
        self.place = NOTHING
        self.dropped = 0
        self.promised = 0
        self._held = 0
        self._skip = NOTHING
        self._packet_id = 0
        self._queue_bytes = 0
        self._reading: asyncio.Task[None] | None = None
        self._finished: dict[int, Finished] | None = None
        self._for_room: set[asyncio.Event] | None = None

    # -- live -----------------------------------------------------------------------------------------------------------

    def offer(self, deliverable: Deliverable, message: Message, target: Target, sequence: int, index: int) -> None:
        """From the log, or at QoS 0 from nowhere (sequence 0): the hot path of every message. The caller flushes."""
        connection = self.connection
        if message.sender == connection.client_key:
            own = target.own
            if own is None:
                return
            target = own
        qos = target.qos if target.qos < message.qos else message.qos
        retain = message.retain and target.retain_as_published
        if not qos:
            self._send_now(deliverable, retain, target.identifiers)
            return
        if self.lagging:
            return
        if self._skip is not NOTHING:
            if (sequence, index) < self._skip:
                return
            self._skip = NOTHING
        if self.queue is None and self.kept is None:
            try:
                connection.session.deliver(deliverable, qos, retain=retain, identifiers=target.identifiers)
            except WouldBlock:
                self.queue = deque()
            except PacketTooLarge:  # section 3.1.2.11.4: dropped as if it had been sent
                return
            else:
                return
        made = None if message.properties is not None else deliverable
        self._wait(Waiting(message, made, qos, retain, target.identifiers, (sequence, index)))
        if self.kept is not None:
            self.pump()

    def offer_alone(self, message: Message, target: Target, topic_wire: bytes, sequence: int, index: int) -> None:
        """As `offer`, of a message without properties that goes to no other client: most messages are like that."""
        if self.queue is None and self.kept is None and not self.lagging and not target.identifiers:
            connection = self.connection
            qos = target.qos if target.qos < message.qos else message.qos
            if self._skip is NOTHING and message.sender != connection.client_key and (qos or connection.has_room):
                retain = message.retain and target.retain_as_published
                if connection.session.deliver_alone(topic_wire, message.payload, qos, retain=retain):
                    return
        self.offer(Deliverable(message.topic, message.payload, None, topic_wire), message, target, sequence, index)

    def _send_now(self, deliverable: Deliverable, retain: bool, identifiers: tuple[int, ...]) -> None:
        """At QoS 0."""
        session = self.connection.session
        if not self.connection.has_room or session.phase is not CONNECTED:  # a session that resumes has no CONNACK yet
            self.dropped += 1
            return
        try:
            session.deliver(deliverable, 0, retain=retain, identifiers=identifiers)
        except PacketTooLarge:
            self.dropped += 1

    def _wait(self, waiting: Waiting) -> None:
        if self._is_full:
            self.lagging = True
            self.place = waiting.place
            return
        self.add(waiting)

    # -- what is not live -----------------------------------------------------------------------------------------------

    def add(self, waiting: Waiting) -> None:
        """Something that is not in the log's order: a retained message, a share of a shared subscription."""
        if self.queue is None:
            self.queue = deque()
        self.queue.append(waiting)
        self._queue_bytes += len(waiting.message.payload)

    def take_back(self) -> None:
        """Shares that were not sent."""
        if self.queue is not None:
            self.queue = deque(each for each in self.queue if each.finished is None)
            self._queue_bytes = sum(len(each.message.payload) for each in self.queue)

    def hold(self) -> None:
        """Nothing is sent until as many `release` calls: something has to go first."""
        self._held += 1
        if self.queue is None:
            self.queue = deque()

    def release(self, first: list[Waiting]) -> None:
        """These go first. What came meanwhile and is among them as well goes once, as what came."""
        self._held -= 1
        assert self.queue is not None
        known = {(each.message.topic, each.message.payload) for each in self.queue if each.message.retain} if first else ()
        for each in reversed(first):
            if (each.message.topic, each.message.payload) not in known:
                self.queue.appendleft(each)
                self._queue_bytes += len(each.message.payload)
        self.pump()

    def begin_again(self, pending: list[Pending], place: Place) -> None:
        """An earlier connection's: nothing is sent until `resume`, and nothing is forgotten should that not come."""
        self.hold()
        self.lagging = True
        self.place = place
        self.pending = {each.packet_id: each for each in pending}

    def resume(self, messages: Mapping[int, Message]) -> None:
        """What the client was sent and did not finish with goes again first, then the log. The caller flushes.

        messages  by packet id; what the log does not keep any more is absent
        """
        sent: list[Waiting] = []
        for each in list(self.pending.values()):
            message = messages.get(each.packet_id)
            if each.released:
                self.connection.session.release(each.packet_id)
            elif message is None:
                self._give_up(each)
            else:
                place_of = (each.sequence, each.index)
                sent.append(Waiting(message, None, each.qos, each.retain, each.identifiers, place_of, each.packet_id))
        self.release(sent)

    def begin_anew(self, place: Place) -> None:
        """The log is another one."""
        self._skip = NOTHING
        if self.lagging:
            self.place = place

    def stop(self) -> None:
        """The connection has ended: what comes from now on is the next one's."""
        self.place, self.lagging = self.next_place, True
        if self._reading is not None:
            self._reading.cancel()

    # -- sending --------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Send what waits, as far as the client takes it. The caller flushes."""
        queue = self.queue
        if queue is None:
            return
        self._send_waiting(queue)
        if self.lagging:
            if len(queue) < QUEUE_MAX // 2 and self._queue_bytes < QUEUE_BYTES_MAX // 2 and self._reading is None:
                self._reading = asyncio.ensure_future(self._read_on())
        elif not queue and not self._held:
            self.queue = None
            if self._for_room is not None:
                self._tell_of_room(self._for_room)

    def _send_waiting(self, queue: deque[Waiting]) -> None:
        while queue and not self._held and self.connection.has_room and self._send(queue[0]):
            self._queue_bytes -= len(queue.popleft().message.payload)

    def _send(self, waiting: Waiting) -> bool:
        """False = it has to wait for an acknowledgement."""
        if waiting.packet_id:
            return self._send_again(waiting)
        if self.kept is None or waiting.qos == 0:
            return self._send_first(waiting, None)
        if self.window <= 0:
            return False
        self.give(waiting)
        return True

    def give(self, waiting: Waiting) -> None:
        """From now on it is the kept session's, and sent when that is stored, or what is kept says so anyway."""
        assert self.kept is not None
        pending = Pending(
            self._next_packet_id(), waiting.qos, *waiting.place, waiting.retain, waiting.identifiers, topic=waiting.topic
        )  # fmt: skip
        self.pending[pending.packet_id] = pending
        if waiting.qos == 2:
            self.kept.stage(partial(self._send_first, waiting, pending))
        else:
            self._send_first(waiting, pending)
            self.kept.changed()

    @property
    def window(self) -> int:
        """How many more may be sent before the client acknowledges one. [MQTT-3.3.4-9]"""
        if self.kept is None:
            return self.connection.session.send_window - self.promised
        return self.connection.send_maximum - len(self.pending) - self.promised

    @property
    def outlives(self) -> bool:
        """Its session does not end with the connection."""
        return self.kept is not None and self.connection.session.session_expiry_s > 0

    def _send_first(self, waiting: Waiting, pending: Pending | None) -> bool:
        deliverable = waiting.deliverable or deliverable_of(waiting.message)
        session = self.connection.session
        packet_id = 0
        if deliverable is not None and self.connection.alive:
            try:
                packet_id = session.deliver(
                    deliverable, waiting.qos, retain=waiting.retain, identifiers=waiting.identifiers,
                    packet_id=pending.packet_id if pending is not None else None,
                )  # fmt: skip
            except WouldBlock:
                return False
            except PacketTooLarge:  # section 3.1.2.11.4: dropped as if it had been sent
                packet_id = 0
        elif deliverable is not None:
            return True  # the connection has ended: what is kept says that it was sent, and it is sent again
        if waiting.qos and not packet_id:
            self._drop(waiting, pending)
        elif waiting.finished is not None:
            self._note(packet_id, waiting.finished)
        return True

    def _drop(self, waiting: Waiting, pending: Pending | None) -> None:
        """Expired, or too large for the client."""
        if pending is not None:
            self.pending.pop(pending.packet_id, None)
        if waiting.finished is not None:
            waiting.finished()

    def _note(self, packet_id: int, finished: Finished) -> None:
        if not packet_id:
            finished()
            return
        if self._finished is None:
            self._finished = {}
            self.connection.session.tells_each = True
        self._finished[packet_id] = finished

    def _send_again(self, waiting: Waiting) -> bool:
        """With its old packet id, and DUP. [MQTT-4.4.0-1]"""
        deliverable = deliverable_of(waiting.message)
        pending = self.pending[waiting.packet_id]
        if deliverable is None and waiting.qos == 1:
            del self.pending[waiting.packet_id]
            return True
        try:
            self.connection.session.deliver(
                deliverable or Deliverable(waiting.message.topic, waiting.message.payload, None),
                waiting.qos, retain=waiting.retain, identifiers=waiting.identifiers, packet_id=pending.packet_id, dup=True,
            )  # fmt: skip
        except WouldBlock:
            return False
        except PacketTooLarge:
            self._give_up(pending)
        return True

    def _give_up(self, pending: Pending) -> None:
        """What cannot be sent again. At QoS 2 the client may have it and wait for its PUBREL: under that packet id it would
        take the next message for a repetition."""
        if pending.qos == 2:
            pending.released = True
            self.connection.session.release(pending.packet_id)
        else:
            del self.pending[pending.packet_id]

    def _next_packet_id(self) -> int:
        packet_id = self._packet_id % 0xFFFF + 1
        while packet_id in self.pending:
            packet_id = packet_id % 0xFFFF + 1
        self._packet_id = packet_id
        return packet_id

    # -- acknowledgements -----------------------------------------------------------------------------------------------

    def finished(self, packet_id: int) -> None:
        """PUBACK, PUBCOMP, or a PUBREC that refuses. The caller pumps when it has said all."""
        if self.kept is not None and self.pending.pop(packet_id, None) is not None:
            self.kept.changed()
        if self._finished is not None:
            finished = self._finished.pop(packet_id, None)
            if finished is not None:
                finished()
        if self._for_room is not None and self.queue is None:
            self._tell_of_room(self._for_room)

    def await_room(self, event: asyncio.Event) -> None:
        """Set it, once, when nothing waits here and the client can be sent more."""
        if self._for_room is None:
            self._for_room = set()
        self._for_room.add(event)

    def _tell_of_room(self, events: set[asyncio.Event]) -> None:
        self._for_room = None
        for event in events:
            event.set()

    def received(self, packet_id: int) -> None:
        """PUBREC of a kept session: PUBREL goes once that is stored."""
        pending = self.pending.get(packet_id)
        if pending is None or self.kept is None:
            return
        pending.released = True
        self.kept.stage(partial(self._release, packet_id))

    def _release(self, packet_id: int) -> None:
        if self.connection.alive:
            self.connection.session.release(packet_id)

    # -- behind ---------------------------------------------------------------------------------------------------------

    async def _read_on(self) -> None:
        """From the log, until the queue is full or there is nothing that the live messages would not bring."""
        try:
            while self.connection.alive and self.lagging and self.queue is not None and not self._is_full:
                handed_out = self.space.place  # what comes while the log is asked may be in neither of its answers
                try:
                    batches = await self.space.log.read(
                        self.space.tenant_id, self.place[0], READ_BATCHES, known=handed_out[0] - 1
                    )
                except DomainError as error:
                    log.warning("log_not_read", error=repr(error))
                    await asyncio.sleep(READ_AGAIN_S)
                    continue
                if not self.connection.alive:  # and this is cancelled, which wait_for forgets when the answer comes as well
                    break
                for batch in batches:
                    if not self._take(batch.sequence, batch.messages):
                        break
                if not batches and self.place < handed_out:
                    self.place = handed_out  # the log does not keep so much
                if self.place >= self.space.place and not self._is_full:
                    self.lagging = False
                    self._skip = self.place
        finally:
            self._reading = None
        if self.connection.alive:
            self.pump()
            self.connection.flush()

    @property
    def _is_full(self) -> bool:
        return self.queue is not None and (len(self.queue) >= QUEUE_MAX or self._queue_bytes >= QUEUE_BYTES_MAX)

    def _take(self, sequence: int, messages: list[Message]) -> bool:
        """What is this client's of a batch. False = the queue is full."""
        for index, message in enumerate(messages):
            if (sequence, index) < self.place:
                continue
            target = self.space.subscribers.of(message.topic).by_delivery.get(self)
            if target is not None and message.sender == self.connection.client_key:
                target = target.own
            if target is None or sequence <= target.since or not (qos := min(message.qos, target.qos)):
                continue
            if self._is_full:
                self.place = (sequence, index)
                return False
            retain = message.retain and target.retain_as_published
            self.add(Waiting(message, None, qos, retain, target.identifiers, (sequence, index)))
            if self.queue is not None:
                self._send_waiting(self.queue)
        self.place = (sequence + 1, 0)
        return True

    @property
    def next_place(self) -> Place:
        """Everything in the log before it has been sent, or is in `pending`."""
        place = self.place if self.lagging else max(self.space.place, self._skip)
        waiting = next((each.place for each in self.queue or () if each.is_next), None)
        return place if waiting is None else min(place, waiting)

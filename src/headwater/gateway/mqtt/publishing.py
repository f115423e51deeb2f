"""What one client publishes, from its packets to the batches, and from what became of those to its receipts.

The path of a PUBLISH is flat on purpose: look up the route, normalise, append to the open batch. Nothing in it awaits,
locks, or makes a task or a future. The PUBACK is written when the batch is stored, one write per connection and batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from headwater.device.presence import Ended
from headwater.errors import DomainError
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.messages import message_of
from headwater.gateway.mqtt.routes import Ordinary, Route, decoder_named, resolve
from headwater.ingest.errors import PayloadMalformed, PayloadTooLarge
from headwater.ingest.ports import StreamUnavailable
from headwater.protocols.mqtt.packets import Publish
from headwater.protocols.mqtt.session import CONNECTED
from headwater.protocols.mqtt.wire import is_text
from headwater.stream.batcher import Batch
from headwater.stream.envelope import DeadLetter, Flag, Record

if TYPE_CHECKING:
    from headwater.gateway.mqtt.connection import MQTTConnection
    from headwater.gateway.mqtt.kept_session import KeptSession
    from headwater.gateway.mqtt.listener import MQTTListener
    from headwater.gateway.mqtt.router import Outbox

ROUTES_MAX = 64
"""Topics that one connection uses again and again; a device that invents more pays for the look-up each time."""
ELSEWHERE_MAX = 64
"""Messages of one connection that are on their way outside of the batches (refused ones, ordinary ones); at so many it is
not read from, so that a flood of them fills no memory."""

_NO_ROUTES: dict[str, Route | Ordinary] = {}
"""Until there is one; replaced, never filled."""
_NONE: list[int] = []


class Publishing:
    """Made when a client publishes first. Implements stream.batcher.Waiter for its records."""

    __slots__ = (
        "_acks", "_batch", "_connection", "_elsewhere", "_exactly_once", "_lane", "_listener", "_messages", "_meter",
        "_outbox", "_routes",
    )  # fmt: skip

    def __init__(self, connection: MQTTConnection, listener: MQTTListener) -> None:
        assert connection.meter is not None
        self._connection = connection
        self._listener = listener
        self._lane = listener.lane
        self._meter = connection.meter
        self._outbox: Outbox | None = None
        self._routes = _NO_ROUTES
        self._batch: Batch | None = None
        self._acks: list[int] = _NONE
        self._messages: _Messages | None = None
        self._exactly_once: list[int] = _NONE
        self._elsewhere = 0

    # -- up -------------------------------------------------------------------------------------------------------------

    def publish(self, packet: Publish) -> None:
        """A PUBLISH, or the will: the hot path."""
        route = self._routes.get(packet.topic) or self._route(packet.topic)
        if route is None:
            self._deny(packet)
            return
        meter = self._meter
        meter.left -= 1
        if meter.left < 0:
            self._listener.throttle(self._connection)
        if len(packet.payload) > meter.message_bytes_max:
            self._reject(packet, PayloadTooLarge(f"the message is larger than {meter.message_bytes_max} bytes"))
        elif isinstance(route, Ordinary):
            self._publish_message(packet)
        else:
            self._publish_records(packet, route)

    @property
    def is_behind(self) -> bool:
        """What waits for the stream is enough: read no further."""
        return self._lane.full or (self._outbox is not None and self._outbox.full)

    def _publish_records(self, packet: Publish, route: Route) -> None:
        received_us = time.time_ns() // 1000
        try:
            samples = route.read(
                packet.payload, received_us, None if packet.properties is None else decoder_named(packet.properties)
            )
        except DomainError as error:
            self._reject(packet, error, received_us)
            return
        connection = self._connection
        records = []
        for observed_us, body in samples:
            connection.sequence += 1
            flags = Flag.RESENT if packet.dup and observed_us != received_us else 0
            records.append(
                Record(
                    route.tenant, route.device, route.kind, observed_us, received_us, connection.epoch, connection.sequence,
                    body, flags,
                )
            )  # fmt: skip
        batch = self._lane.put(records)
        if packet.qos:
            if batch is not self._batch:
                self._batch = batch
                self._acks = []
                batch.waiters.append((self, self._acks))
            self._acks.append(packet.packet_id)
            if packet.qos == 2 and connection.kept is not None:
                self._exactly_once = [*self._exactly_once, packet.packet_id]

    def _publish_message(self, packet: Publish) -> None:
        outbox = self._outbox
        if outbox is None:
            outbox = self._outbox = self._listener.router.outbox(self._connection.tenant_id)
        properties = packet.properties
        if properties is not None and properties.payload_format == 1 and not is_text(packet.payload):
            self._reject(packet, PayloadMalformed("the payload claims to be UTF-8 and is not"))  # section 3.3.2.3.2
            return
        message = message_of(packet, self._connection.client_key)
        if packet.retain:
            self._listener.router.publish_retained(self._connection, packet, message, outbox)
        elif packet.qos:
            batch = outbox.stored.put_message(message)
            messages = self._messages
            if messages is None or messages.batch is not batch:
                messages = self._messages = _Messages(self, batch)
                batch.waiters.append((messages, messages.packet_ids))
            messages.packet_ids.append(packet.packet_id)
            if packet.qos == 2:
                messages.publishes_exactly_once(packet.packet_id)
        else:
            outbox.put_fleeting(message)

    def await_logged(self, packet: Publish, logged: asyncio.Future[int]) -> None:
        """A retained message goes its own way to the log. What is kept of it does not depend on this connection's life."""
        kept = self._connection.kept
        if packet.qos == 2 and kept is not None:
            kept.publishing(packet.packet_id)
            logged.add_done_callback(partial(_note_logged, kept, packet.packet_id))

    # -- and what became of it ------------------------------------------------------------------------------------------

    def stored(self, token: list[int]) -> None:
        """The batch that held these packets is on disk."""
        if self._exactly_once:
            self._remember_records(token)
            return
        self._connection.session.acknowledge_many(token)
        self._connection.flush()

    def _remember_records(self, token: list[int]) -> None:
        """Records at QoS 2 of a session that outlives the connection: their PUBREC goes once their packet ids are kept, by
        which a repetition is known. A gateway that dies in between leaves it to the record's time (Flag.RESENT)."""
        kept = self._connection.kept
        assert kept is not None
        kept.published_at([packet_id for packet_id in token if packet_id in self._exactly_once], 0, ())
        self._exactly_once = [packet_id for packet_id in self._exactly_once if packet_id not in token]
        kept.stage(partial(self._connection.session.acknowledge_many, token))

    def refused(self, token: list[int], error: DomainError) -> None:
        """The stream did not take them. MQTT 5 can say so; before that only an absent PUBACK can, so the connection ends."""
        session = self._connection.session
        if session.phase is not CONNECTED:
            return
        if session.protocol_level < 5:
            self._connection.close(reasons.disconnect_of(error), error.detail, Ended.NOT_STORED)
            return
        if self.kept is not None and self.kept.refused(token):
            self.kept.stage(partial(self._tell_refused, token, error))
        else:
            self._tell_refused(token, error)

    def _tell_refused(self, token: list[int], error: DomainError) -> None:
        for packet_id in token:
            self._connection.session.acknowledge(packet_id, reasons.puback_of(error), error.detail)
        self._connection.flush()

    # -- routes ---------------------------------------------------------------------------------------------------------

    def _route(self, topic: str) -> Route | Ordinary | None:
        principal = self._connection.principal
        assert principal is not None
        try:
            route = resolve(principal, self._listener.profiles.get(principal.profile), topic)
        except DomainError:  # an event topic whose name is none
            return None
        if route is not None:
            if self._routes is _NO_ROUTES:
                self._routes = {}
            if len(self._routes) < ROUTES_MAX:
                self._routes[topic] = route
        return route

    def forget_routes(self) -> None:
        """The profile has changed."""
        self._routes = _NO_ROUTES

    # -- what goes elsewhere --------------------------------------------------------------------------------------------

    def _deny(self, packet: Publish) -> None:
        connection = self._connection
        detail = "this topic is not one of the device's"
        self._listener.denied(connection, packet.topic)
        self._listener.happenings.publish_denied(connection, packet.topic)
        if connection.session.protocol_level >= 5:
            if packet.qos:
                connection.session.acknowledge(packet.packet_id, reasons.NOT_AUTHORISED, detail)
                connection.flush()
            return
        # Before MQTT 5 a refusal cannot be told apart from an acceptance, except by the end of the connection.
        connection.close(reasons.NOT_AUTHORISED, f"{detail}: {packet.topic[:100]}")

    def _reject(self, packet: Publish, error: DomainError, received_us: int | None = None) -> None:
        """Keep it as a dead letter, and tell the device once that is certain."""
        principal = self._connection.principal
        assert principal is not None
        self._listener.happenings.rejected(self._connection, packet.topic, error)
        letter = DeadLetter(
            device=principal.device_id.bytes,
            source="mqtt",
            topic=packet.topic,
            code=error.code,
            detail=error.detail,
            received_at=received_us or time.time_ns() // 1000,
            payload=packet.payload,
            content_type=(packet.properties.content_type or "") if packet.properties is not None else "",
        )
        kept = self._listener.uplink.reject(principal.tenant_id, letter)
        self.answer_later(packet, kept, partial(self._rejected, packet, error))

    def answer_later(self, packet: Publish, ended: asyncio.Future[None], answer: Callable[[], None]) -> None:
        """A message that goes its own way, outside of the batches: `answer` once it is stored. Others do not wait for it;
        the session keeps the receipts of this connection in their order [MQTT-4.6.0-2]."""
        self._elsewhere += 1
        if self._elsewhere == ELSEWHERE_MAX:
            self._connection.pause()
        self._listener.outstanding.add(ended)
        ended.add_done_callback(partial(self._ended, packet, answer))

    def _ended(self, packet: Publish, answer: Callable[[], None], ended: asyncio.Future[None]) -> None:
        self._listener.outstanding.discard(ended)
        if self._elsewhere == ELSEWHERE_MAX:
            self._connection.resume()
        self._elsewhere -= 1
        if ended.cancelled() or self._connection.session.phase is not CONNECTED:
            return
        failure = ended.exception()
        if failure is None:
            answer()
        elif packet.qos:
            known = failure if isinstance(failure, DomainError) else StreamUnavailable("the message could not be stored")
            self.refused([packet.packet_id], known)

    def _rejected(self, packet: Publish, error: DomainError) -> None:
        """The dead letter is stored: PUBACK with the reason, or, before MQTT 5, PUBACK and a word on the errors topic."""
        connection = self._connection
        if packet.qos:
            connection.session.acknowledge(packet.packet_id, reasons.puback_of(error), f"{error.code}: {error.detail}")
        self._listener.router.tell_error(connection, packet, error)
        connection.flush()

    @property
    def kept(self) -> KeptSession | None:
        return self._connection.kept


def _note_logged(kept: KeptSession, packet_id: int, logged: asyncio.Future[int]) -> None:
    if logged.exception() is None:
        kept.published_at([packet_id], logged.result(), [packet_id])
    else:
        kept.published_at([], 0, [packet_id])


class _Messages:
    """The ordinary messages of one client in one batch. Implements stream.batcher.Waiter."""

    __slots__ = ("_exactly_once", "_publishing", "batch", "packet_ids")

    def __init__(self, publishing: Publishing, batch: Batch) -> None:
        self._publishing = publishing
        self.batch = batch
        self.packet_ids: list[int] = []
        self._exactly_once: list[int] = _NONE
        """those of a session that outlives the connection, at QoS 2"""

    def publishes_exactly_once(self, packet_id: int) -> None:
        kept = self._publishing.kept
        if kept is not None:
            self._exactly_once = [*self._exactly_once, packet_id]
            kept.publishing(packet_id)

    def stored(self, token: list[int]) -> None:
        if self._exactly_once:
            self._note(self._exactly_once, self.batch.sequence)
        self._publishing.stored(token)

    def refused(self, token: list[int], error: DomainError) -> None:
        if self._exactly_once:
            self._note([], 0)
        self._publishing.refused(token, error)

    def _note(self, packet_ids: list[int], sequence: int) -> None:
        kept = self._publishing.kept
        assert kept is not None
        kept.published_at(packet_ids, sequence, self._exactly_once)

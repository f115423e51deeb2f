"""One MQTT connection: the socket on one side, the session, the batcher and the router on the other.

The path of a PUBLISH is flat on purpose: parse, look up the route, normalise, append to the open batch. Nothing in it
awaits, locks, or makes a task or a future. The PUBACK is written when the batch is stored, one write per connection and
batch. What goes to the client is gateway/mqtt/delivery.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from headwater.device.presence import Ended
from headwater.device.principal import Principal
from headwater.errors import DomainError
from headwater.gateway.metering import TenantMeter
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.delivery import WRITE_BUFFER_BYTES_MAX, Delivery
from headwater.gateway.mqtt.hang_up import hang_up
from headwater.gateway.mqtt.kept_session import KeptSession
from headwater.gateway.mqtt.messages import message_of
from headwater.gateway.mqtt.routes import Ordinary, Route, decoder_named, resolve
from headwater.ingest.errors import PayloadTooLarge
from headwater.ingest.ports import StreamUnavailable
from headwater.protocols.mqtt.events import ConnectionLost, ProtocolFailed, TimedOut
from headwater.protocols.mqtt.packets import (
    Auth,
    Connect,
    Disconnect,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Unsubscribe,
)
from headwater.protocols.mqtt.session import Phase, ServerSession
from headwater.stream.batcher import Batch
from headwater.stream.envelope import DeadLetter, Flag, Record
from headwater.stream.session_store import StoredSubscription

if TYPE_CHECKING:
    from headwater.gateway.mqtt.door import Visitor
    from headwater.gateway.mqtt.listener import MQTTListener
    from headwater.gateway.mqtt.router import Outbox

log = structlog.get_logger(__name__)

ROUTES_MAX = 64
"""Topics that one connection uses again and again; a device that invents more pays for the look-up each time."""
ELSEWHERE_MAX = 64
"""Messages of one connection that are on their way outside of the batches (refused ones, ordinary ones); at so many it is
not read from, so that a flood of them fills no memory."""
REQUESTS_MAX = 16
"""SUBSCRIBE and UNSUBSCRIBE packets of one connection that wait for those before them; at so many it is not read from."""

UNLIMITED = 1 << 40
"""Until we know whose connection it is; what a stranger may send is bounded by the session."""

_NONE: list[int] = []


class MQTTConnection(asyncio.Protocol):
    """A connection from accept to close. Implements stream.batcher.Waiter."""

    __slots__ = (
        "_acks", "_batch", "_descriptor", "_elsewhere", "_exactly_once", "_listener", "_messages", "_pauses", "_requests",
        "_routes", "_slowed", "_transport", "address", "authentication", "bytes_left", "certificate_der", "client_id",
        "client_key", "close_reason", "connect", "delivery", "ended", "epoch", "granted", "has_left", "has_room", "kept",
        "messages_left", "meter", "outbox", "principal", "scheme", "send_maximum", "sequence", "session", "shared",
        "successor_is_clean", "visitor",
    )  # fmt: skip

    def __init__(self, listener: MQTTListener, visitor: Visitor) -> None:
        self._listener = listener
        self.address = visitor.address
        self.scheme = visitor.scheme
        self.visitor: Visitor | None = visitor
        """until its CONNECT has come"""
        self.certificate_der: bytes | None = None
        """the device's, verified; where the port asks for one"""
        self._transport: Any = None
        self._routes: dict[str, Route | Ordinary] | None = None
        self._batch: Batch | None = None
        self._acks: list[int] = _NONE
        self._messages: _Messages | None = None
        self._exactly_once: list[int] = _NONE
        self._requests: deque[Subscribe | Unsubscribe] | None = None
        self._pauses = 0
        self._elsewhere = 0
        self._descriptor = -1
        self._slowed = False
        self.bytes_left = self.messages_left = UNLIMITED
        """of its own quota, until the next tick"""
        self.session = ServerSession(listener.limits, listener.now())
        self.connect: Connect | None = None
        self.principal: Principal | None = None
        self.meter: TenantMeter | None = None
        self.granted: tuple[str, ...] = ()
        self.client_id = ""
        self.client_key = b""
        """stands for the client identifier in messages (stream/subjects.py)"""
        self.send_maximum = 0
        self.delivery: Delivery | None = None
        self.shared: dict[str, StoredSubscription] = _NO_SHARES
        self.kept: KeptSession | None = None
        self.outbox: Outbox | None = None
        """its tenant's, once it has published"""
        self.authentication: Any = None
        """the enhanced authentication that is under way"""
        self.has_left = False
        self.has_room = True
        """The peer reads what it is sent."""
        self.successor_is_clean: bool | None = None
        """a newer connection of the same client took over; None = none did"""
        self.epoch = 0
        self.sequence = 0
        self.ended: Ended | None = None
        self.close_reason = ""

    # -- socket ---------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            self.certificate_der = secured.getpeercert(True)
        bare = transport.get_extra_info("socket") if secured is None else None
        self._descriptor = bare.fileno() if bare is not None else -1
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        self._listener.opened(self)

    def data_received(self, data: bytes) -> None:
        events = self.session.receive(data, self._listener.now())
        self.bytes_left -= len(data)
        self.messages_left -= len(events)
        if (self.bytes_left < 0 or self.messages_left < 0) and not self._slowed:
            self._slowed = True
            self.pause()
        for position, event in enumerate(events):
            if type(event) is not Publish:
                self._handle(events[position:])
                return
            self.publish(event)
        if self.session.has_outgoing:  # a ping was answered, or a repetition
            self.flush()

    def eof_received(self) -> bool:
        self._handle(self.session.receive(b"", self._listener.now()))
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._end(Ended.CONNECTION_LOST, "closed by the device" if error is None else f"broken: {type(error).__name__}")
        self._listener.closed(self)
        self._transport = None

    def pause_writing(self) -> None:
        self.has_room = False
        self.pause()

    def resume_writing(self) -> None:
        self.has_room = True
        self.resume()
        if self.delivery is not None and self.alive:
            self.delivery.pump()
            self.flush()

    def pause(self) -> None:
        """Stop reading; pauses count, because a full write buffer and a full backlog end at different times."""
        self._pauses += 1
        if self._pauses == 1 and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        self._pauses -= 1
        if self._pauses == 0 and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # -- events ---------------------------------------------------------------------------------------------------------

    def _handle(self, events: list[Any]) -> None:
        delivery = self.delivery
        for event in events:
            kind = type(event)
            if kind is Publish:
                self.publish(event)
            elif kind is PubAck or kind is PubComp:
                if delivery is not None:
                    delivery.finished(event.packet_id)
            else:
                _HANDLERS[kind](self, event)
        if delivery is not None and delivery.queue is not None and self.alive:
            delivery.pump()
        self.flush()

    def _on_pubrec(self, pubrec: PubRec) -> None:
        if self.delivery is None:
            return
        if pubrec.reason >= 0x80:
            self.delivery.finished(pubrec.packet_id)
        else:
            self.delivery.received(pubrec.packet_id)

    def _on_pubrel(self, pubrel: PubRel) -> None:
        if self.kept is not None:
            self.kept.released(pubrel.packet_id)

    def _on_connect(self, connect: Connect) -> None:
        self.connect = connect
        self._listener.admission.admit(self)

    def _on_auth(self, auth: Auth) -> None:
        self._listener.admission.authenticate_on(self, auth)

    def _on_request(self, request: Subscribe | Unsubscribe) -> None:
        """One after another: what is subscribed to at the end is what the client asked for last."""
        if self._requests is not None:
            self._requests.append(request)
            if len(self._requests) == REQUESTS_MAX:
                self.pause()
            return
        self._requests = deque((request,))
        self._listener.spawn(self._serve_requests(self._requests))

    async def _serve_requests(self, requests: deque[Subscribe | Unsubscribe]) -> None:
        router = self._listener.router
        while requests and self.alive:
            request = requests.popleft()
            if len(requests) == REQUESTS_MAX - 1:
                self.resume()
            if isinstance(request, Subscribe):
                await router.subscribe(self, request)
            else:
                await router.unsubscribe(self, request)
        self._requests = None

    def _on_disconnect(self, _disconnect: Disconnect) -> None:
        self._end(Ended.CLIENT_DISCONNECT, "disconnected by the device")

    def _on_timeout(self, event: TimedOut) -> None:
        self._end(Ended.KEEP_ALIVE_TIMEOUT, event.detail)

    def _on_failure(self, event: ProtocolFailed) -> None:
        self._end(Ended.PROTOCOL_ERROR, event.detail)

    def _on_lost(self, _event: ConnectionLost) -> None:
        self._end(Ended.CONNECTION_LOST, "closed by the device")

    def _on_nothing(self, _event: Any) -> None:
        """The session has answered a ping already."""

    def accept(self, *, session_present: bool, received: Iterable[int], **answer: Any) -> list[Any]:
        """CONNACK. Returns the events of what the client sent behind its CONNECT, for `handle`."""
        self.send_maximum = min(self.session.client_receive_maximum, self._listener.limits.send_maximum)
        self.session.is_durable = self.kept is not None
        self._refill()
        return self.session.accept(
            self._listener.now(), session_present, assigned_client_id=self.client_id, received=received, **answer
        )

    def handle(self, events: list[Any]) -> None:
        """What `accept` returned."""
        self._handle(events)

    def flush(self) -> None:
        """One write for everything that the session has to say; the end of the connection when it has ended."""
        transport = self._transport
        if transport is None:
            return
        data = self.session.take_outgoing()
        if data and not transport.is_closing():
            self._write(transport, data)
        if self.session.phase is Phase.CLOSED and not transport.is_closing():
            if data:
                hang_up(transport, self)
            else:
                transport.close()
            self._listener.admission.leave(self)

    def _write(self, transport: Any, data: bytes) -> None:
        """At once where nothing waits before it, and nothing lies between us and the socket (TLS, WebSocket): a PUBACK
        through the transport costs half a microsecond more."""
        if self._descriptor >= 0 and not transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # full, or gone: the transport finds out and deals with it
                data = data[os.write(self._descriptor, data) :]
        if data:
            transport.write(data)

    # -- uplink ---------------------------------------------------------------------------------------------------------

    def publish(self, packet: Publish) -> None:
        """A PUBLISH, or the will: the hot path."""
        routes = self._routes
        route = routes.get(packet.topic) if routes is not None else None
        if route is None:
            route = self._route(packet.topic)
            if route is None:
                self._deny(packet)
                return
        meter = self.meter
        assert meter is not None
        meter.left -= 1
        if meter.left < 0:
            self._listener.throttle(self)
        payload = packet.payload
        if isinstance(route, Ordinary):
            self._publish_ordinary(packet, meter)
            return
        received_us = time.time_ns() // 1000
        try:
            if len(payload) > meter.message_bytes_max:
                raise PayloadTooLarge(f"the message is larger than {meter.message_bytes_max} bytes")
            samples = route.read(
                payload, received_us, None if packet.properties is None else decoder_named(packet.properties)
            )
        except DomainError as error:
            self._reject(packet, error, received_us)
            return
        records = []
        for observed_us, body in samples:
            self.sequence += 1
            flags = Flag.RESENT if packet.dup and observed_us != received_us else 0
            records.append(
                Record(
                    route.tenant, route.device, route.kind, observed_us, received_us, self.epoch, self.sequence, body, flags
                )
            )
        lane = self._listener.lane
        batch = lane.put(records)
        if packet.qos:
            if batch is not self._batch:
                self._batch = batch
                self._acks = []
                batch.waiters.append((self, self._acks))
            self._acks.append(packet.packet_id)
            if packet.qos == 2 and self.kept is not None:
                self._exactly_once = [*self._exactly_once, packet.packet_id]
        if lane.full:
            self._listener.hold(self)

    def _publish_ordinary(self, packet: Publish, meter: TenantMeter) -> None:
        if len(packet.payload) > meter.message_bytes_max:
            error = PayloadTooLarge(f"the message is larger than {meter.message_bytes_max} bytes")
            self._reject(packet, error, time.time_ns() // 1000)
            return
        outbox = self.outbox
        if outbox is None:
            outbox = self.outbox = self._listener.router.outbox(self.tenant_id)
        message = message_of(packet, self.client_key)
        if packet.retain:
            self._listener.router.publish_retained(self, packet, message, outbox)
        elif packet.qos:
            self._await_stored(outbox.stored.put_message(message), packet)
        else:
            outbox.put_fleeting(message)
        if outbox.full:
            self._listener.hold(self)

    def _await_stored(self, batch: Batch, packet: Publish) -> None:
        """An ordinary message is in this batch: its receipt follows when that is stored."""
        messages = self._messages
        if messages is None or messages.batch is not batch:
            messages = self._messages = _Messages(self, batch)
            batch.waiters.append((messages, messages.packet_ids))
        messages.packet_ids.append(packet.packet_id)
        if packet.qos == 2 and self.kept is not None:
            messages.exactly_once.append(packet.packet_id)
            self.kept.publishing()

    def await_logged(self, packet: Publish, logged: asyncio.Future[int]) -> None:
        """A retained message goes its own way to the log. What is kept of it does not depend on this connection's life."""
        if packet.qos == 2 and self.kept is not None:
            self.kept.publishing()
            logged.add_done_callback(partial(_note_logged, self.kept, packet.packet_id))

    def stored(self, token: list[int]) -> None:
        """The batch that held these packets is on disk."""
        if self._exactly_once:
            self._remember_records(token)
            return
        self.session.acknowledge_many(token)
        self.flush()

    def _remember_records(self, token: list[int]) -> None:
        """Records at QoS 2 of a session that outlives the connection: their PUBREC goes once their packet ids are kept, by
        which a repetition is known. A gateway that dies in between leaves it to the record's time (Flag.RESENT)."""
        assert self.kept is not None
        self.kept.published_at([packet_id for packet_id in token if packet_id in self._exactly_once], 0, 0)
        self._exactly_once = [packet_id for packet_id in self._exactly_once if packet_id not in token]
        self.kept.stage(partial(self.session.acknowledge_many, token))

    def refused(self, token: list[int], error: DomainError) -> None:
        """The stream did not take them. MQTT 5 can say so; before that only an absent PUBACK can, so the connection ends."""
        if self.session.phase is not Phase.CONNECTED:
            return
        if self.session.protocol_level < 5:
            self.close(reasons.disconnect_of(error), error.detail, Ended.NOT_STORED)
            return
        for packet_id in token:
            self.session.acknowledge(packet_id, reasons.puback_of(error), error.detail)
        self.flush()

    def close(
        self, reason: int, detail: str, ended: Ended | None = None, *, server_reference: str | None = None
    ) -> None:  # fmt: skip
        """End the connection from our side, with the reason where the protocol can carry one."""
        self._end(ended or reasons.ENDED[reason], detail)
        self.session.disconnect(reason, detail, server_reference)
        self.flush()

    def _end(self, ended: Ended, detail: str) -> None:
        """Why it ended: what was first, not what followed from it."""
        if self.ended is None:
            self.ended, self.close_reason = ended, detail

    def _route(self, topic: str) -> Route | Ordinary | None:
        assert self.principal is not None
        try:
            route = resolve(self.principal, self._listener.profiles.get(self.principal.profile), topic)
        except DomainError:  # an event topic whose name is none
            return None
        if route is not None:
            if self._routes is None:
                self._routes = {}
            if len(self._routes) < ROUTES_MAX:
                self._routes[topic] = route
        return route

    def forget_routes(self) -> None:
        """The profile has changed."""
        self._routes = None

    def _deny(self, packet: Publish) -> None:
        detail = "this topic is not one of the device's"
        self._listener.denied(self, packet.topic)
        self._listener.happenings.publish_denied(self, packet.topic)
        if self.session.protocol_level >= 5:
            if packet.qos:
                self.session.acknowledge(packet.packet_id, reasons.NOT_AUTHORISED, detail)
                self.flush()
            return
        # Before MQTT 5 a refusal cannot be told apart from an acceptance, except by the end of the connection.
        self.close(reasons.NOT_AUTHORISED, f"{detail}: {packet.topic[:100]}")

    def denied_subscription(self, topic_filter: str) -> None:
        self._listener.denied(self, topic_filter)
        self._listener.happenings.subscription_denied(self, topic_filter)

    def _reject(self, packet: Publish, error: DomainError, received_us: int) -> None:
        """Keep it as a dead letter, and tell the device once that is certain."""
        assert self.principal is not None
        self._listener.happenings.rejected(self, packet.topic, error)
        letter = DeadLetter(
            device=self.principal.device_id.bytes,
            source="mqtt",
            topic=packet.topic,
            code=error.code,
            detail=error.detail,
            received_at=received_us,
            payload=packet.payload,
            content_type=(packet.properties.content_type or "") if packet.properties is not None else "",
        )
        kept = self._listener.uplink.reject(self.principal.tenant_id, letter)
        self.answer_later(packet, kept, partial(self._rejected, packet, error))

    def answer_later(self, packet: Publish, ended: asyncio.Future[None], answer: Callable[[], None]) -> None:
        """A message that goes its own way, outside of the batches: `answer` once it is stored. Others do not wait for it;
        the session keeps the receipts of this connection in their order [MQTT-4.6.0-2]."""
        self._elsewhere += 1
        if self._elsewhere == ELSEWHERE_MAX:
            self.pause()
        self._listener.outstanding.add(ended)
        ended.add_done_callback(partial(self._ended, packet, answer))

    def _ended(self, packet: Publish, answer: Callable[[], None], ended: asyncio.Future[None]) -> None:
        self._listener.outstanding.discard(ended)
        if self._elsewhere == ELSEWHERE_MAX:
            self.resume()
        self._elsewhere -= 1
        if ended.cancelled() or self.session.phase is not Phase.CONNECTED:
            return
        failure = ended.exception()
        if failure is None:
            answer()
        elif packet.qos:
            known = failure if isinstance(failure, DomainError) else StreamUnavailable("the message could not be stored")
            self.refused([packet.packet_id], known)

    def _rejected(self, packet: Publish, error: DomainError) -> None:
        """The dead letter is stored: PUBACK with the reason, or, before MQTT 5, PUBACK and a word on the errors topic."""
        if packet.qos:
            self.session.acknowledge(packet.packet_id, reasons.puback_of(error), f"{error.code}: {error.detail}")
        self._listener.router.tell_error(self, packet, error)
        self.flush()

    def tick(self, now: float) -> None:
        """Once a second: its own quota, keep-alive, and the time that a stranger has for its CONNECT."""
        if self._refill():
            return
        deadline = self.session.next_deadline()
        if deadline is not None and deadline <= now:
            self._handle(self.session.tick(now))

    def _refill(self) -> bool:
        """What it may send in the next second; what it sent too much counts against that. True = it was not read from, so
        its silence was ours."""
        if self.meter is None:
            return False
        quotas = self.meter.quotas
        self.bytes_left = min(self.bytes_left + quotas.device_bytes_per_s, quotas.device_bytes_per_s)
        self.messages_left = min(self.messages_left + quotas.device_messages_per_s, quotas.device_messages_per_s)
        was_slowed = self._slowed
        if was_slowed and self.bytes_left >= 0 and self.messages_left >= 0:
            self._slowed = False
            self.resume()
        return was_slowed

    @property
    def alive(self) -> bool:
        return self._transport is not None and self.session.phase is not Phase.CLOSED

    @property
    def tenant_id(self) -> UUID:
        assert self.principal is not None
        return self.principal.tenant_id


def _note_logged(kept: KeptSession, packet_id: int, logged: asyncio.Future[int]) -> None:
    if logged.exception() is None:
        kept.published_at([packet_id], logged.result(), 1)
    else:
        kept.published_at([], 0, 1)


_NO_SHARES: dict[str, StoredSubscription] = {}
"""Of the many connections that share nothing; replaced, never filled."""


class _Messages:
    """The ordinary messages of one connection in one batch. Implements stream.batcher.Waiter."""

    __slots__ = ("_connection", "batch", "exactly_once", "packet_ids")

    def __init__(self, connection: MQTTConnection, batch: Batch) -> None:
        self._connection = connection
        self.batch = batch
        self.packet_ids: list[int] = []
        self.exactly_once: list[int] = []
        """those of a session that outlives the connection, at QoS 2"""

    def stored(self, token: list[int]) -> None:
        kept = self._connection.kept
        if kept is not None and self.exactly_once:
            kept.published_at(self.exactly_once, self.batch.sequence, len(self.exactly_once))
        self._connection.stored(token)

    def refused(self, token: list[int], error: DomainError) -> None:
        kept = self._connection.kept
        if kept is not None and self.exactly_once:
            kept.published_at([], 0, len(self.exactly_once))
        self._connection.refused(token, error)


_HANDLERS: dict[type, Callable[[MQTTConnection, Any], None]] = {
    Connect: MQTTConnection._on_connect,
    Auth: MQTTConnection._on_auth,
    PubRec: MQTTConnection._on_pubrec,
    PubRel: MQTTConnection._on_pubrel,
    Subscribe: MQTTConnection._on_request,
    Unsubscribe: MQTTConnection._on_request,
    Disconnect: MQTTConnection._on_disconnect,
    TimedOut: MQTTConnection._on_timeout,
    ProtocolFailed: MQTTConnection._on_failure,
    ConnectionLost: MQTTConnection._on_lost,
    PingReq: MQTTConnection._on_nothing,
}

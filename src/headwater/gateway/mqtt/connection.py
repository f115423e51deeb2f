"""One MQTT connection: the socket on one side, the session, the batcher and the router on the other.

The path of a PUBLISH is flat on purpose: parse, look up the route, normalise, append to the open batch. Nothing in it
awaits, locks, or makes a task or a future. The PUBACK is written when the batch is stored, one write per connection and
batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from headwater.device.presence import Ended
from headwater.device.principal import Principal
from headwater.errors import DomainError
from headwater.gateway.metering import TenantMeter
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.routes import Ordinary, Route, decoder_named, resolve
from headwater.ingest.errors import PayloadTooLarge
from headwater.ingest.ports import StreamUnavailable
from headwater.protocols.mqtt.deliverable import Deliverable
from headwater.protocols.mqtt.errors import PacketTooLarge, WouldBlock
from headwater.protocols.mqtt.events import ProtocolFailed, TimedOut
from headwater.protocols.mqtt.packets import Connect, Disconnect, PubAck, Publish, Subscribe, Unsubscribe
from headwater.protocols.mqtt.properties import Properties
from headwater.protocols.mqtt.reasons import Reason
from headwater.protocols.mqtt.session import Phase, ServerSession
from headwater.protocols.mqtt.topics import match as topic_matches
from headwater.stream.batcher import Batch
from headwater.stream.envelope import DeadLetter, Flag, Record

if TYPE_CHECKING:
    from headwater.gateway.mqtt.listener import MQTTListener

log = structlog.get_logger(__name__)

ROUTES_MAX = 64
"""Topics that one connection uses again and again; a device that invents more pays for the look-up each time."""
WRITE_BUFFER_BYTES_MAX = 256 * 1024
"""A peer that does not read what it is sent is not read from either."""
ELSEWHERE_MAX = 64
"""Messages of one connection that are on their way outside of the batches (refused ones, ordinary ones); at so many it is
not read from, so that a flood of them fills no memory."""
OUTBOX_MAX = 1_000
"""QoS 1 messages that wait for a slow subscriber's acknowledgements."""

Outgoing = tuple[Deliverable, int]
_NONE: list[int] = []


class MQTTConnection(asyncio.Protocol):
    """A connection from accept to close. Implements stream.batcher.Waiter."""

    __slots__ = (
        "_acks", "_batch", "_descriptor", "_elsewhere", "_listener", "_outbox", "_pauses", "_routes", "_transport",
        "close_reason", "connect", "ended", "epoch", "granted", "meter", "principal", "sequence", "session", "subscribed",
    )  # fmt: skip

    def __init__(self, listener: MQTTListener) -> None:
        self._listener = listener
        self._transport: Any = None
        self._routes: dict[str, Route | Ordinary] | None = None
        self._batch: Batch | None = None
        self._acks: list[int] = _NONE
        self._outbox: deque[Outgoing] | None = None
        self._pauses = 0
        self._elsewhere = 0
        self._descriptor = -1
        self.session = ServerSession(listener.limits, listener.now())
        self.connect: Connect | None = None
        self.principal: Principal | None = None
        self.meter: TenantMeter | None = None
        self.granted: tuple[str, ...] = ()
        self.subscribed: dict[str, int] | None = None
        self.epoch = 0
        self.sequence = 0
        self.ended: Ended | None = None
        self.close_reason = ""

    # -- socket ---------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        self._listener.opened(self)

    def data_received(self, data: bytes) -> None:
        events = self.session.receive(data, self._listener.now())
        for position, event in enumerate(events):
            if type(event) is not Publish:
                self._handle(events[position:])
                return
            self.publish(event)
        if not events:
            self.flush()  # a ping was answered, or nothing is complete yet

    def eof_received(self) -> bool:
        self._handle(self.session.receive(b"", self._listener.now()))
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._end(Ended.CONNECTION_LOST, "closed by the device" if error is None else f"broken: {type(error).__name__}")
        self._listener.closed(self)
        self._transport = None

    def pause_writing(self) -> None:
        self.pause()

    def resume_writing(self) -> None:
        self.resume()

    def pause(self) -> None:
        """Stop reading; pauses count, because a full write buffer and a full backlog end at different times."""
        self._pauses += 1
        if self._pauses == 1 and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        self._pauses -= 1
        if self._pauses == 0 and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def address(self) -> str:
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return f"{peer[0]}:{peer[1]}" if peer else ""

    # -- events ---------------------------------------------------------------------------------------------------------

    def _handle(self, events: list[Any]) -> None:
        for event in events:
            kind = type(event)
            if kind is Publish:
                self.publish(event)
            elif kind is PubAck:
                self._send_waiting()
            elif kind is Subscribe:
                self._listener.router.subscribe(self, event)
            elif kind is Unsubscribe:
                self._listener.router.unsubscribe(self, event)
            elif kind is Connect:
                self.connect = event
                if self.session.authentication_method is None:
                    self._listener.admission.admit(self)
                else:
                    self.session.refuse(Reason.BAD_AUTHENTICATION_METHOD)
            elif kind is Disconnect:
                self._end(Ended.CLIENT_DISCONNECT, "disconnected by the device")
            elif kind is TimedOut:
                self._end(Ended.KEEP_ALIVE_TIMEOUT, event.detail)
            elif kind is ProtocolFailed:
                self._end(Ended.PROTOCOL_ERROR, event.detail)
        self.flush()

    def admitted(self, principal: Principal, meter: TenantMeter, granted: tuple[str, ...], client_id: str) -> None:
        """Authentication is done: answer, then handle what the client sent behind its CONNECT."""
        self.principal = principal
        self.meter = meter
        self.granted = granted
        expiry_s = 0 if self.session.session_expiry_s else None  # no session outlives its connection (section 3.2.2.3.2)
        self._handle(self.session.accept(self._listener.now(), assigned_client_id=client_id, session_expiry_s=expiry_s))

    def flush(self) -> None:
        """One write for everything that the session has to say; the end of the connection when it has ended."""
        transport = self._transport
        if transport is None:
            return
        data = self.session.take_outgoing()
        if data and not transport.is_closing():
            self._write(transport, data)
        if self.session.phase is Phase.CLOSED and not transport.is_closing():
            transport.close()

    def _write(self, transport: Any, data: bytes) -> None:
        """At once where nothing waits before it: a PUBACK through the transport costs half a microsecond more."""
        if not transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # full, or gone: the transport finds out and deals with it
                data = data[os.write(self._descriptor, data) :]
        if data:
            transport.write(data)

    # -- downlink -------------------------------------------------------------------------------------------------------

    def deliver(self, topic: str, payload: bytes, qos: int, properties: Properties | None) -> bool:
        """Send now, or when the client has acknowledged earlier ones. False = dropped: it does not keep up."""
        if self._transport is None or self._transport.get_write_buffer_size() > WRITE_BUFFER_BYTES_MAX:
            return False
        message = Deliverable(topic, payload, properties)
        try:
            if self._outbox is None:
                self.session.deliver(message, qos)
                self.flush()
                return True
        except PacketTooLarge:
            return False
        except WouldBlock:
            self._outbox = deque()
        if len(self._outbox) >= OUTBOX_MAX:
            return False
        self._outbox.append((message, qos))
        return True

    def _send_waiting(self) -> None:
        """An acknowledgement has made room."""
        outbox = self._outbox
        if outbox is None:
            return
        while outbox and (self.session.send_window > 0 or outbox[0][1] == 0):
            message, qos = outbox.popleft()
            with contextlib.suppress(PacketTooLarge):  # section 3.1.2.11.4: dropped as if it had been sent
                self.session.deliver(message, qos)
        if not outbox:
            self._outbox = None

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
        if isinstance(route, Ordinary):
            self._listener.router.publish(self, packet)
            return
        meter = self.meter
        assert meter is not None
        meter.left -= 1
        if meter.left < 0:
            self._listener.throttle(self)
        payload = packet.payload
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
        if lane.full:
            self._listener.hold(self)

    def stored(self, token: list[int]) -> None:
        """The batch that held these packets is on disk."""
        self.session.acknowledge_many(token)
        self.flush()

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

    def close(self, reason: int, detail: str, ended: Ended | None = None) -> None:
        """End the connection from our side, with the reason where the protocol can carry one."""
        self._end(ended or reasons.ENDED[reason], detail)
        self.session.disconnect(reason, detail)
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
        if self.session.protocol_level >= 5:
            if packet.qos:
                self.session.acknowledge(packet.packet_id, reasons.NOT_AUTHORISED, detail)
                self.flush()
            return
        # Before MQTT 5 a refusal cannot be told apart from an acceptance, except by the end of the connection.
        self.close(reasons.NOT_AUTHORISED, f"{detail}: {packet.topic[:100]}")

    def _reject(self, packet: Publish, error: DomainError, received_us: int) -> None:
        """Keep it as a dead letter, and tell the device once that is certain."""
        assert self.principal is not None
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
        """Once a second: keep-alive, and the time that a stranger has for its CONNECT."""
        deadline = self.session.next_deadline()
        if deadline is not None and deadline <= now:
            self._handle(self.session.tick(now))

    def granted_qos(self, topic: str) -> int:
        """The highest QoS among the subscriptions that match [MQTT-3.3.5-1]."""
        return max((qos for f, qos in (self.subscribed or {}).items() if topic_matches(f, topic)), default=0)

    @property
    def alive(self) -> bool:
        return self._transport is not None and self.session.phase is not Phase.CLOSED

    @property
    def tenant_id(self) -> UUID:
        assert self.principal is not None
        return self.principal.tenant_id

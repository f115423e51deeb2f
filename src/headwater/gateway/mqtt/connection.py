"""One MQTT connection: the socket on one side, the session and whoever answers its events on the other.

What the client publishes is gateway/mqtt/publishing.py's, and what goes to it gateway/mqtt/delivery.py's.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from headwater.device.presence import Ended
from headwater.device.principal import Principal
from headwater.gateway.metering import TenantMeter
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.delivery import WRITE_BUFFER_BYTES_MAX, Delivery
from headwater.gateway.mqtt.foreign import recognised
from headwater.gateway.mqtt.hang_up import hang_up, let_go
from headwater.gateway.mqtt.happenings import protocol_of
from headwater.gateway.mqtt.kept_session import KeptSession
from headwater.gateway.mqtt.publishing import Publishing
from headwater.gateway.mqtt.visitor import Refusal
from headwater.protocols.mqtt.errors import PacketTooLarge
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
from headwater.protocols.mqtt.reasons import Reason
from headwater.protocols.mqtt.session import CLOSED, ServerSession
from headwater.stream.session_store import StoredSubscription

if TYPE_CHECKING:
    from headwater.gateway.mqtt.listener import MQTTListener
    from headwater.gateway.mqtt.visitor import Visitor

log = structlog.get_logger(__name__)

REQUESTS_MAX = 16
"""SUBSCRIBE and UNSUBSCRIBE packets of one connection that wait for those before them; at so many it is not read from."""

UNLIMITED = 1 << 40
"""Bytes, until we know whose connection it is; what a stranger may send is bounded by the session."""
STRANGER_MESSAGES = 1_000
"""Until we know. No CONNECT and no authentication needs as many; beyond it the time for the CONNECT runs out unread."""


class MQTTConnection(asyncio.Protocol):
    """A connection from accept to close."""

    __slots__ = (
        "_descriptor", "_listener", "_pauses", "_publishing", "_requests", "_slowed", "_transport", "address", "arrival",
        "authentication", "bytes_left", "certificate_der", "client_id", "client_key", "close_reason", "connect", "delivery",
        "ended", "epoch", "granted", "has_left", "has_room", "is_resumed", "kept", "messages_left", "meter", "principal",
        "scheme", "send_maximum", "sequence", "session", "shared", "visitor",
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
        self._publishing: Publishing | None = None
        self._requests: deque[Subscribe | Unsubscribe] | None = None
        self._pauses = 0
        self._descriptor = -1
        self._slowed = False
        self.bytes_left, self.messages_left = UNLIMITED, STRANGER_MESSAGES
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
        self.authentication: Any = None
        """the enhanced authentication that is under way"""
        self.has_left = False
        self.has_room = True
        """The peer reads what it is sent."""
        self.is_resumed: bool | None = None
        """A newer connection of the same client took over, and goes on with the session; None = none did."""
        self.arrival = 0
        """the epoch that it came with: its own may be raised to that of a later one of its device"""
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
        if self.bytes_left < 0 or self.messages_left < 0:
            self._slow_down()
        publishing = self._publishing
        if publishing is None or not events or type(events[0]) is not Publish:
            if self.visitor is not None and events and type(events[0]) is ProtocolFailed:
                events = [recognised(events[0], data)]
            self._handle(events)
            return
        publish = publishing.publish
        for position, event in enumerate(events):  # most reads are publishes and nothing else
            if type(event) is not Publish:
                self._handle(events[position:])
                return
            publish(event)
        if self.session.has_outgoing:  # a ping was answered, or a repetition
            self.flush()
        if publishing.is_behind:
            self._listener.hold(self)

    def charge(self, messages: int) -> None:
        """For bytes that carried no packet and were work: they count like so many messages."""
        self.messages_left -= messages
        if self.messages_left < 0:
            self._slow_down()

    def _slow_down(self) -> None:
        if not self._slowed:
            self._slowed = True
            self.pause()

    def failed_below(self, detail: str) -> None:
        """The peer broke the protocol that carries MQTT."""
        self._end(Ended.PROTOCOL_ERROR, detail)
        self._not_let_in("websocket.failed", detail)
        self.eof_received()

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
                self.publishing.publish(event)
            elif kind is PubAck or kind is PubComp:
                if delivery is not None:
                    delivery.finished(event.packet_id)
            else:
                _HANDLERS[kind](self, event)
        if delivery is not None and delivery.queue is not None and self.alive:
            delivery.pump()
        if self._publishing is not None and self._publishing.is_behind:
            self._listener.hold(self)
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
            try:
                if isinstance(request, Subscribe):
                    await router.subscribe(self, request)
                else:
                    await router.unsubscribe(self, request)
            except PacketTooLarge as error:  # the answer, without which the client cannot go on
                self.close(reasons.IMPLEMENTATION_SPECIFIC, error.detail, Ended.PROTOCOL_ERROR)
        self._requests = None

    def _on_disconnect(self, _disconnect: Disconnect) -> None:
        self._end(Ended.CLIENT_DISCONNECT, "disconnected by the device")

    def _on_timeout(self, event: TimedOut) -> None:
        self._end(Ended.KEEP_ALIVE_TIMEOUT, event.detail)
        self._not_let_in("mqtt.timeout", event.detail)

    def _on_failure(self, event: ProtocolFailed) -> None:
        self._end(Ended.PROTOCOL_ERROR, event.detail)
        is_version = event.reason == Reason.UNSUPPORTED_PROTOCOL_VERSION
        self._not_let_in("mqtt.version" if is_version else "mqtt.malformed", event.detail)

    def _not_let_in(self, code: str, detail: str) -> None:
        """It is said who it was, as far as that is known; of a connection that was let in, its end says why."""
        if self.visitor is not None:
            self.visitor.refuse(Refusal("mqtt", code, detail, protocol_of(self.session.protocol_level)))
        elif self.principal is None:
            self._listener.happenings.not_authenticated(self, code, detail)

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
        session = self.session
        data = session.take_outgoing()
        if data and not transport.is_closing():
            self._write(transport, data)
        if session.phase is CLOSED and not transport.is_closing():
            if data:
                hang_up(transport, self)
            else:
                let_go(transport)
            self._listener.admission.leave(self)

    def _write(self, transport: Any, data: bytes) -> None:
        """At once where nothing waits before it, and nothing lies between us and the socket (TLS, WebSocket): a PUBACK
        through the transport costs half a microsecond more."""
        if self._descriptor >= 0 and not transport.get_write_buffer_size():
            try:  # noqa: SIM105  # which costs as much as the rest
                data = data[os.write(self._descriptor, data) :]
            except OSError:  # full, or gone: the transport finds out and deals with it
                pass
        if data:
            transport.write(data)

    # -- the end ---------------------------------------------------------------------------------------------------------

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

    def denied_subscription(self, topic_filter: str) -> None:
        self._listener.denied(self, topic_filter)
        self._listener.happenings.subscription_denied(self, topic_filter)

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
    def publishing(self) -> Publishing:
        if self._publishing is None:
            self._publishing = Publishing(self, self._listener)
        return self._publishing

    def forget_routes(self) -> None:
        """The profile has changed."""
        if self._publishing is not None:
            self._publishing.forget_routes()

    @property
    def alive(self) -> bool:
        return self._transport is not None and self.session.phase is not CLOSED

    @property
    def tenant_id(self) -> UUID:
        assert self.principal is not None
        return self.principal.tenant_id


_NO_SHARES: dict[str, StoredSubscription] = {}
"""Of the many connections that share nothing; replaced, never filled."""


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

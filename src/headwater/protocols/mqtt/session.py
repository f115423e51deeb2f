"""The server's side of one MQTT connection: bytes, commands and time come in; events, bytes and a deadline come out.

Owns the order of packets, the limits of both sides, acknowledgements, topic aliases, keep-alive and the will. Knows no
sockets, clocks, devices or tenants. Invariants:

- After CLOSED nothing is read and nothing but the bytes already queued is sent; the owner sends those and closes.
- Every QoS 1 and 2 Publish event is settled once, by `acknowledge` or `acknowledge_many`; the receipts leave in the order in
  which the publishes came, whatever order they are settled in.
- A durable session says nothing that its owner has not stored: PUBREL waits for `release`, PUBCOMP for `complete`.
- Nothing grows beyond `Limits`: an incomplete packet, what waits for `accept`, aliases, cached topics, in-flight packets.

A CONNECT stops the reading: bytes behind it are kept unread until `accept`, which returns their events; only a client that
authenticates step by step (section 4.12) is read meanwhile, and may send nothing but AUTH and DISCONNECT. The peer's faults
are events, not exceptions (`ProtocolFailed`, behind the events of the packets before it); ours are `LocalProtocolError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final

from msgspec.structs import replace

from headwater.protocols.mqtt import plain
from headwater.protocols.mqtt.decode import Frame, decode_packet, find_frame, read_protocol_level
from headwater.protocols.mqtt.deliverable import HEAD_BYTES_MAX, V5, Deliverable, Split, publish_head
from headwater.protocols.mqtt.encode import encode_packet
from headwater.protocols.mqtt.errors import LocalProtocolError, PacketTooLarge, RemoteProtocolError, WouldBlock
from headwater.protocols.mqtt.events import ConnectionLost, Event, ProtocolFailed, TimedOut
from headwater.protocols.mqtt.inflight import EXACTLY_ONCE, Awaited, Inbound, Outbound
from headwater.protocols.mqtt.limits import Limits
from headwater.protocols.mqtt.packet_types import PacketType
from headwater.protocols.mqtt.packets import (
    CLASS_OF,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from headwater.protocols.mqtt.properties import EMPTY, Properties
from headwater.protocols.mqtt.reasons import ALLOWED, Reason, v3_return_code
from headwater.protocols.mqtt.topic_memory import SentAliases, TopicMemory
from headwater.protocols.mqtt.wire import VARIABLE_INTEGER_MAX, encode_variable_integer, is_text, malformed, protocol_error

__all__ = ["CLOSED", "CONNECTED", "STEPS", "Limits", "Phase", "ServerSession"]


class Phase(Enum):
    AWAIT_CONNECT = "await connect"
    AWAIT_ACCEPT = "await accept"
    CONNECTED = "connected"
    CLOSED = "closed"


class Turn(Enum):
    """Who has to speak next in an authentication exchange (section 4.12)."""

    NOBODY = "nobody"
    OURS = "ours"
    THEIRS = "theirs"


# Every legal step is a row; a packet without a row is a protocol error.
STEPS: Final[Mapping[Phase, Mapping[type, Phase]]] = {
    Phase.AWAIT_CONNECT: {Connect: Phase.AWAIT_ACCEPT},  # first packet [MQTT-3.1.0-1]
    Phase.AWAIT_ACCEPT: {  # [MQTT-3.1.2-30]; read only of a client that gave an authentication method
        Auth: Phase.AWAIT_ACCEPT,
        Disconnect: Phase.CLOSED,
    },
    Phase.CONNECTED: {  # no second CONNECT [MQTT-3.1.0-2]
        Publish: Phase.CONNECTED,
        PubAck: Phase.CONNECTED,
        PubRec: Phase.CONNECTED,
        PubRel: Phase.CONNECTED,
        PubComp: Phase.CONNECTED,
        Subscribe: Phase.CONNECTED,
        Unsubscribe: Phase.CONNECTED,
        PingReq: Phase.CONNECTED,
        Auth: Phase.CONNECTED,
        Disconnect: Phase.CLOSED,
    },
    Phase.CLOSED: {},
}

_AUTH_DUE: Final[Mapping[Turn, int | None]] = {
    Turn.NOBODY: Reason.REAUTHENTICATE,
    Turn.OURS: None,
    Turn.THEIRS: Reason.CONTINUE_AUTHENTICATION,
}
CONNECTED: Final = Phase.CONNECTED
CLOSED: Final = Phase.CLOSED
"""By names of their own: before Python 3.12 `Phase.CONNECTED` is a call, 0.1 microseconds where every message passes."""
_SESSION_NEVER_EXPIRES: Final = 0xFFFF_FFFF  # section 3.1.2.11.2
_UNSUPPORTED_VERSION: Final = b"\x20\x02\x00\x01"  # in the form of 3.1.1: what a version that we lack reads is unknown


class ServerSession:
    """See the module. `opened_at` starts the CONNECT deadline; without it the first `tick` or `receive` does."""

    __slots__ = (
        "_form",
        "_in_flight_max",
        "_inbound",
        "_limits",
        "_out",
        "_outbound",
        "_problem_information",
        "_response_information",
        "_rest",
        "_seen_at",
        "_sent_aliases",
        "_topics",
        "_turn",
        "_wanted",
        "authentication_method",
        "clean_start",
        "client_id",
        "client_packet_bytes_max",
        "client_receive_maximum",
        "is_durable",
        "keep_alive_s",
        "phase",
        "protocol_level",
        "session_expiry_s",
        "tells_each",
        "will",
    )

    def __init__(self, limits: Limits, opened_at: float | None = None) -> None:
        self._limits = limits
        self.phase = Phase.AWAIT_CONNECT
        self.protocol_level = 0
        """3, 4 or 5; 0 until a CONNECT has come."""
        self.client_id = ""
        self.clean_start = True
        self.keep_alive_s = 0
        self.session_expiry_s = 0
        self.client_packet_bytes_max = VARIABLE_INTEGER_MAX
        self.client_receive_maximum = 0xFFFF
        self.will: Will | None = None
        """What to publish once the connection has ended; None after a normal DISCONNECT. [MQTT-3.1.2-8], [MQTT-3.1.2-10]"""
        self.authentication_method: str | None = None
        self.is_durable = False
        """Set by the owner, before `accept`, of a session that outlives its connection: see the module's third invariant."""
        self.tells_each = False
        """Every PUBACK is an event; without, one of those that came together, which says that there is room again."""
        self._turn = Turn.NOBODY
        self._form = 0x30
        self._in_flight_max = limits.send_maximum
        self._sent_aliases: SentAliases | None = None
        self._problem_information = True
        self._response_information = False
        self._seen_at = opened_at
        self._rest: bytearray | None = None
        self._wanted = 0
        self._topics = TopicMemory()
        self._inbound = Inbound()
        self._outbound: Outbound | None = None
        self._out: list[bytes] = []

    # -- bytes in ------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Event]:
        """The events of what is complete now; b"" is the end of the stream. Never raises for what the peer did.

        now  seconds of a clock that only rises, here and wherever the session is told the time
        """
        if not data:
            return self._end_of_stream()
        if self._seen_at is None:
            self._seen_at = now
        rest = self._rest
        if rest is not None:
            rest += data
            if len(rest) < self._wanted:
                return []
            if self.phase is Phase.AWAIT_ACCEPT and self.authentication_method is None:
                return [self._fail(RemoteProtocolError(Reason.QUOTA_EXCEEDED, "too much sent before the CONNACK"))]
            data = bytes(rest)
            self._rest = None
        return self._read(data, now)

    def _end_of_stream(self) -> list[Event]:
        if self.phase is CLOSED:
            return []
        self._close()
        return [ConnectionLost()]

    def _read(self, data: bytes, now: float) -> list[Event]:
        """Plain publishes and receipts go through flat loops (protocols/mqtt/plain.py), all others through `_take`."""
        events: list[Event] = []
        emit = events.append
        size = len(data)
        at = 0
        try:
            while at < size:
                phase = self.phase
                if phase is CONNECTED:
                    at = plain.read_publishes(data, at, emit, self._topics, self._inbound, self._limits, self._form > V5)
                    if at == size:
                        break
                    if data[at] in plain.SHORT_RECEIPTS and (at := self._read_receipts(data, at, emit)) == size:
                        break
                elif phase is not Phase.AWAIT_CONNECT and not self._is_authenticating:
                    break
                frame = self._frame(data, at)
                if frame is None:
                    break
                event = self._take(data[at], data, frame)
                at = frame.stop
                if event is not None:
                    emit(event)
        except RemoteProtocolError as error:
            emit(self._fail(error))
        if at:
            self._seen_at = now
        if at < size and self.phase is not CLOSED:
            self._keep(data, at)
        return events

    @property
    def _is_authenticating(self) -> bool:
        return self.phase is Phase.AWAIT_ACCEPT and self.authentication_method is not None

    def _read_receipts(self, data: bytes, at: int, emit: Callable[[Event], None]) -> int:
        awaited = self._outbound.awaited if self._outbound is not None else {}
        return plain.read_receipts(
            data, at, emit, inbound=self._inbound, awaited=awaited, out=self._out, is_durable=self.is_durable,
            tells_each=self.tells_each or self.is_durable,
        )  # fmt: skip

    def _frame(self, data: bytes, at: int) -> Frame | None:
        """The packet at `at` when it is complete, and may come now, and is not too large."""
        packet_class = CLASS_OF.get(data[at] >> 4)
        if packet_class is None:  # section 2.1.2
            raise malformed(f"packet type {data[at] >> 4} does not exist")
        if packet_class not in STEPS[self.phase]:
            raise protocol_error(f"{packet_class.__name__} may not come in phase {self.phase.value!r}")
        frame = find_frame(data, at, self.protocol_level)
        if frame is None:
            self._wanted = len(data) - at + 1
            return None
        limits = self._limits
        bytes_max = limits.packet_bytes_max if self.phase is CONNECTED else limits.connect_bytes_max
        if frame.stop - at > bytes_max:  # section 3.2.2.3.6
            raise RemoteProtocolError(
                Reason.PACKET_TOO_LARGE, f"a packet of {frame.stop - at} bytes, {bytes_max} are allowed"
            )
        if frame.stop > len(data):
            self._wanted = frame.stop - at
            return None
        return frame

    def _take(self, first: int, data: bytes, frame: Frame) -> Event | None:
        """Decodes one packet, does what the session owes for it, and moves to the next phase."""
        if first >> 4 == PacketType.CONNECT:
            self.protocol_level = read_protocol_level(data, *frame)  # a refusal needs it even when the rest is malformed
        packet = decode_packet(first, data, frame.body, frame.stop, self.protocol_level)
        following = STEPS[self.phase][type(packet)]
        event = _HANDLERS[type(packet)](self, packet)
        self.phase = following
        return event

    def _keep(self, data: bytes, at: int) -> None:
        if self.phase is Phase.AWAIT_ACCEPT and self.authentication_method is None:
            self._wanted = self._limits.packet_bytes_max + 1
        self._rest = bytearray(data[at:]) if at else bytearray(data)

    # -- packets -------------------------------------------------------------------------------------------------------

    def _on_connect(self, connect: Connect) -> Connect:
        _check_client_id(connect)
        if connect.will is not None:
            self._check_will(connect.will, connect.protocol_level)
        self.client_id = connect.client_id
        self.clean_start = connect.clean_start
        self.keep_alive_s = connect.keep_alive_s
        self.will = connect.will
        if connect.protocol_level == 5:
            self._read_properties(connect.properties)
        else:
            self.session_expiry_s = 0 if connect.clean_start else _SESSION_NEVER_EXPIRES
        return connect

    def _read_properties(self, properties: Properties) -> None:
        limits = self._limits
        self.session_expiry_s = properties.session_expiry_s or 0
        self.client_packet_bytes_max = properties.packet_bytes_max or VARIABLE_INTEGER_MAX
        self.client_receive_maximum = properties.receive_maximum or 0xFFFF
        self._in_flight_max = min(self.client_receive_maximum, limits.send_maximum)
        aliases_max = min(properties.topic_alias_maximum or 0, limits.topic_aliases_sent_max)  # [MQTT-3.1.2-27]
        self._sent_aliases = SentAliases(aliases_max) if aliases_max else None
        self._form = V5 | 0x30
        self._problem_information = properties.request_problem_information != 0
        self._response_information = properties.request_response_information == 1
        self.authentication_method = properties.authentication_method
        if self.authentication_method is not None:
            self._turn = Turn.OURS

    def _check_will(self, will: Will, level: int) -> None:
        limits = self._limits
        self._check_topic(will.topic, Reason.TOPIC_NAME_INVALID)
        if level == 5:
            if will.qos > limits.maximum_qos:  # [MQTT-3.2.2-12]
                raise RemoteProtocolError(Reason.QOS_NOT_SUPPORTED, f"the maximum QoS is {limits.maximum_qos}")
            if will.retain and not limits.retain_available:  # [MQTT-3.2.2-13]
                raise RemoteProtocolError(Reason.RETAIN_NOT_SUPPORTED, "retained messages are not supported")
            if will.properties.payload_format == 1 and not is_text(will.payload):  # section 3.1.3.2.3
                raise RemoteProtocolError(Reason.PAYLOAD_FORMAT_INVALID, "the will claims to be UTF-8 and is not")

    def _check_topic(self, topic: str, reason: Reason) -> None:
        bytes_max = self._limits.topic_bytes_max
        if len(topic) > bytes_max or (len(topic) * 4 > bytes_max and len(topic.encode("utf-8")) > bytes_max):
            raise RemoteProtocolError(reason, f"a topic has more than {bytes_max} bytes")

    def _on_publish(self, publish: Publish) -> Publish | None:
        limits = self._limits
        if publish.qos > limits.maximum_qos:  # section 3.2.2.3.4
            raise RemoteProtocolError(Reason.QOS_NOT_SUPPORTED, f"the maximum QoS is {limits.maximum_qos}")
        if publish.retain and not limits.retain_available and self.protocol_level == 5:  # [MQTT-3.2.2-14]
            raise RemoteProtocolError(Reason.RETAIN_NOT_SUPPORTED, "retained messages are not supported")
        self._check_topic(publish.topic, Reason.TOPIC_NAME_INVALID)
        if publish.properties is not None:
            publish = self._resolve(publish, publish.properties)
        self._topics.remember(publish.topic, limits.topics_cached_max)
        if publish.qos == 0:
            return publish
        if publish.qos == 2 and self._is_repetition(publish.packet_id):
            return None
        if self.protocol_level == 5 and len(self._inbound) >= limits.receive_maximum:  # [MQTT-3.3.4-7]
            raise RemoteProtocolError(Reason.RECEIVE_MAXIMUM_EXCEEDED, f"the receive maximum is {limits.receive_maximum}")
        if publish.qos == 1:
            self._inbound.waiting.append(publish.packet_id)
        else:
            self._inbound.begin_exactly_once(publish.packet_id)
        return publish

    def _is_repetition(self, packet_id: int) -> bool:
        """Whether this QoS 2 publish has been delivered already; then only its PUBREC is due, again. [MQTT-4.3.3-10]"""
        received = self._inbound.received
        if received is None or packet_id not in received:
            return False
        if not self._inbound.is_waiting(packet_id | EXACTLY_ONCE):
            self._queue(PubRec(packet_id))
        return True

    def _resolve(self, publish: Publish, properties: Properties) -> Publish:
        if properties.subscription_identifiers:  # [MQTT-3.3.4-6]
            raise protocol_error("a client's PUBLISH has a subscription identifier")
        alias = properties.topic_alias
        if alias is None:
            return publish
        topic = self._topics.resolve(alias, publish.topic, self._limits.topic_alias_maximum)
        return publish if publish.topic else replace(publish, topic=topic)

    def _on_puback(self, puback: PubAck) -> PubAck | None:
        if not self._is_due(puback):
            return None
        self._free(puback.packet_id)
        return puback

    def _on_pubrec(self, pubrec: PubRec) -> PubRec | None:
        """Answered with PUBREL [MQTT-4.3.3-4] unless it is an error, which frees the packet id [MQTT-4.4.0-2].

        An event where the owner has something to do: to store it, or to know that the packet id is free."""
        packet_id = pubrec.packet_id
        due = self._due(packet_id)
        if due is PubRel:
            return None  # the owner is storing the first one: its `release` answers both
        if due is PubAck:
            raise _not_due(pubrec, due)
        if due is not PubRec:
            if pubrec.reason < 0x80:
                self._queue(PubRel(packet_id, Reason.SUCCESS if due is PubComp else Reason.PACKET_IDENTIFIER_NOT_FOUND))
            return None
        if pubrec.reason >= 0x80:
            self._free(packet_id)
        elif self.is_durable:
            self._await(packet_id, PubRel)
        else:
            self.release(packet_id)
            return None
        return pubrec

    def _on_pubcomp(self, pubcomp: PubComp) -> PubComp | None:
        if not self._is_due(pubcomp):
            return None
        self._free(pubcomp.packet_id)
        return pubcomp

    def _is_due(self, receipt: PubAck | PubComp) -> bool:
        """False for one of nothing in flight: a late answer to an earlier connection of the same session. Where another
        packet comes next, this one is a protocol error. [MQTT-4.3.2-4], [MQTT-4.3.3-8]"""
        due = self._due(receipt.packet_id)
        if due is not None and due is not type(receipt):
            raise _not_due(receipt, due)
        return due is not None

    def _due(self, packet_id: int) -> Awaited | None:
        return self._outbound.awaited.get(packet_id) if self._outbound is not None else None

    def _await(self, packet_id: int, answer: Awaited) -> None:
        outbound = self._outbound = self._outbound or Outbound()
        outbound.awaited[packet_id] = answer

    def _free(self, packet_id: int) -> None:
        if self._outbound is not None:
            del self._outbound.awaited[packet_id]

    def _on_pubrel(self, pubrel: PubRel) -> PubRel | None:
        """Answered with PUBCOMP [MQTT-4.3.3-11]. The event tells the owner of a durable session that the packet id need not
        be kept any longer."""
        packet_id = pubrel.packet_id
        inbound = self._inbound
        if inbound.is_waiting(packet_id | EXACTLY_ONCE):
            raise protocol_error(f"PUBREL before the PUBREC for {packet_id}")
        if inbound.received is None or packet_id not in inbound.received:
            self._queue(PubComp(packet_id, Reason.PACKET_IDENTIFIER_NOT_FOUND))
            return None
        if self.is_durable:
            return pubrel if inbound.release(packet_id) else None
        inbound.complete(packet_id)
        self._queue(PubComp(packet_id))
        return None

    def _on_subscribe(self, subscribe: Subscribe) -> Subscribe:
        limits = self._limits
        filters = [each.topic_filter for each in subscribe.subscriptions]
        for topic_filter in filters:
            self._check_topic(topic_filter, Reason.TOPIC_FILTER_INVALID)
        if self.protocol_level != 5:
            return subscribe
        if subscribe.properties.subscription_identifiers and not limits.subscription_identifiers_available:
            raise RemoteProtocolError(  # section 3.2.2.3.12
                Reason.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED, "subscription identifiers are not supported"
            )
        if not limits.shared_subscriptions_available and any(each.startswith("$share/") for each in filters):
            raise RemoteProtocolError(  # section 3.2.2.3.13
                Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED, "shared subscriptions are not supported"
            )
        if not limits.wildcard_subscriptions_available and any("+" in each or "#" in each for each in filters):
            raise RemoteProtocolError(  # section 3.2.2.3.11
                Reason.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED, "wildcards are not supported"
            )
        return subscribe

    def _on_unsubscribe(self, unsubscribe: Unsubscribe) -> Unsubscribe:
        return unsubscribe

    def _on_pingreq(self, _ping: PingReq) -> None:
        self._queue(PingResp())  # [MQTT-3.12.4-1]

    def _on_disconnect(self, disconnect: Disconnect) -> Disconnect:
        if self.phase is Phase.AWAIT_ACCEPT:
            self._end_without_will()
            return disconnect
        expiry_s = disconnect.properties.session_expiry_s
        if expiry_s is not None:
            if expiry_s and not self.session_expiry_s:  # section 3.14.2.2.2
                raise protocol_error("a session that ends with its connection is given an expiry in DISCONNECT")
            self.session_expiry_s = expiry_s
        if disconnect.reason == Reason.SUCCESS:
            self.will = None  # [MQTT-3.14.4-3]
        self._close()
        return disconnect

    def _on_auth(self, auth: Auth) -> Auth:
        """An answer to our `challenge`, or the begin of a re-authentication. Anything else is not the client's to say."""
        method = self.authentication_method
        if method is None:  # [MQTT-4.12.0-7]
            raise protocol_error("AUTH without an authentication method in CONNECT")
        if auth.properties.authentication_method != method:  # [MQTT-4.12.0-5], [MQTT-4.12.1-1], section 3.15.2.2.2
            raise protocol_error("AUTH with another authentication method than CONNECT")
        if auth.reason != _AUTH_DUE[self._turn]:  # [MQTT-4.12.0-3]
            raise protocol_error(f"AUTH 0x{auth.reason:02X} is not due")
        self._turn = Turn.OURS
        return auth

    # -- the owner's commands ------------------------------------------------------------------------------------------

    def accept(
        self,
        now: float,
        session_present: bool = False,
        *,
        assigned_client_id: str | None = None,
        session_expiry_s: int | None = None,
        reason_string: str | None = None,
        user_properties: tuple[tuple[str, str], ...] = (),
        response_information: str | None = None,
        authentication_data: bytes | None = None,
        received: Iterable[int] = (),
    ) -> list[Event]:
        """CONNACK 0x00 [MQTT-3.1.4-5], and the events of what came behind the CONNECT. A client that allows no packet of its
        size is refused, or it would wait for ever: then the event is ProtocolFailed.

        assigned_client_id    needed when the client gave none [MQTT-3.1.3-6]; version 5 tells it the client [MQTT-3.1.3-7]
        session_expiry_s      when it differs from what the client asked for
        response_information  told only to a client that asked for it [MQTT-3.1.2-28]
        authentication_data   the last word of an exchange; the method is told with it [MQTT-4.12.0-4], [MQTT-4.12.0-6]
        received              the resumed session's QoS 2 packet ids between PUBLISH and PUBREL
        """
        if self.phase is not Phase.AWAIT_ACCEPT:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"accept in phase {self.phase.value!r}")
        if session_present and self.clean_start:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, "a clean start has no session present")  # [MQTT-3.2.2-2]
        if self.client_id:
            assigned_client_id = None
        elif assigned_client_id:
            self.client_id = assigned_client_id
        else:
            raise LocalProtocolError(Reason.CLIENT_IDENTIFIER_NOT_VALID, "the client needs an identifier")
        if session_expiry_s is not None:
            self.session_expiry_s = session_expiry_s
        properties = EMPTY
        if self.protocol_level == 5:
            properties = self._limits.announce(
                assigned_client_id=assigned_client_id,
                session_expiry_s=session_expiry_s,
                server_keep_alive_s=self._cap_keep_alive(),
                reason_string=reason_string,
                user_properties=user_properties,
                response_information=response_information if self._response_information else None,
                authentication_method=self.authentication_method,
                authentication_data=authentication_data if self.authentication_method is not None else None,
            )
        connack = self._encode(ConnAck(session_present, Reason.SUCCESS, properties))
        if len(connack) > self.client_packet_bytes_max:
            return [self._fail(_no_room(len(connack), self.client_packet_bytes_max))]
        self._inbound.restore(received)
        self._turn = Turn.NOBODY
        self.phase = CONNECTED
        self._seen_at = now
        self._out.append(connack)
        rest = self._rest
        if rest is None:
            return []
        self._rest = None
        return self._read(bytes(rest), now)

    def _cap_keep_alive(self) -> int | None:
        """The Server Keep Alive to announce, if the client's is not short enough. [MQTT-3.1.2-21]"""
        cap = self._limits.keep_alive_s_max
        if 0 < self.keep_alive_s <= cap:
            return None
        self.keep_alive_s = cap
        return cap

    def refuse(self, reason: int, reason_string: str | None = None, server_reference: str | None = None) -> None:
        """CONNACK with an error, then CLOSED; what came behind the CONNECT is dropped. [MQTT-3.1.4-6], [MQTT-3.2.2-7]"""
        if self.phase is CLOSED:
            return
        if self.phase is not Phase.AWAIT_ACCEPT:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"refuse in phase {self.phase.value!r}")
        if reason < 0x80 or reason not in ALLOWED[PacketType.CONNACK]:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"a CONNACK cannot refuse with 0x{reason:02X}")
        self._queue_refusal(reason, _explanation(reason_string, server_reference))
        self._end_without_will()

    def _queue_refusal(self, reason: int, properties: Properties) -> None:
        if self.protocol_level == 5:
            self._queue(ConnAck(False, reason, properties))
        elif (code := v3_return_code(reason)) is not None:
            self._queue(ConnAck(False, code))

    def challenge(self, data: bytes | None, reason_string: str | None = None) -> None:
        """AUTH 0x18: the client's next word is an Auth event. [MQTT-4.12.0-2]; without effect once the connection has ended.

        Raises   PacketTooLarge, or another LocalProtocolError where it is not our turn
        """
        if self.phase is not CLOSED:
            self._say_auth(Reason.CONTINUE_AUTHENTICATION, data, reason_string)
            self._turn = Turn.THEIRS

    def reauthenticated(self, data: bytes | None = None, reason_string: str | None = None) -> None:
        """AUTH 0x00: the exchange that the client began with AUTH 0x19 ends well (section 4.12.1); else `disconnect`."""
        if self.phase is CLOSED:
            return
        if self.phase is not CONNECTED:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"reauthenticated in phase {self.phase.value!r}")
        self._say_auth(Reason.SUCCESS, data, reason_string)
        self._turn = Turn.NOBODY

    def _say_auth(self, reason: int, data: bytes | None, reason_string: str | None) -> None:
        if self._turn is not Turn.OURS:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, "no AUTH of ours is due")
        properties = Properties(
            authentication_method=self.authentication_method, authentication_data=data, reason_string=reason_string
        )
        encoded = self._encode(Auth(reason, properties))
        self._check_size(len(encoded))
        self._out.append(encoded)

    def acknowledge_many(self, packet_ids: list[int]) -> None:
        """Settles publishes with reason 0x00. Fastest for the oldest ones, QoS 1, in their order: so batches come back."""
        if self.phase is not CONNECTED:
            return  # the connection ended while the stream was storing them
        settled, receipts = plain.settle_in_order(self._inbound, packet_ids)
        if receipts:
            self._out.append(receipts)
        for packet_id in packet_ids[settled:]:
            self.acknowledge(packet_id)

    def acknowledge(self, packet_id: int, reason: int = 0, reason_string: str | None = None) -> None:
        """Settles one publish with PUBACK (QoS 1) or PUBREC (QoS 2); without effect once the connection has ended.

        reason   0x00, 0x10 or an error. Version 3 cannot say an error and is sent a positive receipt, as its [MQTT-3.3.5-2]
                 allows; where the client should send again, `disconnect` instead.
        """
        if self.phase is not CONNECTED:
            return
        if reason not in ALLOWED[PacketType.PUBACK]:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"a PUBACK cannot carry 0x{reason:02X}")
        properties = _explanation(reason_string)
        if self._inbound.is_waiting(packet_id):
            receipt = self._encode(PubAck(packet_id, reason, properties))
            self._out += self._inbound.settle(packet_id, receipt, is_refused=False)
        elif self._inbound.is_waiting(packet_id | EXACTLY_ONCE):
            receipt = self._encode(PubRec(packet_id, reason, properties))
            is_refused = reason >= 0x80 and self.protocol_level == 5
            self._out += self._inbound.settle(packet_id | EXACTLY_ONCE, receipt, is_refused)
        else:
            raise LocalProtocolError(Reason.PACKET_IDENTIFIER_NOT_FOUND, f"{packet_id} does not wait for a receipt")

    def deliver(
        self,
        message: Deliverable,
        qos: int,
        *,
        retain: bool = False,
        identifiers: tuple[int, ...] = (),
        packet_id: int | None = None,
        dup: bool = False,
    ) -> int:
        """Queues a message for the client. Returns the packet id, which a PubAck, a PubComp or a failed PubRec event frees.

        Returns         0 at QoS 0
        identifiers     of the subscriptions that it answers [MQTT-3.3.4-3]; version 3 has none
        packet_id, dup  of an earlier connection, for what a resumed session sends again [MQTT-4.4.0-1]
        Raises          WouldBlock, PacketTooLarge, or another LocalProtocolError; nothing is queued then
        """
        if self.phase is not CONNECTED:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"deliver in phase {self.phase.value!r}")
        form = self._form | retain
        own = None
        if qos == 0:
            if dup:
                raise LocalProtocolError(Reason.PROTOCOL_ERROR, "DUP at QoS 0")  # [MQTT-3.3.1-2]
            if identifiers or self._sent_aliases is not None:
                own = self._make_own(message, form, identifiers)
            packet = own.joined if own is not None else message.whole.get(form) if message.whole is not None else None
            if packet is None:
                packet = message.make_whole(form)
            if len(packet) > self.client_packet_bytes_max:
                self._check_size(len(packet))
            self._out.append(packet)
            return 0
        if qos > self._limits.maximum_qos:
            raise LocalProtocolError(Reason.QOS_NOT_SUPPORTED, f"the maximum QoS is {self._limits.maximum_qos}")
        outbound = self._outbound
        if outbound is None:
            outbound = self._outbound = Outbound()
        awaited = outbound.awaited
        if len(awaited) >= self._in_flight_max:
            raise WouldBlock(Reason.RECEIVE_MAXIMUM_EXCEEDED, "the client's receive maximum is used up")
        if packet_id is None:
            packet_id = outbound.free_packet_id()
        elif packet_id in awaited or not 0 < packet_id <= 0xFFFF:  # [MQTT-2.2.1-3], [MQTT-2.2.1-4]
            raise LocalProtocolError(Reason.PACKET_IDENTIFIER_IN_USE, f"{packet_id} is in flight, or none")
        form |= qos << 1 | dup << 3
        if identifiers or self._sent_aliases is not None:
            own = self._make_own(message, form, identifiers)
        split = own or (message.split.get(form) if message.split is not None else None) or message.make_split(form)
        head, tail, size = split
        if size > self.client_packet_bytes_max:
            self._check_size(size)
        awaited[packet_id] = PubAck if qos == 1 else PubRec
        self._out += (head, packet_id.to_bytes(2, "big"), tail)
        return packet_id

    def deliver_alone(self, topic_wire: bytes, payload: bytes, qos: int, *, retain: bool) -> bool:
        """As `deliver`, of a message that has no properties and is not encoded for anybody else.

        topic_wire  a valid topic, with its length in front
        Returns     False where it takes more than that, or cannot go now: nothing is queued then, and `deliver` knows
        """
        if self.phase is not CONNECTED or self._sent_aliases is not None:
            return False
        form = self._form | qos << 1 | retain
        between, outbound, packet_id = b"", self._outbound, 0
        if qos:
            if outbound is None or len(outbound.awaited) >= self._in_flight_max:
                return False
            packet_id = outbound.free_packet_id()
            between = packet_id.to_bytes(2, "big")
        if form & V5:
            between += b"\0"
        length = len(topic_wire) + len(between) + len(payload)
        if length + HEAD_BYTES_MAX > self.client_packet_bytes_max:
            return False
        if outbound is not None and packet_id:
            outbound.awaited[packet_id] = PubAck if qos == 1 else PubRec
        self._out += (publish_head(form, length), topic_wire, between, payload)
        return True

    def _make_own(self, message: Deliverable, form: int, identifiers: tuple[int, ...]) -> Split | None:
        """With this client's subscription identifiers, and its alias for the topic. None = it has neither."""
        own = b""
        if form & V5:
            own = b"".join(b"\x0b" + encode_variable_integer(identifier) for identifier in identifiers)
        aliases = self._sent_aliases
        alias = aliases.find(message.topic) if aliases is not None else None
        if alias is not None:
            return message.make_own(form, own + _alias(alias), with_topic=False)
        if aliases is not None and (alias := aliases.offer(message.topic)) is not None:
            introduced = message.make_own(form, own + _alias(alias), with_topic=True)
            if introduced.size <= self.client_packet_bytes_max:
                aliases.remember(message.topic)
                return introduced
        return message.make_own(form, own, with_topic=True) if own else None

    def _check_size(self, size: int) -> None:
        if size > self.client_packet_bytes_max:  # [MQTT-3.1.2-24]
            raise PacketTooLarge(Reason.PACKET_TOO_LARGE, f"{size} bytes, {self.client_packet_bytes_max} are allowed")

    def release(self, packet_id: int) -> None:
        """PUBREL. A session that is not durable sends it for every PUBREC itself; the owner of a durable one, once that
        PubRec is stored, and for what a resumed session had got so far. Without effect once the connection has ended."""
        if self.phase is CONNECTED:
            self._await(packet_id, PubComp)
            self._queue(PubRel(packet_id))

    def complete(self, packet_id: int) -> None:
        """PUBCOMP for a PubRel event of a durable session. Without effect once the connection has ended."""
        if self.phase is not CONNECTED:
            return
        if not self._inbound.is_released(packet_id):
            raise LocalProtocolError(Reason.PACKET_IDENTIFIER_NOT_FOUND, f"{packet_id} does not wait for a PUBCOMP")
        self._inbound.complete(packet_id)
        self._queue(PubComp(packet_id))

    def suback(self, packet_id: int, codes: Sequence[int], reason_string: str | None = None) -> None:
        """One code for each topic filter, in their order. [MQTT-3.8.4-1], [MQTT-3.8.4-6], [MQTT-3.9.3-1]

        Raises   PacketTooLarge; without its answer the client cannot go on: `disconnect`
        """
        self._answer(SubAck(packet_id, tuple(codes), _explanation(reason_string)))

    def unsuback(self, packet_id: int, codes: Sequence[int], reason_string: str | None = None) -> None:
        """One code for each topic filter; version 3 is sent none. [MQTT-3.10.4-4], [MQTT-3.11.3-1]; raises as `suback`."""
        self._answer(UnsubAck(packet_id, tuple(codes), _explanation(reason_string)))

    def _answer(self, packet: SubAck | UnsubAck) -> None:
        if self.phase is CONNECTED:
            encoded = self._encode(packet)
            self._check_size(len(encoded))
            self._out.append(encoded)

    def disconnect(self, reason: int, reason_string: str | None = None, server_reference: str | None = None) -> None:
        """Ends the connection from our side; `will` stays for the owner to publish. [MQTT-3.14.4-1]

        Before `accept` a version 5 client may not be sent a DISCONNECT [MQTT-3.14.0-1]: it is refused or just closed.
        """
        if reason not in ALLOWED[PacketType.DISCONNECT]:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"a DISCONNECT cannot carry 0x{reason:02X}")
        if self.phase is CONNECTED:
            if self.protocol_level == 5:
                self._queue(Disconnect(reason, _explanation(reason_string, server_reference)))
            self._close()
        elif self.phase is Phase.AWAIT_ACCEPT and reason >= 0x80 and reason in ALLOWED[PacketType.CONNACK]:
            self.refuse(reason, reason_string, server_reference)
        elif self.phase is not CLOSED:
            self._end_without_will()

    # -- time ----------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call `tick`; None = not needed. Minus infinity (at once) until the session has heard of any time."""
        if self.phase is CONNECTED:
            if self.keep_alive_s and self._seen_at is not None:
                return self._seen_at + 1.5 * self.keep_alive_s  # [MQTT-3.1.2-22]
            return None
        if self.phase is Phase.AWAIT_CONNECT:
            return float("-inf") if self._seen_at is None else self._seen_at + self._limits.connect_deadline_s
        if self.phase is Phase.AWAIT_ACCEPT and self._turn is Turn.THEIRS and self._seen_at is not None:
            return self._seen_at + self._limits.connect_deadline_s
        return None

    def tick(self, now: float) -> list[Event]:
        """TimedOut, once, where CONNECT, an AUTH or any packet at all (the keep-alive) is overdue."""
        if self._seen_at is None:
            self._seen_at = now
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        if self.phase is Phase.AWAIT_CONNECT:
            self._end_without_will()
            return [TimedOut(Reason.KEEP_ALIVE_TIMEOUT, "no CONNECT in time")]
        if self.phase is Phase.AWAIT_ACCEPT:
            self.refuse(Reason.NOT_AUTHORIZED, "no AUTH in time")
            return [TimedOut(Reason.KEEP_ALIVE_TIMEOUT, "no AUTH in time")]
        event = TimedOut(Reason.KEEP_ALIVE_TIMEOUT, f"no packet for one and a half times {self.keep_alive_s} s")
        self.disconnect(event.reason, event.detail)
        return [event]

    # -- bytes out -----------------------------------------------------------------------------------------------------

    @property
    def unacknowledged(self) -> int:
        """Publishes of the client that wait for `acknowledge`."""
        return len(self._inbound.waiting)

    @property
    def send_window(self) -> int:
        """How many more QoS 1 publishes may be sent before the client acknowledges one. [MQTT-3.3.4-9]"""
        return self._in_flight_max - (len(self._outbound) if self._outbound is not None else 0)

    @property
    def has_outgoing(self) -> bool:
        return bool(self._out)

    def take_outgoing(self) -> bytes:
        """What has been queued since the last call."""
        out = self._out
        if not out:
            return b""
        joined = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return joined

    def _queue(self, packet: Packet) -> None:
        encoded = self._encode(packet)
        if len(encoded) <= self.client_packet_bytes_max:  # [MQTT-3.1.2-24]
            self._out.append(encoded)

    def _encode(self, packet: Any) -> bytes:
        """Without reason string and user properties where the client does not want them or has no room for them."""
        level = self.protocol_level
        if level != 5 or isinstance(packet, PingResp) or packet.properties is EMPTY:
            return encode_packet(packet, level)
        if self._problem_information or isinstance(packet, (ConnAck, Disconnect)):  # [MQTT-3.1.2-29]
            encoded = encode_packet(packet, level)
            if len(encoded) <= self.client_packet_bytes_max:
                return encoded
        bare = replace(packet.properties, reason_string=None, user_properties=())  # [MQTT-3.2.2-19], [MQTT-3.4.2-2]
        return encode_packet(replace(packet, properties=bare), level)

    def _fail(self, error: RemoteProtocolError) -> ProtocolFailed:
        """Says so where the version and the phase allow it, and closes. [MQTT-4.13.1-1]; of 3.1.1 [MQTT-4.8.0-1]"""
        if self.phase is CONNECTED:
            self.disconnect(error.reason, error.detail)
        else:
            if error.reason == Reason.UNSUPPORTED_PROTOCOL_VERSION:  # [MQTT-3.1.2-2]
                self._out.append(_UNSUPPORTED_VERSION)
            elif self.protocol_level:
                self._queue_refusal(error.reason, _explanation(error.detail))
            self._end_without_will()
        return ProtocolFailed(error.reason, error.detail)

    def _end_without_will(self) -> None:
        self.will = None  # the connection was never accepted
        self._close()

    def _close(self) -> None:
        self.phase = CLOSED
        self._rest = None
        self._inbound = Inbound()
        self._outbound = None
        self._sent_aliases = None
        self._topics = TopicMemory()


def _check_client_id(connect: Connect) -> None:
    if connect.client_id or connect.protocol_level == 5:  # [MQTT-3.1.3-6]
        return
    if connect.protocol_level == 3 or not connect.clean_start:  # [MQTT-3.1.3-8] of 3.1.1
        raise RemoteProtocolError(Reason.CLIENT_IDENTIFIER_NOT_VALID, "the client identifier is empty")


def _no_room(size: int, bytes_max: int) -> RemoteProtocolError:
    return RemoteProtocolError(
        Reason.IMPLEMENTATION_SPECIFIC_ERROR, f"the CONNACK has {size} bytes, the client allows {bytes_max}"
    )


def _alias(alias: int) -> bytes:
    return b"\x23" + alias.to_bytes(2, "big")


def _not_due(receipt: PubAck | PubRec | PubComp, due: Awaited) -> RemoteProtocolError:
    return protocol_error(f"{type(receipt).__name__} for {receipt.packet_id}, where {due.__name__} comes next")


def _explanation(reason_string: str | None, server_reference: str | None = None) -> Properties:
    if reason_string is None and server_reference is None:
        return EMPTY
    return Properties(reason_string=reason_string, server_reference=server_reference)


_HANDLERS: Final[Mapping[type, Callable[[ServerSession, Any], Event | None]]] = {
    Connect: ServerSession._on_connect,
    Publish: ServerSession._on_publish,
    PubAck: ServerSession._on_puback,
    PubRec: ServerSession._on_pubrec,
    PubRel: ServerSession._on_pubrel,
    PubComp: ServerSession._on_pubcomp,
    Subscribe: ServerSession._on_subscribe,
    Unsubscribe: ServerSession._on_unsubscribe,
    PingReq: ServerSession._on_pingreq,
    Disconnect: ServerSession._on_disconnect,
    Auth: ServerSession._on_auth,
}

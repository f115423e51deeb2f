"""The server's side of one MQTT connection: bytes, commands and time come in; events, bytes and a deadline come out.

Owns the order of packets, the limits of both sides, acknowledgements, topic aliases, keep-alive and the will. Knows no
sockets, clocks, devices or tenants. Invariants:

- After CLOSED nothing is read and nothing but the bytes already queued is sent; the owner sends those and closes.
- Every QoS 1 Publish event is settled once, by `acknowledge` or `acknowledge_many`; PUBACKs leave in the order in which
  the PUBLISHes came [MQTT-4.6.0-2], whatever order they are settled in.
- Nothing grows beyond `Limits`: an incomplete packet, what waits for `accept`, aliases, cached topics, in-flight packets.

A CONNECT stops the reading: bytes behind it are kept unread until `accept`, which returns their events. The peer's faults
are events, not exceptions (`ProtocolFailed`, behind the events of the packets before it); ours are `LocalProtocolError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from msgspec.structs import replace

from headwater.protocols.mqtt.decode import Frame, decode_packet, find_frame, read_protocol_level
from headwater.protocols.mqtt.encode import encode_packet
from headwater.protocols.mqtt.errors import LocalProtocolError, PacketTooLarge, RemoteProtocolError, WouldBlock
from headwater.protocols.mqtt.events import ConnectionLost, Event, ProtocolFailed, TimedOut
from headwater.protocols.mqtt.packet_types import PacketType
from headwater.protocols.mqtt.packets import (
    CLASS_OF,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from headwater.protocols.mqtt.properties import EMPTY, Properties
from headwater.protocols.mqtt.reasons import ALLOWED, Reason, v3_return_code
from headwater.protocols.mqtt.wire import VARIABLE_INTEGER_MAX, protocol_error


class Phase(Enum):
    AWAIT_CONNECT = "await connect"
    AWAIT_ACCEPT = "await accept"
    CONNECTED = "connected"
    CLOSED = "closed"


# Every legal step is a row; a packet without a row is a protocol error.
STEPS: Final[Mapping[Phase, Mapping[type, Phase]]] = {
    Phase.AWAIT_CONNECT: {Connect: Phase.AWAIT_ACCEPT},  # first packet [MQTT-3.1.0-1]
    Phase.AWAIT_ACCEPT: {},  # nothing is read
    Phase.CONNECTED: {  # no second CONNECT [MQTT-3.1.0-2]; no AUTH without a method [MQTT-4.12.0-7]
        Publish: Phase.CONNECTED,
        PubAck: Phase.CONNECTED,
        Subscribe: Phase.CONNECTED,
        Unsubscribe: Phase.CONNECTED,
        PingReq: Phase.CONNECTED,
        Disconnect: Phase.CLOSED,
    },
    Phase.CLOSED: {},
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server bears. Shared by all sessions of a listener."""

    packet_bytes_max: int = 262_144
    """A larger packet is refused at its header. 256 KiB: the stream's record batch, and twice what AWS IoT Core takes."""
    connect_bytes_max: int = 65_536
    """The same for CONNECT, which comes from somebody who is not known yet."""
    receive_maximum: int = 256
    """Unacknowledged QoS 1 publishes. Version 3 has no such rule: there the owner stops reading (see `unacknowledged`)."""
    send_maximum: int = 100
    """Our unacknowledged publishes to a client that allows more."""
    topic_alias_maximum: int = 16
    """Each alias costs a topic name in memory."""
    topics_cached_max: int = 16
    """Validated topic names that are kept to save validating them again."""
    keep_alive_s_max: int = 1_200
    """A version 5 client with a longer keep-alive, or none, is told to use this one. 1,200 s is AWS IoT Core's cap."""
    connect_deadline_s: float = 10.0
    maximum_qos: int = 1
    retain_available: bool = False
    wildcard_subscriptions_available: bool = True
    subscription_identifiers_available: bool = False
    shared_subscriptions_available: bool = False


_PUBACK: Final = 0x40020000
_TOPIC_UNKNOWN_BYTES: Final = 1 << 31  # longer than any packet: sends the first publish of a session down the careful path
_SESSION_NEVER_EXPIRES: Final = 0xFFFF_FFFF  # section 3.1.2.11.2
_READING: Final = (Phase.AWAIT_CONNECT, Phase.CONNECTED)


class ServerSession:
    """See the module. `opened_at` starts the CONNECT deadline; without it the first `tick` or `receive` does."""

    __slots__ = (
        "_aliases",
        "_early",
        "_limits",
        "_next_packet_id",
        "_out",
        "_problem_information",
        "_rest",
        "_seen_at",
        "_sent",
        "_topic",
        "_topic_wire",
        "_topics",
        "_unsettled",
        "_wanted",
        "clean_start",
        "client_id",
        "client_packet_bytes_max",
        "client_receive_maximum",
        "keep_alive_s",
        "phase",
        "protocol_level",
        "session_expiry_s",
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
        self._problem_information = True
        self._seen_at = opened_at
        self._rest: bytearray | None = None
        self._wanted = 0
        self._topic = ""
        self._topic_wire = b""
        self._topics: dict[bytes, str] | None = None
        self._aliases: dict[int, str] | None = None
        self._unsettled: list[int] = []
        self._early: dict[int, list[bytes]] | None = None
        self._sent: set[int] | None = None
        self._next_packet_id = 1
        self._out: list[bytes] = []

    # -- bytes in ------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Event]:
        """The events of what is complete now; b"" is the end of the stream. Never raises for what the peer did."""
        if not data:
            return self._end_of_stream()
        if self._seen_at is None:
            self._seen_at = now
        rest = self._rest
        if rest is not None:
            rest += data
            if len(rest) < self._wanted:
                return []
            if self.phase is Phase.AWAIT_ACCEPT:
                return [self._fail(RemoteProtocolError(Reason.QUOTA_EXCEEDED, "too much sent before the CONNACK"))]
            data = bytes(rest)
            self._rest = None
        return self._read(data, now)

    def _end_of_stream(self) -> list[Event]:
        if self.phase is Phase.CLOSED:
            return []
        self._close()
        return [ConnectionLost()]

    def _read(self, data: bytes, now: float) -> list[Event]:
        """Plain publishes go through one flat loop (`_read_publishes`), every other packet through `_take`."""
        events: list[Event] = []
        emit = events.append
        size = len(data)
        at = 0
        try:
            while at < size and self.phase in _READING:
                if self.phase is Phase.CONNECTED:
                    at = self._read_publishes(data, at, emit)
                    if at == size:
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
        if at < size and self.phase is not Phase.CLOSED:
            self._keep(data, at)
        return events

    def _read_publishes(self, data: bytes, at: int, emit: Callable[[Event], None]) -> int:
        """Publishes at QoS 0 or 1 without DUP, RETAIN and properties, to a topic seen before, parsed in place.

        Returns where the first other packet stands, or the first that is incomplete or may be wrong: `_take` judges.
        """
        topic = self._topic
        topic_wire = self._topic_wire
        topic_bytes = len(topic_wire) or _TOPIC_UNKNOWN_BYTES
        topics = self._topics or {}
        unsettled = self._unsettled
        settle_later = unsettled.append
        starts_with = data.startswith
        is_v5 = self.protocol_level == 5
        receive_maximum = self._limits.receive_maximum
        # Lengths whose second byte is below this are within the maximum packet size for certain.
        second_end = min(128, (self._limits.packet_bytes_max - 130) >> 7)
        size = len(data)
        last = size - 2  # data[at + 2] exists below this
        while at < last:
            first = data[at]
            if first != 0x32 and first != 0x30:  # noqa: PLR1714  - a tuple costs 30 ns
                break
            length = data[at + 1]
            if length < 128:
                body = at + 2
                stop = body + length
            elif 0 < (second := data[at + 2]) < second_end:
                body = at + 3
                stop = body + (length & 127 | second << 7)
            else:
                break
            if stop > size:
                break
            if starts_with(topic_wire, body):
                end = body + topic_bytes
            elif stop < body + 2:
                break
            else:
                end = body + 2 + (data[body] << 8 | data[body + 1])
                wire = data[body:end]
                known = topics.get(wire)
                if known is None:
                    break
                topic = self._topic = known
                topic_wire = self._topic_wire = wire
                topic_bytes = len(wire)
            if first == 0x32:
                payload = end + 2
                if payload > stop:
                    break
                packet_id = data[end] << 8 | data[end + 1]
                if packet_id == 0:
                    break
                if is_v5:
                    if payload == stop or data[payload] or len(unsettled) >= receive_maximum:
                        break
                    payload += 1
                emit(Publish(topic, data[payload:stop], 1, False, False, packet_id, None))
                settle_later(packet_id)
            else:
                payload = end
                if is_v5:
                    if payload >= stop or data[payload]:
                        break
                    payload += 1
                elif payload > stop:
                    break
                emit(Publish(topic, data[payload:stop], 0, False, False, 0, None))
            at = stop
        return at

    def _frame(self, data: bytes, at: int) -> Frame | None:
        """The packet at `at` when it is complete, and may come now, and is not too large."""
        packet_class = CLASS_OF.get(data[at] >> 4)
        if packet_class not in STEPS[self.phase]:
            name = packet_class.__name__ if packet_class else "a reserved packet type"
            raise protocol_error(f"{name} may not come in phase {self.phase.value!r}")
        frame = find_frame(data, at, self.protocol_level)
        if frame is None:
            self._wanted = len(data) - at + 1
            return None
        limits = self._limits
        bytes_max = limits.connect_bytes_max if self.phase is Phase.AWAIT_CONNECT else limits.packet_bytes_max
        if frame.stop - at > bytes_max:  # [MQTT-3.2.2-15]
            raise RemoteProtocolError(
                Reason.PACKET_TOO_LARGE, f"a packet of {frame.stop - at} bytes, {bytes_max} are allowed"
            )
        if frame.stop > len(data):
            self._wanted = frame.stop - at
            return None
        return frame

    def _take(self, first: int, data: bytes, frame: Frame) -> Event | None:
        """Decodes one packet, does what the session owes for it, and moves to the next phase."""
        if first == 0x10:
            self.protocol_level = read_protocol_level(data, *frame)  # a refusal needs it even when the rest is malformed
        packet = decode_packet(first, data, frame.body, frame.stop, self.protocol_level)
        packet_class = type(packet)
        event = _HANDLERS[packet_class](self, packet)
        self.phase = STEPS[self.phase][packet_class]
        return event

    def _keep(self, data: bytes, at: int) -> None:
        if self.phase is Phase.AWAIT_ACCEPT:
            self._wanted = self._limits.packet_bytes_max + 1
        self._rest = bytearray(data[at:]) if at else bytearray(data)

    # -- packets -------------------------------------------------------------------------------------------------------

    def _on_connect(self, connect: Connect) -> Connect:
        _check_client_id(connect)
        limits = self._limits
        properties = connect.properties
        will = connect.will
        if properties.authentication_method is not None:  # [MQTT-4.12.0-1]
            raise RemoteProtocolError(Reason.BAD_AUTHENTICATION_METHOD, "extended authentication is not supported")
        if will is not None and connect.protocol_level == 5:
            if will.qos > limits.maximum_qos:  # [MQTT-3.2.2-12]
                raise RemoteProtocolError(Reason.QOS_NOT_SUPPORTED, f"the maximum QoS is {limits.maximum_qos}")
            if will.retain and not limits.retain_available:  # [MQTT-3.2.2-13]
                raise RemoteProtocolError(Reason.RETAIN_NOT_SUPPORTED, "retained messages are not supported")
        self.client_id = connect.client_id
        self.clean_start = connect.clean_start
        self.keep_alive_s = connect.keep_alive_s
        self.will = will
        if connect.protocol_level == 5:
            self.session_expiry_s = properties.session_expiry_s or 0
            self.client_packet_bytes_max = properties.packet_bytes_max or VARIABLE_INTEGER_MAX
            self.client_receive_maximum = properties.receive_maximum or 0xFFFF
            self._problem_information = properties.request_problem_information != 0
        else:
            self.session_expiry_s = 0 if connect.clean_start else _SESSION_NEVER_EXPIRES
        return connect

    def _on_publish(self, publish: Publish) -> Publish:
        limits = self._limits
        if publish.qos > limits.maximum_qos:  # section 3.2.2.3.4
            raise RemoteProtocolError(Reason.QOS_NOT_SUPPORTED, f"the maximum QoS is {limits.maximum_qos}")
        if self.protocol_level == 5:
            if publish.retain and not limits.retain_available:  # [MQTT-3.2.2-14]
                raise RemoteProtocolError(Reason.RETAIN_NOT_SUPPORTED, "retained messages are not supported")
            if publish.qos and len(self._unsettled) >= limits.receive_maximum:  # [MQTT-3.3.4-7]
                raise RemoteProtocolError(
                    Reason.RECEIVE_MAXIMUM_EXCEEDED, f"the receive maximum is {limits.receive_maximum}"
                )
            if publish.properties is not None:
                publish = self._resolve(publish, publish.properties)
        if publish.qos:
            self._unsettled.append(publish.packet_id)
        self._remember(publish.topic)
        return publish

    def _resolve(self, publish: Publish, properties: Properties) -> Publish:
        """Fills in the topic that a topic alias stands for. Aliases live as long as the connection. [MQTT-3.3.2-7]"""
        if properties.subscription_identifiers:  # [MQTT-3.3.4-6]
            raise protocol_error("a client's PUBLISH has a subscription identifier")
        alias = properties.topic_alias
        if alias is None:
            return publish
        if alias > self._limits.topic_alias_maximum:  # [MQTT-3.3.2-9]
            raise RemoteProtocolError(Reason.TOPIC_ALIAS_INVALID, f"topic alias {alias} is beyond the maximum")
        if self._aliases is None:
            self._aliases = {}
        if publish.topic:
            self._aliases[alias] = publish.topic
            return publish
        topic = self._aliases.get(alias)
        if topic is None:
            raise protocol_error(f"topic alias {alias} has no topic yet")  # section 3.3.2.3.4
        return Publish(topic, publish.payload, publish.qos, publish.retain, publish.dup, publish.packet_id, properties)

    def _remember(self, topic: str) -> None:
        """So that the next publish to this valid topic is parsed in place."""
        raw = topic.encode("utf-8")
        wire = len(raw).to_bytes(2, "big") + raw
        if self._topic_wire and self._topic_wire != wire:
            if self._topics is None or len(self._topics) >= self._limits.topics_cached_max:
                self._topics = {self._topic_wire: self._topic}
            self._topics[wire] = topic
        self._topic = topic
        self._topic_wire = wire

    def _on_puback(self, puback: PubAck) -> PubAck | None:
        """None for one that is not in flight: a late answer to an earlier connection of the same session."""
        if self._sent is None or puback.packet_id not in self._sent:
            return None
        self._sent.discard(puback.packet_id)
        if not self._sent:
            self._sent = None
        return puback

    def _on_subscribe(self, subscribe: Subscribe) -> Subscribe:
        limits = self._limits
        if self.protocol_level != 5:
            return subscribe
        if subscribe.properties.subscription_identifiers and not limits.subscription_identifiers_available:
            raise RemoteProtocolError(
                Reason.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED, "subscription identifiers"
            )  # 3.2.2.3.12
        filters = [each.topic_filter for each in subscribe.subscriptions]
        if not limits.shared_subscriptions_available and any(each.startswith("$share/") for each in filters):
            raise RemoteProtocolError(Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED, "shared subscriptions")  # 3.2.2.3.13
        if not limits.wildcard_subscriptions_available and any("+" in each or "#" in each for each in filters):
            raise RemoteProtocolError(Reason.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED, "wildcard subscriptions")  # 3.2.2.3.11
        return subscribe

    def _on_unsubscribe(self, unsubscribe: Unsubscribe) -> Unsubscribe:
        return unsubscribe

    def _on_pingreq(self, _ping: PingReq) -> None:
        self._queue(PingResp())  # [MQTT-3.12.4-1]

    def _on_disconnect(self, disconnect: Disconnect) -> Disconnect:
        expiry_s = disconnect.properties.session_expiry_s
        if expiry_s is not None:
            if expiry_s and not self.session_expiry_s:  # section 3.14.2.2.2
                raise protocol_error("a session that ends with its connection is given an expiry in DISCONNECT")
            self.session_expiry_s = expiry_s
        if disconnect.reason == Reason.SUCCESS:
            self.will = None  # [MQTT-3.14.4-3]
        self._close()
        return disconnect

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
        server_reference: str | None = None,
    ) -> list[Event]:
        """CONNACK 0x00, and the events of what came behind the CONNECT.

        assigned_client_id  needed when the client gave none [MQTT-3.1.3-6]; version 5 tells it to the client [MQTT-3.1.3-7]
        session_expiry_s    when it differs from what the client asked for
        """
        if self.phase is not Phase.AWAIT_ACCEPT:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"accept in phase {self.phase.value!r}")
        if session_present and self.clean_start:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, "a clean start has no session present")  # [MQTT-3.2.2-2]
        if not self.client_id:
            if not assigned_client_id:
                raise LocalProtocolError(Reason.CLIENT_IDENTIFIER_NOT_VALID, "the client needs an identifier")
            self.client_id = assigned_client_id
        else:
            assigned_client_id = None
        if session_expiry_s is not None:
            self.session_expiry_s = session_expiry_s
        properties = EMPTY
        if self.protocol_level == 5:
            properties = self._announce(
                assigned_client_id=assigned_client_id,
                session_expiry_s=session_expiry_s,
                server_keep_alive_s=self._cap_keep_alive(),
                reason_string=reason_string,
                user_properties=user_properties,
                response_information=response_information,
                server_reference=server_reference,
            )
        self.phase = Phase.CONNECTED
        self._seen_at = now
        self._queue(ConnAck(session_present, Reason.SUCCESS, properties))
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

    def _announce(self, **given: Any) -> Properties:
        """CONNACK properties: the limits, where they differ from what their absence means (section 3.2.2.3)."""
        limits = self._limits
        return Properties(
            receive_maximum=limits.receive_maximum if limits.receive_maximum < 0xFFFF else None,
            maximum_qos=limits.maximum_qos if limits.maximum_qos < 2 else None,  # [MQTT-3.2.2-9]
            retain_available=None if limits.retain_available else 0,
            packet_bytes_max=limits.packet_bytes_max,
            topic_alias_maximum=limits.topic_alias_maximum or None,
            wildcard_subscriptions_available=None if limits.wildcard_subscriptions_available else 0,
            subscription_identifiers_available=None if limits.subscription_identifiers_available else 0,
            shared_subscriptions_available=None if limits.shared_subscriptions_available else 0,
            **given,
        )

    def refuse(self, reason: int, reason_string: str | None = None, server_reference: str | None = None) -> None:
        """CONNACK with an error, then CLOSED. [MQTT-3.1.4-5], [MQTT-3.2.2-7]"""
        if self.phase is Phase.CLOSED:
            return
        if self.phase is not Phase.AWAIT_ACCEPT:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"refuse in phase {self.phase.value!r}")
        if reason < 0x80 or reason not in ALLOWED[PacketType.CONNACK]:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"a CONNACK cannot refuse with 0x{reason:02X}")
        self._queue_refusal(reason, Properties(reason_string=reason_string, server_reference=server_reference))
        self._end_without_will()

    def _queue_refusal(self, reason: int, properties: Properties) -> None:
        if self.protocol_level == 5:
            self._queue(ConnAck(False, reason, properties))
        elif (code := v3_return_code(reason)) is not None:
            self._queue(ConnAck(False, code))

    def acknowledge_many(self, packet_ids: list[int]) -> None:
        """Settles QoS 1 publishes with PUBACK 0x00. Fastest for the oldest, in their order: so batches come back."""
        waiting = self._unsettled
        count = len(packet_ids)
        if self.phase is not Phase.CONNECTED:
            return  # the connection ended while the stream was storing them
        if self._early is not None or waiting[:count] != packet_ids:
            for packet_id in packet_ids:
                self.acknowledge(packet_id)
            return
        del waiting[:count]
        self._out.append(struct.pack(f">{count}I", *[_PUBACK | packet_id for packet_id in packet_ids]))

    def acknowledge(self, packet_id: int, reason: int = 0, reason_string: str | None = None) -> None:
        """Settles one QoS 1 publish; without effect once the connection has ended.

        reason   0x00, 0x10 or an error. Version 3 cannot say an error and is sent a positive PUBACK, as its [MQTT-3.3.5-2]
                 allows; where the client should send again, `disconnect` instead.
        """
        if self.phase is not Phase.CONNECTED:
            return
        if reason not in ALLOWED[PacketType.PUBACK]:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"a PUBACK cannot carry 0x{reason:02X}")
        early = self._early or {}
        if self._unsettled.count(packet_id) <= len(early.get(packet_id, ())):
            raise LocalProtocolError(Reason.PACKET_IDENTIFIER_NOT_FOUND, f"{packet_id} does not wait for a PUBACK")
        properties = Properties(reason_string=reason_string) if reason_string else EMPTY
        early.setdefault(packet_id, []).append(self._encode(PubAck(packet_id, reason, properties)))
        self._release(early)

    def _release(self, early: dict[int, list[bytes]]) -> None:
        """Queues what is settled at the head of the order of arrival. [MQTT-4.6.0-2]"""
        waiting = self._unsettled
        released = 0
        for packet_id in waiting:
            ready = early.get(packet_id)
            if ready is None:
                break
            self._out.append(ready.pop(0))
            if not ready:
                del early[packet_id]
            released += 1
        del waiting[:released]
        self._early = early or None

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        *,
        retain: bool = False,
        properties: Properties | None = None,
        packet_id: int | None = None,
        dup: bool = False,
    ) -> int | None:
        """Queues a message for the client. Returns the packet id whose PubAck event will free it; None at QoS 0.

        packet_id, dup  of an earlier connection, for what a resumed session sends again [MQTT-4.4.0-1]
        Raises          WouldBlock, PacketTooLarge, or another LocalProtocolError; nothing is queued then
        """
        if self.phase is not Phase.CONNECTED:
            raise LocalProtocolError(Reason.PROTOCOL_ERROR, f"publish in phase {self.phase.value!r}")
        if qos > self._limits.maximum_qos:
            raise LocalProtocolError(Reason.QOS_NOT_SUPPORTED, f"the maximum QoS is {self._limits.maximum_qos}")
        if qos == 0:
            self._queue_message(Publish(topic, payload, 0, retain, False, 0, properties))
            return None
        if self.send_window <= 0:
            raise WouldBlock(Reason.RECEIVE_MAXIMUM_EXCEEDED, "the client's receive maximum is used up")
        chosen = self._free_packet_id() if packet_id is None else packet_id
        sent = self._sent or set()
        if chosen in sent:
            raise LocalProtocolError(Reason.PACKET_IDENTIFIER_IN_USE, f"{chosen} is in flight")  # [MQTT-2.2.1-4]
        self._queue_message(Publish(topic, payload, qos, retain, dup, chosen, properties))
        sent.add(chosen)
        self._sent = sent
        return chosen

    def _free_packet_id(self) -> int:
        sent = self._sent or ()
        packet_id = self._next_packet_id
        while packet_id in sent:
            packet_id = packet_id % 0xFFFF + 1
        self._next_packet_id = packet_id % 0xFFFF + 1
        return packet_id

    def _queue_message(self, publish: Publish) -> None:
        encoded = encode_packet(publish, self.protocol_level)
        if len(encoded) > self.client_packet_bytes_max:  # [MQTT-3.1.2-24]
            raise PacketTooLarge(
                Reason.PACKET_TOO_LARGE, f"{len(encoded)} bytes, {self.client_packet_bytes_max} are allowed"
            )
        self._out.append(encoded)

    def suback(self, packet_id: int, codes: Sequence[int], reason_string: str | None = None) -> None:
        """One code for each topic filter, in their order. [MQTT-3.8.4-1], [MQTT-3.8.4-6], [MQTT-3.9.3-1]"""
        if self.phase is Phase.CONNECTED:
            self._queue(SubAck(packet_id, tuple(codes), _reason_string(reason_string)))

    def unsuback(self, packet_id: int, codes: Sequence[int], reason_string: str | None = None) -> None:
        """One code for each topic filter; version 3 is sent none. [MQTT-3.10.4-4], [MQTT-3.11.3-1]"""
        if self.phase is Phase.CONNECTED:
            self._queue(UnsubAck(packet_id, tuple(codes), _reason_string(reason_string)))

    def disconnect(self, reason: int, reason_string: str | None = None, server_reference: str | None = None) -> None:
        """Ends the connection from our side. The will stays: whether it is due is said in `will`. [MQTT-3.14.4-1]

        Before `accept` a version 5 client may not be sent a DISCONNECT [MQTT-3.14.0-1]: it is refused or just closed.
        """
        if self.phase is Phase.CONNECTED:
            if self.protocol_level == 5:
                self._queue(Disconnect(reason, Properties(reason_string=reason_string, server_reference=server_reference)))
            self._close()
        elif self.phase is Phase.AWAIT_ACCEPT and reason >= 0x80 and reason in ALLOWED[PacketType.CONNACK]:
            self.refuse(reason, reason_string, server_reference)
        else:
            self._end_without_will()

    # -- time ----------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call `tick`; None = not needed. Minus infinity (at once) until the session has heard of any time."""
        if self.phase is Phase.AWAIT_CONNECT:
            return float("-inf") if self._seen_at is None else self._seen_at + self._limits.connect_deadline_s
        if self.phase is Phase.CONNECTED and self.keep_alive_s and self._seen_at is not None:
            return self._seen_at + 1.5 * self.keep_alive_s  # [MQTT-3.1.2-22]
        return None

    def tick(self, now: float) -> list[Event]:
        if self._seen_at is None:
            self._seen_at = now
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        if self.phase is Phase.AWAIT_CONNECT:
            self._end_without_will()
            return [TimedOut(Reason.KEEP_ALIVE_TIMEOUT, "no CONNECT in time")]
        event = TimedOut(Reason.KEEP_ALIVE_TIMEOUT, f"no packet for one and a half times {self.keep_alive_s} s")
        self.disconnect(event.reason, event.detail)
        return [event]

    # -- bytes out -----------------------------------------------------------------------------------------------------

    @property
    def unacknowledged(self) -> int:
        """QoS 1 publishes of the client that wait for `acknowledge`."""
        return len(self._unsettled)

    @property
    def send_window(self) -> int:
        """How many more QoS 1 publishes may be sent before the client acknowledges one. [MQTT-3.3.4-9]"""
        in_flight = len(self._sent) if self._sent else 0
        return min(self.client_receive_maximum, self._limits.send_maximum) - in_flight

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
        is_wanted = self._problem_information or isinstance(packet, (ConnAck, Disconnect))  # [MQTT-3.1.2-29]
        if is_wanted:
            encoded = encode_packet(packet, level)
            if len(encoded) <= self.client_packet_bytes_max:
                return encoded
        bare = replace(packet.properties, reason_string=None, user_properties=())  # [MQTT-3.2.2-19], [MQTT-3.4.2-2]
        return encode_packet(replace(packet, properties=bare), level)

    def _fail(self, error: RemoteProtocolError) -> ProtocolFailed:
        """Says so where the version and the phase allow it, and closes. [MQTT-4.13.1-1], [MQTT-4.8.0-1] of 3.1.1"""
        if self.phase is Phase.CONNECTED:
            self.disconnect(error.reason, error.detail)
        else:
            self._queue_early_refusal(error)
            self._end_without_will()
        return ProtocolFailed(error.reason, error.detail)

    def _queue_early_refusal(self, error: RemoteProtocolError) -> None:
        if error.reason == Reason.UNSUPPORTED_PROTOCOL_VERSION:
            self._out.append(
                b"\x20\x02\x00\x01"
            )  # [MQTT-3.1.2-2] of 3.1.1; a version that we lack cannot ask for another form
        elif self.protocol_level:
            self._queue_refusal(error.reason, Properties(reason_string=error.detail))

    def _end_without_will(self) -> None:
        self.will = None  # the connection was never accepted
        self._close()

    def _close(self) -> None:
        self.phase = Phase.CLOSED
        self._rest = None
        self._unsettled = []
        self._early = self._aliases = self._topics = self._sent = None


def _check_client_id(connect: Connect) -> None:
    if connect.client_id or connect.protocol_level == 5:  # [MQTT-3.1.3-6]
        return
    if connect.protocol_level == 3 or not connect.clean_start:  # [MQTT-3.1.3-8] of 3.1.1
        raise RemoteProtocolError(Reason.CLIENT_IDENTIFIER_NOT_VALID, "the client identifier is empty")


def _reason_string(text: str | None) -> Properties:
    return Properties(reason_string=text) if text else EMPTY


_HANDLERS: Final[Mapping[type, Callable[[ServerSession, Any], Event | None]]] = {
    Connect: ServerSession._on_connect,
    Publish: ServerSession._on_publish,
    PubAck: ServerSession._on_puback,
    Subscribe: ServerSession._on_subscribe,
    Unsubscribe: ServerSession._on_unsubscribe,
    PingReq: ServerSession._on_pingreq,
    Disconnect: ServerSession._on_disconnect,
}

"""Owners of sessions for the fuzzer: a session in each state that there is, and by chance all that an owner may do."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping

from headwater.protocols.mqtt import (
    Auth,
    Connect,
    Deliverable,
    Event,
    Limits,
    Packet,
    PacketReader,
    PacketTooLarge,
    Phase,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ServerSession,
    Subscribe,
    Unsubscribe,
    Will,
    WouldBlock,
    encode_packet,
)
from headwater.protocols.mqtt.session import Turn

LIMITS = Limits(
    packet_bytes_max=400, connect_bytes_max=300, receive_maximum=20, topic_bytes_max=100, send_maximum=8, topics_cached_max=4
)
MESSAGES = [Deliverable("a/b", b"x"), Deliverable("longer/topic", bytes(150), Properties(content_type="t"))]
RECEIVED = (10, 11)
"""QoS 2 packet ids of an earlier connection, where there was one."""


class Player:
    """Owns one session. Whatever it calls is legal then, so a LocalProtocolError is the session's fault."""

    def __init__(self, rng: random.Random, level: int = 0, *, method: bool = False, durable: bool = False) -> None:
        self.rng = rng
        self.session = ServerSession(LIMITS, opened_at=0.0)
        self.session.is_durable = durable
        self.now = 0.0
        self.said: list[Packet] = []
        self._read_bytes_max = 0
        self._unsettled: list[int] = []
        self._releasing: list[int] = []
        self._completing: list[int] = []
        self._subscribed: list[Event] = []
        if level:
            own = Properties(
                authentication_method="m" if method else None,
                topic_alias_maximum=rng.choice((None, 3)),
                packet_bytes_max=rng.choice((None, 120)),
                receive_maximum=rng.choice((None, 5)),
                session_expiry_s=9,
            )
            connect = Connect("c", level, False, 60, will=Will("w", b"x"), properties=own if level == 5 else Properties())
            self.session.receive(encode_packet(connect), 0.0)

    # -- states ---------------------------------------------------------------------------------------------------------

    def accepted(self) -> Player:
        is_kept = self.session.is_durable
        self.react(self.session.accept(self.now, is_kept, received=RECEIVED if is_kept else (), assigned_client_id="given"))
        return self

    def challenged(self) -> Player:
        self.session.challenge(b"1")
        return self

    def again(self) -> Player:
        """In the middle of a re-authentication."""
        own = Properties(authentication_method="m")
        self.react(self.session.receive(encode_packet(Auth(0x19, own), 5), self.now), answers=False)
        return self.challenged() if self.rng.random() < 0.5 else self

    def in_flight(self) -> Player:
        if self.session.is_durable:
            self.session.deliver(MESSAGES[0], 1, packet_id=1, dup=True)
            self.session.deliver(MESSAGES[0], 2, packet_id=2, dup=True)
            self.session.release(3)
        for _ in range(3):
            self.deliver()
        self.feed(encode_packet(Publish("a", b"", 2, packet_id=12), self.session.protocol_level))
        return self

    def closed(self) -> Player:
        self.session.disconnect(0x8B)
        self.session.take_outgoing()
        return self

    # -- what happens ---------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        self.now += 0.001
        self.react(self.session.receive(data, self.now))
        self._read_bytes_max = max(self._read_bytes_max, len(data))
        self.check()

    def react(self, events: list[Event], *, answers: bool = True) -> None:
        for event in events:
            match event:
                case Publish(qos=0):
                    pass
                case Publish():
                    self._unsettled.append(event.packet_id)
                case PubRec() if self.session.is_durable and event.reason < 0x80:
                    self._releasing.append(event.packet_id)
                case PubRel() if self.session.is_durable:
                    self._completing.append(event.packet_id)
                case Subscribe() | Unsubscribe():
                    self._subscribed.append(event)
                case Connect() | Auth() if answers and self.rng.random() < 0.7:
                    self.answer()
                case PubAck() | PubComp():
                    pass

    def answer(self) -> None:
        """To a CONNECT or an AUTH, where one waits."""
        session, rng = self.session, self.rng
        if session.phase is Phase.AWAIT_ACCEPT:
            if session._turn is Turn.OURS and rng.random() < 0.6:
                session.challenge(rng.randbytes(3))
            elif session._turn is not Turn.THEIRS and rng.random() < 0.8:
                self.accepted()
            elif session._turn is not Turn.THEIRS:
                session.refuse(0x87)
        elif session.phase is Phase.CONNECTED and session._turn is Turn.OURS:
            session.challenge(b"2") if rng.random() < 0.5 else session.reauthenticated()

    def act(self) -> None:
        """Something that an owner might do now."""
        acts = (self.deliver, self.deliver, self.settle_one, self.release_one, self.complete_one, self.answer, self.grant)
        self.rng.choice(acts)()
        self.check()

    def deliver(self) -> None:
        if self.session.phase is not Phase.CONNECTED:
            return
        rng = self.rng
        identifiers = (1, 300) if rng.random() < 0.3 else ()
        with contextlib.suppress(WouldBlock, PacketTooLarge):
            self.session.deliver(rng.choice(MESSAGES), rng.randrange(3), retain=rng.random() < 0.2, identifiers=identifiers)

    def settle_one(self) -> None:
        if self._unsettled:
            packet_id = self._unsettled.pop(self.rng.randrange(len(self._unsettled)))
            if self.rng.random() < 0.5:
                self.session.acknowledge_many([packet_id])
            else:
                self.session.acknowledge(packet_id, self.rng.choice((0x00, 0x10, 0x97)), "because")

    def release_one(self) -> None:
        if self._releasing:
            self.session.release(self._releasing.pop(0))

    def complete_one(self) -> None:
        if self._completing:
            self.session.complete(self._completing.pop(0))

    def grant(self) -> None:
        for event in self._subscribed:
            if isinstance(event, Subscribe):
                self.session.suback(event.packet_id, [each.qos for each in event.subscriptions])
            elif isinstance(event, Unsubscribe):
                self.session.unsuback(event.packet_id, [0x11 for _ in event.topic_filters])
        self._subscribed.clear()

    # -- what must hold -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Bounds, and that what goes out is MQTT."""
        session = self.session
        assert session._rest is None or len(session._rest) <= LIMITS.packet_bytes_max + self._read_bytes_max
        assert len(session._topics.known or ()) <= LIMITS.topics_cached_max
        assert len(session._topics._aliases or ()) <= LIMITS.topic_alias_maximum
        assert session._outbound is None or len(session._outbound) <= LIMITS.send_maximum
        assert session.protocol_level != 5 or len(session._inbound) <= LIMITS.receive_maximum + len(RECEIVED)
        self.said = PacketReader(session.protocol_level or 4).feed(session.take_outgoing())

    def prove_alive(self) -> None:
        """Closed, or about to be, or it answers a PINGREQ: nothing else is left for a session."""
        session = self.session
        if session.phase is Phase.AWAIT_CONNECT:
            self.expire()
            return
        if session.phase is Phase.AWAIT_ACCEPT:
            if session._turn is Turn.THEIRS:
                self.expire()
                return
            self.accepted()
        self.finish_packet()
        while self._unsettled:
            self.settle_one()
        while self._releasing:
            self.release_one()
        while self._completing:
            self.complete_one()
        assert session.phase is Phase.CLOSED or session.unacknowledged == 0
        self.check()
        self.feed(encode_packet(PingReq(), session.protocol_level))
        assert session.phase is Phase.CLOSED or PingResp() in self.said
        if session.keep_alive_s:
            self.expire()
        else:
            session.receive(b"", self.now)
        assert session.receive(encode_packet(PingReq()), self.now) == []
        assert session.take_outgoing() == b""

    def finish_packet(self) -> None:
        """What has begun is filled with zeros until it ends: soon, for the header first, then for the rest."""
        for _ in range(LIMITS.packet_bytes_max):
            rest = self.session._rest
            if rest is None or self.session.phase is not Phase.CONNECTED:
                return
            self.feed(bytes(self.session._wanted - len(rest)))
        raise AssertionError("a packet does not end")

    def expire(self) -> None:
        deadline = self.session.next_deadline()
        if self.session.phase is not Phase.CLOSED:
            assert deadline is not None
            self.session.tick(deadline)
            self.session.take_outgoing()
        assert self.session.phase is Phase.CLOSED


State = Callable[[random.Random], Player]
STATES: Mapping[str, tuple[int, State]] = {  # the level of what is sent to it (0 = of either kind), and how it begins
    "await connect": (0, Player),
    "await accept, 3.1.1": (4, lambda rng: Player(rng, 4)),
    "await accept, 5.0": (5, lambda rng: Player(rng, 5)),
    "authenticating, our turn": (5, lambda rng: Player(rng, 5, method=True)),
    "authenticating, their turn": (5, lambda rng: Player(rng, 5, method=True).challenged()),
    "connected, 3.1": (3, lambda rng: Player(rng, 3).accepted()),
    "connected, 3.1.1": (4, lambda rng: Player(rng, 4).accepted()),
    "connected, 5.0": (5, lambda rng: Player(rng, 5).accepted()),
    "authenticating again": (5, lambda rng: Player(rng, 5, method=True).accepted().again()),
    "in flight, 3.1.1": (4, lambda rng: Player(rng, 4).accepted().in_flight()),
    "in flight, 5.0": (5, lambda rng: Player(rng, 5).accepted().in_flight()),
    "durable, 3.1.1": (4, lambda rng: Player(rng, 4, durable=True).accepted().in_flight()),
    "durable, 5.0": (5, lambda rng: Player(rng, 5, durable=True).accepted().in_flight()),
    "closed": (5, lambda rng: Player(rng, 5).accepted().in_flight().closed()),
}

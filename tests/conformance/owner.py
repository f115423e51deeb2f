"""The least that owns a session: accepts everybody who needs no method, stores everything, grants what is asked for."""

from __future__ import annotations

from headwater.protocols.mqtt import (
    Connect,
    Event,
    Limits,
    PacketReader,
    Phase,
    Publish,
    Reason,
    ServerSession,
    Subscribe,
    Unsubscribe,
)
from tests.conformance.cases import describe


class Owner:
    def __init__(self, limits: Limits | None = None, acknowledges: bool = True) -> None:
        self.session = ServerSession(limits or Limits(), opened_at=0.0)
        self.acknowledges = acknowledges
        self.events: list[Event] = []
        self.sent = b""

    def feed(self, data: bytes, now: float = 1.0) -> None:
        self._handle(self.session.receive(data, now), now)
        self.sent += self.session.take_outgoing()

    def feed_byte_by_byte(self, data: bytes) -> None:
        for at in range(len(data)):
            if self.session.phase is not Phase.CLOSED:
                self.feed(data[at : at + 1])

    @property
    def answer(self) -> str:
        level = self.session.protocol_level or 4
        return " ".join(describe(packet) for packet in PacketReader(level).feed(self.sent))

    def _handle(self, events: list[Event], now: float) -> None:
        for event in events:
            self.events.append(event)
            if isinstance(event, Connect) and self.session.authentication_method is not None:
                self.session.refuse(Reason.BAD_AUTHENTICATION_METHOD)
            elif isinstance(event, Connect):
                self._handle(self.session.accept(now, assigned_client_id="assigned-1"), now)
            elif isinstance(event, Publish) and event.qos and self.acknowledges:
                self.session.acknowledge_many([event.packet_id])
            elif isinstance(event, Subscribe):
                self.session.suback(event.packet_id, [each.qos for each in event.subscriptions])
            elif isinstance(event, Unsubscribe):
                self.session.unsuback(event.packet_id, [0x11 for _ in event.topic_filters])

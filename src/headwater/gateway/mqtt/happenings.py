"""What happens to MQTT connections, in the words of the timeline. All of it is brief: some is on a hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.device.authentication import NO_CLAIM, Claim, Presented
from headwater.device.presence import Ended
from headwater.errors import DomainError
from headwater.gateway.mqtt.visitor import Refusal, Refusals, Visitor
from headwater.gateway.timeline import Timeline
from headwater.stream.timeline import Event

if TYPE_CHECKING:
    from headwater.gateway.mqtt.connection import MQTTConnection

TOPIC_LENGTH_MAX = 200


class ToldRefusals:
    """Implements visitor.Refusals: whoever else wants to hear of them, and the timeline."""

    def __init__(self, others: Refusals, timeline: Timeline) -> None:
        self._others = others
        self._timeline = timeline

    def refused(self, visitor: Visitor, refusal: Refusal) -> None:
        self._others.refused(visitor, refusal)
        self._timeline.say(
            Event.REFUSED, address=visitor.address, listener=visitor.scheme, protocol=refusal.protocol,
            code=refusal.code, detail=refusal.detail,
        )  # fmt: skip


class Happenings:
    """After the CONNECT, from when on a connection has somebody it is of."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def connected(self, connection: MQTTConnection, *, resumed: bool) -> None:
        self._say(Event.CONNECTED, connection, detail="its session goes on" if resumed else "")

    def not_authenticated(self, connection: MQTTConnection, code: str, detail: str) -> None:
        """Or authenticated, and not let in."""
        connect = connection.connect
        claim = NO_CLAIM if connect is None else Presented(connect.username, connect.password).claim()
        self._say(Event.AUTHENTICATION_FAILED, connection, code=code, detail=detail, claim=claim)

    def ended(self, connection: MQTTConnection) -> None:
        reason = connection.ended or Ended.CONNECTION_LOST
        self._say(Event.DISCONNECTED, connection, code=reason.value, detail=connection.close_reason)

    def publish_denied(self, connection: MQTTConnection, topic: str) -> None:
        self._say(Event.TOPIC_DENIED, connection, code="publish", detail=f"publish to {topic[:TOPIC_LENGTH_MAX]}")

    def subscription_denied(self, connection: MQTTConnection, topic_filter: str) -> None:
        detail = f"subscription to {topic_filter[:TOPIC_LENGTH_MAX]}"
        self._say(Event.TOPIC_DENIED, connection, code="subscribe", detail=detail)

    def rejected(self, connection: MQTTConnection, topic: str, error: DomainError) -> None:
        detail = f"{error.detail} ({topic[:TOPIC_LENGTH_MAX]})"
        self._say(Event.MESSAGE_REJECTED, connection, code=error.code, detail=detail)

    def _say(
        self, event: Event, connection: MQTTConnection, *, code: str = "", detail: str = "", claim: Claim = NO_CLAIM
    ) -> None:
        principal, connect = connection.principal, connection.connect
        self._timeline.say(
            event,
            tenant_id=principal.tenant_id if principal is not None else None,
            device_id=principal.device_id if principal is not None else None,
            address=connection.address,
            client_id=connection.client_id or connection.session.client_id,
            protocol=protocol_of(connect.protocol_level) if connect is not None else "",
            listener=connection.scheme,
            code=code,
            detail=detail,
            claim=claim,
        )


def protocol_of(level: int) -> str:
    """0 = nobody knows yet"""
    return f"mqtt/{level}" if level else ""

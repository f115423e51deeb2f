"""What the server bears of one connection, and how a version 5 CONNACK announces it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headwater.protocols.mqtt.properties import Properties


@dataclass(frozen=True, slots=True)
class Limits:
    """Shared by all sessions of a listener. What a version 3 client cannot be told is enforced by closing its connection."""

    packet_bytes_max: int = 262_144
    """A larger packet is refused at its header. 256 KiB: the stream's record batch, and twice what AWS IoT Core takes."""
    connect_bytes_max: int = 65_536
    """The same for CONNECT, which comes from somebody who is not known yet."""
    topic_bytes_max: int = 1_024
    """Topic names and filters: what a session remembers of them is bounded by this. AWS IoT Core takes 256."""
    receive_maximum: int = 256
    """Unsettled QoS 1 and 2 publishes. Version 3 has no such rule: there the owner stops reading (see `unacknowledged`)."""
    send_maximum: int = 1_000
    """Our own publishes in flight to a client that allows more."""
    topic_alias_maximum: int = 16
    """Each alias costs a topic name in memory."""
    topic_aliases_sent_max: int = 16
    """Aliases that we give the topics of a client that allows them; the first topics that come get one each."""
    topics_cached_max: int = 16
    """Valid topic names that are kept to save judging them again."""
    keep_alive_s_max: int = 1_200
    """A version 5 client with a longer keep-alive, or none, is told to use this one [MQTT-3.1.2-21]; a version 3 client
    keeps its own. 1,200 s is AWS IoT Core's cap."""
    connect_deadline_s: float = 10.0
    maximum_qos: int = 2
    retain_available: bool = True
    wildcard_subscriptions_available: bool = True
    subscription_identifiers_available: bool = True
    shared_subscriptions_available: bool = True

    def announce(self, **given: Any) -> Properties:
        """CONNACK properties: the limits, where they differ from what their absence means (section 3.2.2.3)."""
        return Properties(
            receive_maximum=self.receive_maximum if self.receive_maximum < 0xFFFF else None,
            maximum_qos=self.maximum_qos if self.maximum_qos < 2 else None,  # [MQTT-3.2.2-9]
            retain_available=None if self.retain_available else 0,
            packet_bytes_max=self.packet_bytes_max,
            topic_alias_maximum=self.topic_alias_maximum or None,
            wildcard_subscriptions_available=None if self.wildcard_subscriptions_available else 0,
            subscription_identifiers_available=None if self.subscription_identifiers_available else 0,
            shared_subscriptions_available=None if self.shared_subscriptions_available else 0,
            **given,
        )

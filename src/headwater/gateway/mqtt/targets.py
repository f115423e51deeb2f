"""Which clients a topic goes to, and how: subscriptions, and what several of one client come to together.

A client is delivered a message once, at the highest QoS of its matching subscriptions [MQTT-3.3.4-2] and with the
identifiers of all of them [MQTT-3.3.4-3] [MQTT-3.3.4-4].
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from headwater.protocols.mqtt.topics import SubscriptionTree
from headwater.protocols.mqtt.wire import encode_text
from headwater.stream.session_store import StoredSubscription

if TYPE_CHECKING:
    from headwater.gateway.mqtt.delivery import Delivery

TOPICS_CACHED_MAX = 10_000
"""Topics whose targets are remembered: about 1 MiB where each has one subscriber."""


class Entry:
    """One subscription in the tree. Equal to another of the same client, so that it takes that one's place under a filter
    [MQTT-3.8.4-3]."""

    __slots__ = ("delivery", "subscription")

    def __init__(self, delivery: Delivery, subscription: StoredSubscription) -> None:
        self.delivery = delivery
        self.subscription = subscription

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and other.delivery is self.delivery

    def __hash__(self) -> int:
        return id(self.delivery)


class Target:
    """How a topic goes to one client.

    since       only messages behind this sequence of the log
    own         the same for what the client published itself; None = not at all [MQTT-3.8.3-3]
    """

    __slots__ = ("identifiers", "own", "qos", "retain_as_published", "since")

    def __init__(self, subscriptions: Iterable[StoredSubscription]) -> None:
        chosen = list(subscriptions)
        self.qos = max(each.qos for each in chosen)
        self.identifiers = tuple(each.identifier for each in chosen if each.identifier)
        self.retain_as_published = any(each.retain_as_published for each in chosen)
        self.since = min(each.since for each in chosen)
        own = [each for each in chosen if not each.no_local]
        self.own: Target | None = self if len(own) == len(chosen) else Target(own) if own else None


class Targets:
    """Of one topic.

    wire  the topic as it stands in a packet, encoded once for all of its messages
    only  the one that there is; None = there are none, or several
    """

    __slots__ = ("by_delivery", "only", "wire")

    def __init__(self, topic: str, by_delivery: dict[Delivery, Target]) -> None:
        self.by_delivery = by_delivery
        self.only = next(iter(by_delivery.items())) if len(by_delivery) == 1 else None
        self.wire = encode_text(topic)


class Subscribers:
    """Of one tenant on one gateway."""

    __slots__ = ("_cache", "_tree")

    def __init__(self) -> None:
        self._tree: SubscriptionTree[Entry] = SubscriptionTree()
        self._cache: dict[str, Targets] = {}

    def insert(self, delivery: Delivery, subscription: StoredSubscription) -> None:
        self._tree.insert(subscription.topic_filter, Entry(delivery, subscription))
        self._cache.clear()

    def remove(self, delivery: Delivery, subscription: StoredSubscription) -> None:
        self._tree.remove(subscription.topic_filter, Entry(delivery, subscription))
        self._cache.clear()

    def of(self, topic: str) -> Targets:
        targets = self._cache.get(topic)
        if targets is None:
            targets = self._find(topic)
            if len(self._cache) >= TOPICS_CACHED_MAX:
                self._cache.clear()
            self._cache[topic] = targets
        return targets

    def _find(self, topic: str) -> Targets:
        by_client: dict[Delivery, list[StoredSubscription]] = {}
        for entry in self._tree.match(topic):
            by_client.setdefault(entry.delivery, []).append(entry.subscription)
        return Targets(topic, {delivery: Target(subscriptions) for delivery, subscriptions in by_client.items()})

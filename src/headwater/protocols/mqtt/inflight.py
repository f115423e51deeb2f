"""Packets between PUBLISH and their last acknowledgement (MQTT 5, sections 4.3, 4.4 and 4.6): one class a direction.

Neither knows bytes on the wire nor limits: the session asks them how many are in flight and what may happen next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from headwater.protocols.mqtt.packets import PubAck, PubComp, PubRec, PubRel

EXACTLY_ONCE = 0x1_0000
"""Marks a QoS 2 packet id where QoS 1 and 2 stand in one list; beyond every packet id."""


class Inbound:
    """The client's publishes. Receipts leave in the order of arrival [MQTT-4.6.0-2], [MQTT-4.6.0-3].

    waiting   QoS 1 and 2 publishes in their order that have not been sent PUBACK or PUBREC; protocols/mqtt/plain.py appends
              and cuts here itself
    received  QoS 2 packet ids from PUBLISH to PUBCOMP: what makes a second PUBLISH a repetition [MQTT-4.3.3-10]
    """

    __slots__ = ("_early", "_released", "answered", "received", "waiting")

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.received: set[int] | None = None
        self.answered = 0
        """QoS 2 publishes between our PUBREC and our PUBCOMP; they still count against the receive maximum."""
        self._early: dict[int, list[bytes]] | None = None
        self._released: set[int] | None = None

    def __len__(self) -> int:
        return len(self.waiting) + self.answered

    @property
    def is_in_order(self) -> bool:
        """No receipt waits for an older one."""
        return self._early is None

    def restore(self, received: Iterable[int]) -> None:
        """QoS 2 packet ids of an earlier connection of the same session. [MQTT-4.1.0-1]"""
        self.received = set(received) or None
        self.answered = len(self.received or ())

    def begin_exactly_once(self, packet_id: int) -> bool:
        """False = a repetition: no new message."""
        if self.received is None:
            self.received = set()
        if packet_id in self.received:
            return False
        self.received.add(packet_id)
        self.waiting.append(packet_id | EXACTLY_ONCE)
        return True

    def is_answered(self, packet_id: int) -> bool:
        """Whether a QoS 2 publish has had its PUBREC, and its PUBREL is what comes next."""
        return (
            self.received is not None
            and packet_id in self.received
            and not self.is_released(packet_id)
            and (packet_id | EXACTLY_ONCE) not in self.waiting
        )

    def is_waiting(self, key: int) -> bool:
        """Whether `key` (a packet id, with EXACTLY_ONCE for QoS 2) still needs its receipt to be given."""
        settled = len(self._early.get(key, ())) if self._early else 0
        return self.waiting.count(key) > settled

    def settle(self, key: int, receipt: bytes, is_refused: bool) -> list[bytes]:
        """Every receipt that may leave now, in order. A refused QoS 2 publish ends here. [MQTT-4.3.3-9]"""
        if key & EXACTLY_ONCE:
            if is_refused and self.received is not None:
                self.received.discard(key ^ EXACTLY_ONCE)
            else:
                self.answered += 1
        early = self._early or {}
        early.setdefault(key, []).append(receipt)
        leaving: list[bytes] = []
        for arrived in self.waiting:
            ready = early.get(arrived)
            if ready is None:
                break
            leaving.append(ready.pop(0))
            if not ready:
                del early[arrived]
        del self.waiting[: len(leaving)]
        self._early = early or None
        return leaving

    def release(self, packet_id: int) -> bool:
        """PUBREL for one of `received`, whose PUBCOMP waits for the owner. False = a repetition."""
        if self._released is None:
            self._released = set()
        if packet_id in self._released:
            return False
        self._released.add(packet_id)
        return True

    def is_released(self, packet_id: int) -> bool:
        return self._released is not None and packet_id in self._released

    def complete(self, packet_id: int) -> None:
        """PUBCOMP: the packet id, one of `received`, is free again."""
        assert self.received is not None
        self.received.discard(packet_id)
        self.answered -= 1
        if self._released is not None:
            self._released.discard(packet_id)


Awaited: TypeAlias = type[PubAck | PubRec | PubComp | PubRel]


class Outbound:
    """Our publishes to the client: packet id -> the packet that has to come next.

    The client's, except PubRel: that one is ours, and due as soon as the owner has stored the client's PUBREC.
    """

    __slots__ = ("_next", "awaited")

    def __init__(self) -> None:
        self.awaited: dict[int, Awaited] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self.awaited)

    def free_packet_id(self) -> int:
        """Not in use [MQTT-2.2.1-4], and as long unused as possible. There are fewer in flight than ids."""
        packet_id = self._next
        while packet_id in self.awaited:
            packet_id = packet_id % 0xFFFF + 1
        self._next = packet_id % 0xFFFF + 1
        return packet_id

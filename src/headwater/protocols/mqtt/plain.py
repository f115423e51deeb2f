"""The packets that nearly all traffic is made of, read and answered in place: publishes without properties, and receipts
without reasons.

A session tries these first and decodes what they leave. They judge nothing: where a packet may be wrong, incomplete or out
of turn, they stop in front of it. Flat on purpose, no object but the event and no call but `emit`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from headwater.protocols.mqtt.events import Event
from headwater.protocols.mqtt.inflight import EXACTLY_ONCE, Awaited, Inbound
from headwater.protocols.mqtt.limits import Limits
from headwater.protocols.mqtt.packets import PubAck, PubComp, Publish, PubRec
from headwater.protocols.mqtt.topic_memory import TopicMemory

PUBACK: Final = 0x40020000
PUBREC: Final = 0x50020000
PUBREL: Final = 0x62020000
PUBCOMP: Final = 0x70020000
SHORT_RECEIPTS: Final = frozenset({0x40, 0x50, 0x62, 0x70})
"""First bytes"""
_TWO_BYTES_MAX: Final = 3 + 16_383
"""The largest packet whose length takes two bytes"""
_TOPIC_UNKNOWN_BYTES: Final = 1 << 31  # longer than any packet: sends the first publish of a session down the careful path

Emit = Callable[[Event], None]


def read_publishes(  # noqa: PLR0917  # by position: this is called for every read
    data: bytes, at: int, emit: Emit, topics: TopicMemory, inbound: Inbound, limits: Limits, is_v5: bool
) -> int:
    """Publishes without DUP, RETAIN and properties, to a topic seen before, parsed in place.

    Returns where the first other packet stands, or the first that is incomplete or may be wrong: whoever decodes judges.
    """
    if limits.maximum_qos < 2:
        return at  # a QoS may be wrong, too
    topic = topics.name
    topic_wire = topics.wire
    topic_bytes = len(topic_wire) or _TOPIC_UNKNOWN_BYTES
    waiting = inbound.waiting
    wait = waiting.append
    waiting_max = limits.receive_maximum - inbound.answered if is_v5 else 0
    starts_with = data.startswith
    # A length whose second byte is below this is within the maximum packet size for certain.
    second_end = 128 if limits.packet_bytes_max > _TWO_BYTES_MAX else (limits.packet_bytes_max - 130) >> 7
    size = len(data)
    last = size - 2  # data[at + 2] exists below this
    while at < last:
        first = data[at]
        if first != 0x32 and first != 0x30 and first != 0x34:  # noqa: PLR1714 - a tuple costs 30 ns
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
            known = topics.known.get(wire) if topics.known is not None else None
            if known is None:
                break
            topic = topics.name = known
            topic_wire = topics.wire = wire
            topic_bytes = len(wire)
        if first != 0x30:
            payload = end + 2
            if payload > stop:
                break
            packet_id = data[end] << 8 | data[end + 1]
            if packet_id == 0:
                break
            if is_v5:
                if payload == stop or data[payload] or len(waiting) >= waiting_max:
                    break
                payload += 1
            if first == 0x32:
                emit(Publish(topic, data[payload:stop], 1, False, False, packet_id, None))
                wait(packet_id)
            elif inbound.begin_exactly_once(packet_id):
                emit(Publish(topic, data[payload:stop], 2, False, False, packet_id, None))
            else:
                break
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


def read_receipts(
    data: bytes, at: int, emit: Emit, *, inbound: Inbound, awaited: dict[int, Awaited], out: list[bytes], is_durable: bool,
    tells_each: bool,
) -> int:  # fmt: skip
    """PUBACK, PUBREC, PUBREL and PUBCOMP without a reason, of what is in flight. Returns as `read_publishes` does.

    The packets between PUBREC and PUBCOMP are events only of a durable session, whose owner answers them; of the PUBACKs
    that came together only the last is one, unless `tells_each`. out: where the answers go
    """
    acknowledged = 0
    last = len(data) - 3  # data[at + 3] exists below this
    while at < last and data[at + 1] == 2:
        first = data[at]
        packet_id = data[at + 2] << 8 | data[at + 3]
        expected = awaited.get(packet_id)
        if first == 0x40 and expected is PubAck:
            del awaited[packet_id]
            acknowledged = packet_id
            if tells_each:
                emit(PubAck(packet_id))
        elif first == 0x70 and expected is PubComp:
            del awaited[packet_id]
            emit(PubComp(packet_id))
        elif is_durable:
            break
        elif first == 0x50 and expected is PubRec:
            awaited[packet_id] = PubComp
            out.append((PUBREL | packet_id).to_bytes(4, "big"))  # [MQTT-4.3.3-4]
        elif first == 0x62 and inbound.is_answered(packet_id):
            inbound.complete(packet_id)
            out.append((PUBCOMP | packet_id).to_bytes(4, "big"))  # [MQTT-4.3.3-11]
        else:
            break
        at += 4
    if acknowledged and not tells_each:
        emit(PubAck(acknowledged))
    return at


def settle_in_order(inbound: Inbound, packet_ids: list[int]) -> tuple[int, bytes]:
    """Receipts with reason 0x00 for publishes that are the oldest ones, in their order: so batches come back.

    Returns  how many were settled, and the receipts; those that would overtake an older one are left
    """
    if not inbound.is_in_order:
        return 0, b""
    waiting = inbound.waiting
    count = len(packet_ids)
    if waiting[:count] == packet_ids:  # all of them QoS 1
        del waiting[:count]
        if count == 1:  # what most devices have under way; a third of the cost of the general form
            return 1, (PUBACK | packet_ids[0]).to_bytes(4, "big")
        return count, struct.pack(f">{count}I", *[PUBACK | packet_id for packet_id in packet_ids])
    receipts = []
    for oldest, packet_id in zip(waiting, packet_ids, strict=False):
        if oldest == packet_id:
            receipts.append(PUBACK | packet_id)
        elif oldest == packet_id | EXACTLY_ONCE:
            receipts.append(PUBREC | packet_id)
            inbound.answered += 1
        else:
            break
    del waiting[: len(receipts)]
    return len(receipts), struct.pack(f">{len(receipts)}I", *receipts)

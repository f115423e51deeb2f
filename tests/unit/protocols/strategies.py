"""Hypothesis strategies for every packet that a version allows, built from the property table itself."""

from __future__ import annotations

from hypothesis import strategies as st

from headwater.protocols.mqtt import (
    EMPTY,
    PROPERTIES,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    PacketType,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from headwater.protocols.mqtt.properties import Kind, Property
from headwater.protocols.mqtt.reasons import ALLOWED

CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
TEXT = st.text(CHARACTERS, max_size=12)
BINARY = st.binary(max_size=24)
TOPIC_NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0+#"), min_size=1, max_size=20)
LEVEL_NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0+#/$"), max_size=4)
PACKET_IDS = st.integers(1, 0xFFFF)
QOS = st.integers(0, 2)
HIGHEST = {Kind.BYTE: 0xFF, Kind.TWO: 0xFFFF, Kind.FOUR: 0xFFFF_FFFF, Kind.VARIABLE: 268_435_455}


@st.composite
def topic_filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.one_of(LEVEL_NAMES, st.just("+")), min_size=1, max_size=4))
    if draw(st.booleans()):
        levels.append("#")
    return "/".join(levels) or "#"


def _values(row: Property) -> st.SearchStrategy[object]:
    if row.name == "response_topic":
        return TOPIC_NAMES
    if row.kind is Kind.TEXT:
        return TEXT
    if row.kind is Kind.BINARY:
        return BINARY
    if row.kind is Kind.PAIR:
        return st.tuples(TEXT, TEXT)
    return st.integers(row.low, min(row.high, HIGHEST[row.kind]))


@st.composite
def properties(draw: st.DrawFn, packet: PacketType) -> Properties:
    given: dict[str, object] = {}
    for row in PROPERTIES:
        if packet not in row.packets or not draw(st.booleans()):
            continue
        if not row.repeats:
            given[row.name] = draw(_values(row))
        else:
            at_most = 1 if packet is PacketType.SUBSCRIBE and row.kind is Kind.VARIABLE else 3
            given[row.name] = tuple(draw(st.lists(_values(row), max_size=at_most)))
    if "authentication_data" in given and "authentication_method" not in given:
        given["authentication_method"] = "SCRAM-SHA-256"
    return Properties(**given)


def _properties(level: int, packet: PacketType) -> st.SearchStrategy[Properties]:
    return st.one_of(st.just(EMPTY), properties(packet)) if level == 5 else st.just(EMPTY)


@st.composite
def connects(draw: st.DrawFn, level: int) -> Connect:
    will = None
    if draw(st.booleans()):
        will = Will(
            draw(TOPIC_NAMES), draw(BINARY), draw(QOS), draw(st.booleans()), draw(_properties(level, PacketType.WILL))
        )
    username = draw(st.none() | TEXT)
    password = draw(st.none() | BINARY) if level == 5 or username is not None else None
    keep_alive_s = draw(st.integers(0, 0xFFFF))
    extra = draw(_properties(level, PacketType.CONNECT))
    return Connect(draw(TEXT), level, draw(st.booleans()), keep_alive_s, username, password, will, extra)


@st.composite
def publishes(draw: st.DrawFn, level: int) -> Publish:
    qos = draw(QOS)
    extra = draw(_properties(level, PacketType.PUBLISH))
    has_alias = extra.topic_alias is not None
    topic = draw(st.just("") | TOPIC_NAMES) if has_alias else draw(TOPIC_NAMES)
    dup = qos > 0 and draw(st.booleans())
    packet_id = draw(PACKET_IDS) if qos else 0
    return Publish(topic, draw(BINARY), qos, draw(st.booleans()), dup, packet_id, None if extra == EMPTY else extra)


def _receipts(make: type, level: int, packet: PacketType) -> st.SearchStrategy[object]:
    if level != 5:
        return st.builds(make, PACKET_IDS)
    return st.builds(make, PACKET_IDS, st.sampled_from(sorted(ALLOWED[packet])), _properties(level, packet))


@st.composite
def subscriptions(draw: st.DrawFn, level: int) -> Subscription:
    topic_filter, qos = draw(topic_filters()), draw(QOS)
    if level != 5:
        return Subscription(topic_filter, qos)
    return Subscription(topic_filter, qos, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2)))


def _codes(level: int, packet: PacketType) -> st.SearchStrategy[tuple[int, ...]]:
    allowed = ALLOWED[packet] if level == 5 else {0x00, 0x01, 0x02, 0x80}
    return st.lists(st.sampled_from(sorted(allowed)), min_size=1, max_size=5).map(tuple)


def _closings(make: type, level: int, packet: PacketType) -> st.SearchStrategy[object]:
    if level != 5:
        return st.just(make())
    return st.builds(make, st.sampled_from(sorted(ALLOWED[packet])), _properties(level, packet))


@st.composite
def connacks(draw: st.DrawFn, level: int) -> ConnAck:
    reason = draw(st.sampled_from(sorted(ALLOWED[PacketType.CONNACK])) if level == 5 else st.integers(0, 5))
    present = level != 3 and reason == 0 and draw(st.booleans())
    return ConnAck(present, reason, draw(_properties(level, PacketType.CONNACK)))


def client_packets(level: int) -> st.SearchStrategy[object]:
    """What a client may send once it is connected."""
    return st.one_of(
        publishes(level),
        _receipts(PubAck, level, PacketType.PUBACK),
        _receipts(PubRec, level, PacketType.PUBREC),
        _receipts(PubRel, level, PacketType.PUBREL),
        _receipts(PubComp, level, PacketType.PUBCOMP),
        st.builds(
            Subscribe,
            PACKET_IDS,
            st.lists(subscriptions(level), min_size=1, max_size=4).map(tuple),
            _properties(level, PacketType.SUBSCRIBE),
        ),
        st.builds(
            Unsubscribe,
            PACKET_IDS,
            st.lists(topic_filters(), min_size=1, max_size=4).map(tuple),
            _properties(level, PacketType.UNSUBSCRIBE),
        ),
        st.just(PingReq()),
        _closings(Disconnect, level, PacketType.DISCONNECT),
    )


def packets(level: int) -> st.SearchStrategy[object]:
    """Everything, of both sides."""
    unsuback_codes = _codes(level, PacketType.UNSUBACK) if level == 5 else st.just(())
    every = [
        connects(level),
        connacks(level),
        client_packets(level),
        st.builds(SubAck, PACKET_IDS, _codes(level, PacketType.SUBACK), _properties(level, PacketType.SUBACK)),
        st.builds(UnsubAck, PACKET_IDS, unsuback_codes, _properties(level, PacketType.UNSUBACK)),
        st.just(PingResp()),
    ]
    if level == 5:
        every.append(_closings(Auth, level, PacketType.AUTH))
    return st.one_of(every)

"""One message to many clients: each form is what the plain encoder writes; aliases, identifiers and sizes differ."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.protocols.sessions import connected, sent
from tests.unit.protocols.strategies import TOPIC_NAMES, properties

from headwater.protocols.mqtt import (
    Deliverable,
    Limits,
    LocalProtocolError,
    PacketTooLarge,
    PacketType,
    Properties,
    PubAck,
    Publish,
    ServerSession,
    encode_packet,
)
from headwater.protocols.mqtt.wire import encode_text

RICH = Properties(content_type="text/plain", user_properties=(("a", "1"), ("a", "2")))


@given(
    st.sampled_from([3, 4, 5]),
    TOPIC_NAMES,
    st.binary(max_size=300),
    st.tuples(st.integers(0, 2), st.booleans(), st.booleans()),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_every_form_is_what_the_encoder_writes(
    level: int, topic: str, payload: bytes, first: tuple[int, bool, bool], data: st.DataObject
) -> None:
    qos, retain, dup = first
    drawn = data.draw(properties(PacketType.PUBLISH))
    own = Properties(**{name: getattr(drawn, name) for name in drawn.__struct_fields__} | {"topic_alias": None})
    shared = Properties(**{name: getattr(own, name) for name in own.__struct_fields__} | {"subscription_identifiers": ()})
    message = Deliverable(topic, payload, shared)
    dup = dup and qos > 0
    for identifiers in ((), own.subscription_identifiers):
        session = connected(level)
        packet_id = session.deliver(message, qos, retain=retain, dup=dup, identifiers=identifiers)
        (packet,) = sent(session)
        told = Properties(
            **{name: getattr(shared, name) for name in shared.__struct_fields__} | {"subscription_identifiers": identifiers}
        )
        expected = None if level != 5 or told == Properties() else told
        assert packet == Publish(topic, payload, qos, retain, dup, packet_id, expected)


@given(st.sampled_from([3, 4, 5]), TOPIC_NAMES, st.binary(max_size=20_000), st.integers(0, 2), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_goes_to_one_client_alone_is_written_as_for_many(
    level: int, topic: str, payload: bytes, qos: int, retain: bool
) -> None:
    alone, among_many = connected(level), connected(level)
    for session in (alone, among_many):
        session.deliver(Deliverable("first", b""), 1)
    among_many.deliver(Deliverable(topic, payload), qos, retain=retain)
    assert alone.deliver_alone(encode_text(topic), payload, qos, retain=retain)
    assert alone.send_window == among_many.send_window == Limits().send_maximum - 1 - (qos > 0)
    assert alone.take_outgoing() == among_many.take_outgoing()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(
    "told",
    [{"topic_alias_maximum": 1}, {"packet_bytes_max": 100}, {"receive_maximum": 1}],
    ids=lambda told: next(iter(told)),
)
def test_what_needs_more_than_that_is_left_to_deliver(told: dict[str, int], qos: int) -> None:
    session = connected(5, properties=Properties(**told))
    session.deliver(Deliverable("first", b""), 1)
    session.take_outgoing()
    goes = "receive_maximum" in told and not qos
    assert session.deliver_alone(encode_text("a"), bytes(100), qos, retain=False) is goes
    assert bool(session.take_outgoing()) is goes
    assert session.send_window == min(session.client_receive_maximum, Limits().send_maximum) - 1


def test_what_is_the_same_is_encoded_once() -> None:
    message = Deliverable("a/b", b"x", RICH)
    sessions = [connected(level) for level in (3, 4, 5, 5)]
    for session in sessions:
        session.deliver(message, 0)
    old, older, new, newer = (session.take_outgoing() for session in sessions)
    assert old is older
    assert new is newer
    assert new == encode_packet(Publish("a/b", b"x", properties=RICH), 5)


def test_aliases_are_used_as_far_as_both_sides_allow() -> None:  # section 3.3.2.3.4, [MQTT-3.1.2-26]
    session = connected(5, Limits(topic_aliases_sent_max=2), properties=Properties(topic_alias_maximum=9))
    for topic in ("aaa", "b", "bbb", "ccc", "aaa", "b", "bbb", "ccc"):
        session.deliver(Deliverable(topic, b"x"), 1)
    assert [(packet.topic, packet.properties and packet.properties.topic_alias) for packet in sent(session)] == [
        ("aaa", 1),
        ("b", None),  # an alias would be longer
        ("bbb", 2),
        ("ccc", None),
        ("", 1),
        ("b", None),
        ("", 2),
        ("ccc", None),
    ]


def test_a_client_without_aliases_gets_none() -> None:  # [MQTT-3.1.2-27]
    for properties_ in (Properties(), Properties(topic_alias_maximum=0)):
        session = connected(5, properties=properties_)
        session.deliver(Deliverable("a", b"x"), 0)
        assert sent(session) == [Publish("a", b"x")]


def test_an_alias_and_identifiers_go_together() -> None:
    session = connected(5, properties=Properties(topic_alias_maximum=1))
    for _ in range(2):
        session.deliver(Deliverable("a/b", b"x", RICH), 1, identifiers=(1, 300))
    both = Properties(
        content_type="text/plain",
        user_properties=RICH.user_properties,
        topic_alias=1,
        subscription_identifiers=(1, 300),
    )
    assert sent(session) == [
        Publish("a/b", b"x", 1, packet_id=1, properties=both),
        Publish("", b"x", 1, packet_id=2, properties=both),
    ]


def test_an_alias_is_not_given_where_it_would_not_fit() -> None:
    plain = len(encode_packet(Publish("topic", bytes(11)), 5))
    session = connected(5, properties=Properties(topic_alias_maximum=1, packet_bytes_max=plain))
    for topic, payload_bytes in (("topic", 11), ("tpc", 10), ("tpc", 13), ("t", 15)):
        session.deliver(Deliverable(topic, bytes(payload_bytes)), 0)
    assert [(packet.topic, packet.properties and packet.properties.topic_alias) for packet in sent(session)] == [
        ("topic", None),
        ("tpc", 1),
        ("", 1),
        ("t", None),
    ]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("identifiers", [(), (1,)])
def test_the_size_that_the_client_bears_is_exact(qos: int, identifiers: tuple[int, ...]) -> None:  # [MQTT-3.1.2-24]
    told = Properties(subscription_identifiers=identifiers) if identifiers else None
    size = len(encode_packet(Publish("a/b", bytes(100), qos, packet_id=qos and 1, properties=told), 5))
    message = Deliverable("a/b", bytes(100))
    connected(5, properties=Properties(packet_bytes_max=size)).deliver(message, qos, identifiers=identifiers)
    narrow = connected(5, properties=Properties(packet_bytes_max=size - 1))
    with pytest.raises(PacketTooLarge):
        narrow.deliver(message, qos, identifiers=identifiers)
    assert narrow.take_outgoing() == b""
    assert narrow.send_window == Limits().send_maximum


def test_what_many_clients_cannot_share() -> None:
    for wrong in (Properties(topic_alias=1), Properties(subscription_identifiers=(1,))):
        with pytest.raises(LocalProtocolError):
            connected(5).deliver(Deliverable("a", b"", wrong), 0)


def test_a_delivery_is_settled_by_its_acknowledgement_only() -> None:
    session: ServerSession = connected(5, properties=Properties(receive_maximum=1))
    packet_id = session.deliver(Deliverable("a", b"x"), 1)
    assert session.receive(encode_packet(PubAck(packet_id + 1), 5), 0.0) == []
    assert session.send_window == 0
    assert session.receive(encode_packet(PubAck(packet_id, 0x87), 5), 0.0) == [PubAck(packet_id, 0x87)]
    assert session.send_window == 1

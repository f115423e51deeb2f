"""QoS 2 in both directions (MQTT 5, section 4.3.3), where the limits allow it."""

from __future__ import annotations

import pytest
from tests.unit.protocols.sessions import awaiting, connected, publishes, sent

from headwater.protocols.mqtt import (
    Deliverable,
    Limits,
    LocalProtocolError,
    Packet,
    Phase,
    ProtocolFailed,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ServerSession,
    encode_packet,
)

LIMITS = Limits(maximum_qos=2, receive_maximum=3)


def receive(session: ServerSession, *packets: object) -> list[object]:
    return session.receive(b"".join(encode_packet(packet, session.protocol_level) for packet in packets), 0.0)


@pytest.mark.parametrize("level", [3, 4, 5])
def test_a_message_is_delivered_once(level: int) -> None:
    session = connected(level, LIMITS)
    publish = Publish("a/b", b"x", 2, packet_id=4)
    again = Publish("a/b", b"x", 2, dup=True, packet_id=4)
    assert receive(session, publish) == [publish]
    assert receive(session, again) == []  # not stored yet: its PUBREC answers both
    assert sent(session) == []
    session.acknowledge_many([4])
    assert sent(session) == [PubRec(4)]
    assert receive(session, again) == []
    assert sent(session) == [PubRec(4)]  # [MQTT-4.3.3-10]
    assert receive(session, PubRel(4)) == []
    assert sent(session) == [PubComp(4)]  # [MQTT-4.3.3-11]
    assert receive(session, publish) == [publish]  # [MQTT-4.3.3-12]


def test_a_refused_message_is_over() -> None:
    session = connected(5, LIMITS)
    publish = Publish("a/b", b"x", 2, packet_id=4)
    receive(session, publish)
    session.acknowledge(4, 0x97)
    assert sent(session) == [PubRec(4, 0x97)]
    assert receive(session, publish) == [publish]  # [MQTT-4.3.3-9]


def test_a_release_of_nothing() -> None:
    for level, reason in ((5, 0x92), (4, 0)):
        session = connected(level, LIMITS)
        assert receive(session, PubRel(9)) == []
        assert sent(session) == [PubComp(9, reason)]


def test_a_release_before_its_receipt_is_a_fault() -> None:
    session = connected(5, LIMITS)
    assert [type(event) for event in receive(session, Publish("a", b"", 2, packet_id=1), PubRel(1))] == [
        Publish,
        ProtocolFailed,
    ]


def test_receipts_of_both_levels_keep_their_order() -> None:
    session = connected(4, LIMITS)
    session.receive(publishes(1) + publishes(2, qos=2) + publishes(3), 0.0)
    session.acknowledge_many([3, 2])
    assert sent(session) == []
    session.acknowledge_many([1])
    assert sent(session) == [PubAck(1), PubRec(2), PubAck(3)]


def test_the_receive_maximum_counts_until_the_release() -> None:
    session = connected(5, LIMITS)
    session.receive(publishes(1, 2, 3, level=5, qos=2), 0.0)
    session.acknowledge_many([1, 2, 3])
    assert receive(session, PubRel(2)) == []
    assert len(session.receive(publishes(7, level=5), 0.0)) == 1
    assert [event.reason for event in session.receive(publishes(8, level=5), 0.0)] == [0x93]


def test_a_resumed_session_knows_what_it_has_received() -> None:
    session = awaiting(4, LIMITS, clean_start=False)
    session.accept(0.0, session_present=True, received=[5])
    session.take_outgoing()
    assert session.receive(publishes(5, qos=2), 0.0) == []
    assert sent(session) == [PubRec(5)]


def test_sending() -> None:
    session = connected(5, LIMITS)
    assert session.deliver(Deliverable("a", b"x"), 2) == 1
    assert session.deliver(Deliverable("a", b"y"), 2) == 2
    sent(session)
    assert receive(session, PubRec(1)) == []
    assert sent(session) == [PubRel(1)]  # [MQTT-4.3.3-4]
    assert receive(session, PubRec(1)) == []  # again: our PUBREL was lost with an earlier connection
    assert sent(session) == [PubRel(1)]
    assert session.send_window == Limits().send_maximum - 2
    assert receive(session, PubComp(1)) == [PubComp(1)]
    assert receive(session, PubComp(1)) == []
    assert receive(session, PubRec(2, 0x97)) == [PubRec(2, 0x97)]  # [MQTT-4.4.0-2]
    assert session.send_window == Limits().send_maximum
    assert receive(session, PubRec(2)) == []
    assert sent(session) == [PubRel(2, 0x92)]
    assert receive(session, PubRec(2, 0x97)) == []
    assert sent(session) == []  # an error is never answered [MQTT-4.3.3-4]
    session.release(9)  # what a resumed session had got so far
    assert sent(session) == [PubRel(9)]
    assert receive(session, PubComp(9)) == [PubComp(9)]
    assert session.phase is Phase.CONNECTED


@pytest.mark.parametrize(
    ("qos", "answers"),
    [
        (1, [PubRec(1)]),
        (1, [PubRec(1, 0x97)]),
        (1, [PubComp(1)]),
        (2, [PubAck(1)]),
        (2, [PubComp(1)]),
        (2, [PubRec(1), PubAck(1)]),
    ],
)
def test_an_answer_that_is_not_due_is_an_error(qos: int, answers: list[Packet]) -> None:
    session = connected(5, LIMITS)
    session.deliver(Deliverable("a", b"x"), qos)
    sent(session)
    for answer in answers[:-1]:
        assert receive(session, answer) == []
    assert [event.reason for event in receive(session, answers[-1])] == [0x82]
    assert session.phase is Phase.CLOSED


# -- durable sessions: nothing is said that the owner has not stored ---------------------------------------------------


def durable(level: int = 5, received: tuple[int, ...] = ()) -> ServerSession:
    session = awaiting(level, LIMITS, clean_start=False)
    session.is_durable = True
    session.accept(0.0, session_present=True, received=received)
    session.take_outgoing()
    return session


@pytest.mark.parametrize("level", [3, 4, 5])
def test_a_release_waits_for_its_owner(level: int) -> None:
    session = durable(level)
    assert session.deliver(Deliverable("a", b"x"), 2) == 1
    sent(session)
    assert receive(session, PubRec(1)) == [PubRec(1)]
    assert receive(session, PubRec(1)) == []  # a repetition, answered by the same PUBREL
    assert sent(session) == []
    session.release(1)
    assert sent(session) == [PubRel(1)]
    assert receive(session, PubRec(1)) == []
    assert sent(session) == [PubRel(1)]
    assert receive(session, PubComp(1)) == [PubComp(1)]
    assert session.send_window == Limits().send_maximum


def test_nothing_completes_what_is_not_released() -> None:
    session = durable()
    session.deliver(Deliverable("a", b"x"), 2)
    receive(session, PubRec(1))
    assert [event.reason for event in receive(session, PubComp(1))] == [0x82]


def test_a_failed_receipt_ends_a_durable_delivery() -> None:
    session = durable()
    session.deliver(Deliverable("a", b"x"), 2)
    assert receive(session, PubRec(1, 0x97)) == [PubRec(1, 0x97)]
    assert session.send_window == Limits().send_maximum
    sent(session)
    assert receive(session, PubRec(1)) == []
    assert sent(session) == [PubRel(1, 0x92)]


@pytest.mark.parametrize("level", [3, 4, 5])
def test_a_completion_waits_for_its_owner(level: int) -> None:
    session = durable(level, received=(4,))
    again = Publish("a/b", b"x", 2, dup=True, packet_id=4)
    assert receive(session, PubRel(4)) == [PubRel(4)]
    assert receive(session, PubRel(4)) == []
    assert receive(session, again) == []  # its id is still in use
    assert sent(session) == [PubRec(4)]
    session.complete(4)
    assert sent(session) == [PubComp(4)]
    assert receive(session, PubRel(4)) == []
    assert sent(session) == [PubComp(4, 0x92 if level == 5 else 0)]
    assert receive(session, again) == [again]


def test_what_is_not_completed_counts_against_the_receive_maximum() -> None:
    session = durable(received=(1, 2, 3))
    receive(session, PubRel(1), PubRel(2))
    assert [event.reason for event in session.receive(publishes(7, level=5), 0.0)] == [0x93]
    session = durable(received=(1, 2, 3))
    receive(session, PubRel(1))
    session.complete(1)
    assert len(session.receive(publishes(7, level=5), 0.0)) == 1


def test_completing_what_was_not_released_is_our_fault() -> None:
    session = durable(received=(4,))
    for packet_id in (4, 5):
        with pytest.raises(LocalProtocolError):
            session.complete(packet_id)


def test_storing_may_take_longer_than_the_connection_lives() -> None:
    session = durable(received=(4,))
    session.deliver(Deliverable("a", b"x"), 2)
    receive(session, PubRec(1), PubRel(4))
    session.receive(b"", 0.0)
    session.take_outgoing()
    session.release(1)
    session.complete(4)
    assert session.take_outgoing() == b""


def test_a_resumed_session_takes_up_both_directions() -> None:  # [MQTT-4.4.0-1], [MQTT-4.1.0-1]
    session = durable(received=(4,))
    session.deliver(Deliverable("a", b"x"), 2, packet_id=7, dup=True)
    session.release(8)
    assert sent(session) == [Publish("a", b"x", 2, dup=True, packet_id=7), PubRel(8)]
    assert receive(session, PubComp(8)) == [PubComp(8)]
    assert session.deliver(Deliverable("a", b"y"), 1) == 1

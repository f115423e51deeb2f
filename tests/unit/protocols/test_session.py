"""Flows of the server session: acknowledgements, the send window, what waits for accept, wills, time and memory."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from tests.unit.protocols.sessions import awaiting, connected, publishes, sent

from headwater.protocols.mqtt import (
    ConnAck,
    ConnectionLost,
    Deliverable,
    Disconnect,
    Limits,
    LocalProtocolError,
    PacketTooLarge,
    Phase,
    PingReq,
    Properties,
    ProtocolFailed,
    PubAck,
    Publish,
    ServerSession,
    SubAck,
    Subscribe,
    Subscription,
    TimedOut,
    UnsubAck,
    Will,
    WouldBlock,
    encode_packet,
)

SUBSCRIBE = Subscribe(1, (Subscription("a/#", 1),))


# -- acknowledgements --------------------------------------------------------------------------------------------------


def test_a_batch_is_acknowledged_with_the_bytes_of_the_standard() -> None:
    session = connected()
    assert [event.packet_id for event in session.receive(publishes(1, 0x1234, 65_535), 0.0)] == [1, 0x1234, 65_535]
    assert session.unacknowledged == 3
    session.acknowledge_many([1, 0x1234, 65_535])
    assert session.take_outgoing().hex(" ", 4) == "40020001 40021234 4002ffff"
    assert session.unacknowledged == 0


def test_receipts_leave_in_the_order_of_arrival() -> None:
    session = connected()
    session.receive(publishes(5, 6, 7, 8), 0.0)
    session.acknowledge(7)
    session.acknowledge_many([6])
    assert sent(session) == []
    session.acknowledge_many([5])
    assert sent(session) == [PubAck(5), PubAck(6), PubAck(7)]
    session.acknowledge_many([8])
    assert sent(session) == [PubAck(8)]


def test_a_packet_id_used_twice_is_settled_twice() -> None:
    """Some devices always say 1 and do not wait; [MQTT-4.3.2-5] makes each a message of its own."""
    session = connected()
    assert len(session.receive(publishes(1, 1, 2, 1), 0.0)) == 4
    session.acknowledge(2)
    session.acknowledge_many([1, 1])
    session.acknowledge(1)
    assert sent(session) == [PubAck(1), PubAck(1), PubAck(2), PubAck(1)]
    with pytest.raises(LocalProtocolError):
        session.acknowledge(1)


def test_settling_what_is_not_waiting_is_our_fault() -> None:
    session = connected()
    session.receive(publishes(1, 2), 0.0)
    session.acknowledge(2)
    for packet_id in (2, 3, 0):
        with pytest.raises(LocalProtocolError):
            session.acknowledge(packet_id)
    with pytest.raises(LocalProtocolError):
        session.acknowledge_many([1, 9])


def test_a_late_acknowledgement_is_dropped() -> None:
    session = connected()
    session.receive(publishes(1), 0.0)
    session.receive(b"", 0.0)
    session.acknowledge_many([1])
    session.acknowledge(1)
    session.suback(1, [0])
    session.unsuback(1, [0])
    assert session.take_outgoing() == b""


def test_a_refusal_is_said_where_the_version_can_say_it() -> None:
    for level, expected in ((5, PubAck(1, 0x99, Properties(reason_string="no"))), (4, PubAck(1))):
        session = connected(level)
        session.receive(publishes(1, level=level), 0.0)
        session.acknowledge(1, 0x99, "no")
        assert sent(session) == [expected]
        with pytest.raises(LocalProtocolError):
            session.acknowledge(1, 0x81)  # not a PUBACK reason


def test_explanations_go_only_where_they_are_wanted_and_fit() -> None:
    silent = connected(5, properties=Properties(request_problem_information=0))
    narrow = connected(5, properties=Properties(packet_bytes_max=30))
    for session in (silent, narrow):
        session.receive(publishes(1, level=5), 0.0)
        session.acknowledge(1, 0x87, "a reason of more than thirty bytes")
        session.suback(1, [0x87], "a reason of more than thirty bytes")
        session.unsuback(1, [0x00], "a reason of more than thirty bytes")
        assert sent(session) == [PubAck(1, 0x87), SubAck(1, (0x87,)), UnsubAck(1, (0x00,))]
    silent.disconnect(0x8E, "a DISCONNECT may explain itself")  # [MQTT-3.1.2-29]
    assert sent(silent) == [Disconnect(0x8E, Properties(reason_string="a DISCONNECT may explain itself"))]
    narrow.disconnect(0x8E, "a reason of more than thirty bytes")
    assert sent(narrow) == [Disconnect(0x8E)]


def test_version_3_hears_one_code_for_every_refused_subscription() -> None:
    session = connected(4)
    session.suback(1, [1, 0x87, 0x8F])
    assert sent(session) == [SubAck(1, (1, 0x80, 0x80))]


# -- publishing to the client ------------------------------------------------------------------------------------------


def test_the_send_window_is_the_smaller_of_both_sides() -> None:
    session = connected(5, Limits(send_maximum=3), properties=Properties(receive_maximum=2))
    assert session.deliver(Deliverable("a", b"0"), 0) == 0
    assert [session.deliver(Deliverable("a", b"1"), 1), session.deliver(Deliverable("a", b"2"), 1)] == [1, 2]
    with pytest.raises(WouldBlock):
        session.deliver(Deliverable("a", b"3"), 1)
    assert session.deliver(Deliverable("a", b"0"), 0) == 0  # QoS 0 does not count
    assert [packet.payload for packet in sent(session)] == [b"0", b"1", b"2", b"0"]
    assert session.receive(encode_packet(PubAck(1)), 0.0) == [PubAck(1)]
    assert session.receive(encode_packet(PubAck(1)), 0.0) == []
    assert session.send_window == 1
    assert session.deliver(Deliverable("a", b"3"), 1) == 3


def test_packet_ids_wrap_and_skip_what_is_in_flight() -> None:
    session = connected(limits=Limits(send_maximum=65_535))
    assert session.deliver(Deliverable("a", b""), 1, packet_id=1, dup=True) == 1
    for _ in range(65_534):
        session.deliver(Deliverable("a", b""), 1)
    session.receive(encode_packet(PubAck(77)) + encode_packet(PubAck(5)), 0.0)
    assert [session.deliver(Deliverable("a", b""), 1), session.deliver(Deliverable("a", b""), 1)] == [5, 77]
    with pytest.raises(WouldBlock):
        session.deliver(Deliverable("a", b""), 1)


def test_a_resumed_session_sends_again_under_the_same_id() -> None:
    session = connected()
    session.deliver(Deliverable("a", b"x"), 1, packet_id=9, dup=True)
    assert sent(session) == [Publish("a", b"x", 1, dup=True, packet_id=9)]
    with pytest.raises(LocalProtocolError):
        session.deliver(Deliverable("a", b"x"), 1, packet_id=9)


def test_a_packet_that_is_too_large_for_the_client_is_not_sent() -> None:
    session = connected(5, properties=Properties(packet_bytes_max=20))
    with pytest.raises(PacketTooLarge):
        session.deliver(Deliverable("a", bytes(20)), 1)
    assert session.send_window == Limits().send_maximum
    assert session.take_outgoing() == b""


def test_an_answer_that_is_too_large_for_the_client_is_not_sent() -> None:
    session = connected(5, properties=Properties(packet_bytes_max=20))
    for say in (session.suback, session.unsuback):
        with pytest.raises(PacketTooLarge):
            say(1, [0] * 20)
        say(1, [0] * 15)
    assert sent(session) == [SubAck(1, (0,) * 15), UnsubAck(1, (0,) * 15)]


@pytest.mark.parametrize("packet_bytes_max", [4, 5, 15, 16])
def test_a_client_that_has_no_room_for_a_connack_is_refused(packet_bytes_max: int) -> None:  # [MQTT-3.1.2-24]
    will = Will("w", b"x")
    session = awaiting(5, properties=Properties(packet_bytes_max=packet_bytes_max), will=will)
    events = session.accept(0.0)
    answer = sent(session)
    if packet_bytes_max == 16:
        assert (events, session.phase, [each.reason for each in answer]) == ([], Phase.CONNECTED, [0])
        return
    assert events == [ProtocolFailed(0x83, f"the CONNACK has 16 bytes, the client allows {packet_bytes_max}")]
    assert (session.phase, session.will) == (Phase.CLOSED, None)
    assert [each.reason for each in answer] == [0x83] * (packet_bytes_max > 4)  # a refusal has 5 bytes


def test_what_may_not_be_published() -> None:
    session = connected()
    for wrong in (
        lambda: session.deliver(Deliverable("a/+", b""), 0),
        lambda: session.deliver(Deliverable("a", b""), 3),
        lambda: session.deliver(Deliverable("a", b""), 0, dup=True),
        lambda: session.deliver(Deliverable("a", b""), 1, packet_id=0),
        lambda: session.deliver(Deliverable("", b""), 0),
    ):
        with pytest.raises(LocalProtocolError):
            wrong()
    session.disconnect(0)
    with pytest.raises(LocalProtocolError):
        session.deliver(Deliverable("a", b""), 0)


# -- before the CONNACK ------------------------------------------------------------------------------------------------


def test_what_comes_behind_a_connect_waits_for_accept() -> None:
    session = awaiting(behind=encode_packet(SUBSCRIBE) + publishes(1)[:3])
    assert session.receive(publishes(1)[3:] + encode_packet(PingReq()), 0.5) == []
    assert session.take_outgoing() == b""
    assert session.accept(1.0) == [SUBSCRIBE, Publish("a/b", b"x", 1, packet_id=1)]
    assert [type(packet).__name__ for packet in sent(session)] == ["ConnAck", "PingResp"]


def test_what_comes_behind_a_refused_connect_is_never_read() -> None:  # [MQTT-3.1.4-6]
    session = awaiting(5, behind=publishes(1, level=5))
    session.refuse(0x87, "not you")
    assert sent(session) == [ConnAck(False, 0x87, Properties(reason_string="not you"))]
    assert session.phase is Phase.CLOSED
    assert session.receive(publishes(2, level=5), 0.0) == []
    session.refuse(0x87)
    assert session.take_outgoing() == b""


def test_what_waits_for_accept_is_bounded() -> None:
    session = awaiting(5, Limits(packet_bytes_max=1_000))
    events = []
    for _ in range(30):
        events += session.receive(bytes(100), 0.0)
    assert [(type(event), event.reason) for event in events] == [(ProtocolFailed, 0x97)]
    assert [packet.reason for packet in sent(session)] == [0x97]


def test_a_client_that_leaves_before_accept() -> None:
    session = awaiting()
    assert session.receive(b"", 0.0) == [ConnectionLost()]
    with pytest.raises(LocalProtocolError):
        session.accept(0.0)


def test_accept_announces_the_limits() -> None:
    modest = {
        "retain_available": False,
        "subscription_identifiers_available": False,
        "shared_subscriptions_available": False,
    }
    limits = Limits(receive_maximum=7, packet_bytes_max=9_000, topic_alias_maximum=3, maximum_qos=1, **modest)
    session = awaiting(5, limits)
    session.accept(0.0, session_expiry_s=60, user_properties=(("k", "v"),))
    assert sent(session) == [
        ConnAck(
            properties=Properties(
                receive_maximum=7,
                packet_bytes_max=9_000,
                topic_alias_maximum=3,
                maximum_qos=1,
                retain_available=0,
                subscription_identifiers_available=0,
                shared_subscriptions_available=0,
                session_expiry_s=60,
                user_properties=(("k", "v"),),
            )
        )
    ]
    assert session.session_expiry_s == 60


@pytest.mark.parametrize(("levels", "reason"), [(128, None), (129, 0x8F)])
def test_a_filter_with_too_many_levels_is_well_formed_and_not_accepted(levels: int, reason: int | None) -> None:
    session = connected(5)
    topic_filter = ("x/" * (levels - 1) + "x").encode()
    body = b"\x00\x01\x00" + len(topic_filter).to_bytes(2, "big") + topic_filter + b"\x00"
    session.receive(b"\x82" + bytes((len(body) % 128 | 0x80, len(body) // 128)) + body, 0.0)
    said = [packet.reason for packet in sent(session) if isinstance(packet, Disconnect)]
    assert said == ([reason] if reason else [])


def test_a_maximum_qos_is_for_publishes_only() -> None:  # [MQTT-3.2.2-10]
    session = connected(5, Limits(maximum_qos=0))
    wish = Subscribe(1, (Subscription("a", 2),))
    assert session.receive(encode_packet(wish, 5), 0.0) == [wish]


@pytest.mark.parametrize(("maximum", "wrong"), [(0, 1), (0, 2), (1, 2)])
def test_the_maximum_qos_holds_for_a_topic_that_was_seen_before(maximum: int, wrong: int) -> None:  # [MQTT-3.2.2-11]
    session = connected(5, Limits(maximum_qos=maximum))
    packets = [Publish("a", b"", 0), Publish("a", b"", 0), Publish("a", b"", wrong, packet_id=1)]
    events = session.receive(b"".join(encode_packet(packet, 5) for packet in packets), 0.0)
    assert [type(event) for event in events] == [Publish, Publish, ProtocolFailed]
    assert sent(session)[-1].reason == 0x9B


def test_accept_refuses_what_would_break_the_standard() -> None:
    session = ServerSession(Limits())
    with pytest.raises(LocalProtocolError):
        session.accept(0.0)
    with pytest.raises(LocalProtocolError):
        session.refuse(0x87)
    with pytest.raises(LocalProtocolError):
        awaiting().accept(0.0, session_present=True)  # clean start [MQTT-3.2.2-2]
    nameless = ServerSession(Limits())
    nameless.receive(bytes.fromhex("100c00044d5154540402003c0000"), 0.0)
    with pytest.raises(LocalProtocolError):
        nameless.accept(0.0)
    nameless.accept(0.0, assigned_client_id="given")
    assert nameless.client_id == "given"
    with pytest.raises(LocalProtocolError):
        nameless.accept(0.0)
    with pytest.raises(LocalProtocolError):
        awaiting().refuse(0x00)


def test_an_assigned_identifier_is_told_to_version_5_only_when_it_was_needed() -> None:
    named = awaiting(5)
    named.accept(0.0, assigned_client_id="other")
    assert named.client_id == "c"
    assert sent(named)[0].properties.assigned_client_id is None
    nameless = ServerSession(Limits())
    nameless.receive(bytes.fromhex("100d00044d5154540502003c000000"), 0.0)
    nameless.accept(0.0, assigned_client_id="given")
    assert sent(nameless)[0].properties.assigned_client_id == "given"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (0x84, 1),
        (0x85, 2),
        (0x88, 3),
        (0x89, 3),
        (0x97, 3),
        (0x9F, 3),
        (0x80, 3),
        (0x86, 4),
        (0x87, 5),
        (0x8A, 5),
        (0x81, None),
    ],
)
def test_a_refusal_in_version_3(reason: int, code: int | None) -> None:
    session = awaiting(4)
    session.refuse(reason, "not shown")
    assert session.take_outgoing() == (b"" if code is None else bytes((0x20, 2, 0, code)))


def test_disconnect_before_accept_is_a_refusal() -> None:  # [MQTT-3.14.0-1]
    session = awaiting(5)
    session.disconnect(0x89)
    assert sent(session) == [ConnAck(False, 0x89)]
    session = awaiting(5)
    session.disconnect(0x8B)  # not a CONNACK reason
    assert session.take_outgoing() == b""
    assert session.phase is Phase.CLOSED
    with pytest.raises(LocalProtocolError):
        session.disconnect(0x85)  # not a DISCONNECT reason


# -- faults, ends and wills --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["00", "3605000161", "c100"])
def test_events_before_a_fault_are_not_lost(fault: str) -> None:
    session = connected()
    events = session.receive(publishes(1, 2) + bytes.fromhex(fault) + publishes(3), 0.0)
    assert [type(event) for event in events] == [Publish, Publish, ProtocolFailed]
    assert session.phase is Phase.CLOSED
    assert session.receive(publishes(4), 0.0) == []


WILL = Will("gone", b"c")


@pytest.mark.parametrize(
    ("end", "is_due"),
    [("e000", False), ("e00104", True), ("e00180", True), ("", True), ("0000", True)],
)
def test_which_end_makes_a_will_due(end: str, is_due: bool) -> None:  # [MQTT-3.1.2-8], [MQTT-3.14.4-3]
    session = connected(5, will=WILL)
    session.receive(bytes.fromhex(end), 0.0)
    assert session.phase is Phase.CLOSED
    assert session.will == (WILL if is_due else None)


def test_a_will_of_a_connection_that_was_never_accepted_is_not_due() -> None:
    for end in (lambda s: s.refuse(0x87), lambda s: s.disconnect(0x8B)):
        session = awaiting(5, will=WILL)
        end(session)
        assert session.will is None


def test_a_take_over_leaves_the_will_to_the_owner() -> None:
    session = connected(5, will=WILL)
    session.disconnect(0x8E)
    assert session.will == WILL
    session.disconnect(0x8E)
    assert sent(session) == [Disconnect(0x8E)]


def test_session_expiry() -> None:
    assert connected(4).session_expiry_s == 0
    assert connected(4, clean_start=False).session_expiry_s == 0xFFFF_FFFF
    session = connected(5, properties=Properties(session_expiry_s=60))
    session.receive(encode_packet(Disconnect(0, Properties(session_expiry_s=7)), 5), 0.0)
    assert session.session_expiry_s == 7


# -- time --------------------------------------------------------------------------------------------------------------


def test_keep_alive_is_one_and_a_half_times() -> None:  # [MQTT-3.1.2-22]
    session = connected(5, keep_alive_s=10, will=WILL)
    assert session.next_deadline() == 15.0
    session.receive(encode_packet(PingReq()), 10.0)
    assert session.tick(24.9) == []
    session.receive(b"\xc0", 24.0)  # half a packet is none
    assert session.next_deadline() == 25.0
    (event,) = session.tick(25.0)
    assert isinstance(event, TimedOut)
    assert sent(session)[-1].reason == 0x8D
    assert session.will == WILL
    assert session.tick(100.0) == []


def test_keep_alive_of_version_5_is_capped() -> None:  # [MQTT-3.1.2-21], [MQTT-3.2.2-22]
    limits = Limits(keep_alive_s_max=30)
    for asked, announced in ((0, 30), (31, 30), (30, None), (5, None)):
        session = awaiting(5, limits, keep_alive_s=asked)
        session.accept(0.0)
        assert sent(session)[0].properties.server_keep_alive_s == announced
        assert session.next_deadline() == 1.5 * (announced or asked)
    assert connected(4, limits, keep_alive_s=300).next_deadline() == 450.0
    assert connected(4, limits, keep_alive_s=0).next_deadline() is None


def test_the_connect_deadline() -> None:
    session = ServerSession(Limits(connect_deadline_s=5), opened_at=100.0)
    assert session.next_deadline() == 105.0
    session.receive(b"\x10", 104.0)
    assert session.tick(104.9) == []
    assert [type(event) for event in session.tick(105.0)] == [TimedOut]
    assert session.phase is Phase.CLOSED
    assert session.next_deadline() is None


def test_without_an_opening_time_the_first_tick_starts_the_deadline() -> None:
    session = ServerSession(Limits(connect_deadline_s=5))
    assert session.next_deadline() == float("-inf")
    assert session.tick(50.0) == []
    assert session.next_deadline() == 55.0


# -- memory ------------------------------------------------------------------------------------------------------------


def _bytes_per_session(busy: bool) -> float:
    data = encode_packet(Publish("d/acme/sensor-1/telemetry", b"x" * 100, 1, packet_id=300))
    limits = Limits()

    def one() -> ServerSession:
        session = ServerSession(limits, opened_at=0.0)
        session.receive(bytes.fromhex("100d00044d5154540402003c000163"), 0.0)
        session.accept(0.0)
        session.take_outgoing()
        for _ in range(3 if busy else 0):
            session.receive(data * 20, 1.0)
            session.acknowledge_many([300] * 20)
            session.take_outgoing()
        return session

    one()
    gc.collect()
    tracemalloc.start()
    kept = [one() for _ in range(100)]
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (size - 8 * len(kept)) / len(kept)


def test_an_idle_session_is_small() -> None:
    assert _bytes_per_session(busy=False) < 700


def test_a_session_that_was_busy_is_small_again() -> None:
    assert _bytes_per_session(busy=True) < 900  # and the name of its topic


def test_an_incomplete_packet_costs_what_has_arrived() -> None:
    session = connected(limits=Limits(packet_bytes_max=300_000))
    packet = encode_packet(Publish("a", bytes(262_144), 1, packet_id=1))
    tracemalloc.start()
    for at in range(0, len(packet) - 1, 1024):
        assert session.receive(packet[at : min(at + 1024, len(packet) - 1)], 0.0) == []
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1.2 * len(packet)
    assert peak < 2.5 * len(packet)
    (event,) = session.receive(packet[-1:], 0.0)
    assert event.payload == bytes(262_144)


def test_remembered_topics_are_bounded() -> None:
    session = connected(5, Limits(topics_cached_max=4))
    for number in range(100):
        session.receive(encode_packet(Publish(f"a/{number}", b""), 5), 0.0)
        assert len(session._topics.known or ()) <= 4
    data = b"".join(encode_packet(Publish(f"a/{number % 3}", b"%d" % number), 5) for number in range(30))
    assert [event.topic for event in session.receive(data, 0.0)] == [f"a/{number % 3}" for number in range(30)]

"""Enhanced authentication (MQTT 5, section 4.12): whose turn it is, and that nothing else is read meanwhile."""

from __future__ import annotations

import pytest
from tests.unit.protocols.sessions import awaiting, connected, publishes, sent

from headwater.protocols.mqtt import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Event,
    Limits,
    LocalProtocolError,
    PacketTooLarge,
    Phase,
    PingReq,
    Properties,
    ProtocolFailed,
    Publish,
    ServerSession,
    TimedOut,
    Will,
    encode_packet,
)

METHOD = Properties(authentication_method="m", authentication_data=b"first")
WILL = Will("gone", b"c")


def said(reason: int, data: bytes | None = None, method: str | None = "m") -> Auth:
    return Auth(reason, Properties(authentication_method=method, authentication_data=data))


def stepwise(**connect: object) -> ServerSession:
    return awaiting(5, properties=METHOD, **connect)


def authenticated() -> ServerSession:
    session = stepwise()
    session.accept(0.0)
    session.take_outgoing()
    return session


def hear(session: ServerSession, *packets: object) -> list[Event]:
    return session.receive(b"".join(encode_packet(packet, 5) for packet in packets), 0.0)


def test_an_exchange_of_several_steps() -> None:
    session = stepwise()
    assert session.authentication_method == "m"
    for step in (b"1", b"2"):
        session.challenge(step)
        assert sent(session) == [said(0x18, step)]  # [MQTT-4.12.0-2], [MQTT-4.12.0-5]
        assert hear(session, said(0x18, b"answer " + step)) == [said(0x18, b"answer " + step)]
    assert session.phase is Phase.AWAIT_ACCEPT
    assert session.accept(0.0, authentication_data=b"last") == []
    (connack,) = sent(session)
    assert isinstance(connack, ConnAck)
    assert connack.properties.authentication_method == "m"  # [MQTT-4.12.0-5]
    assert connack.properties.authentication_data == b"last"


def test_an_exchange_byte_by_byte() -> None:
    session = stepwise()
    session.challenge(b"1")
    wire = encode_packet(said(0x18, b"2"), 5)
    assert [session.receive(wire[at : at + 1], 0.0) for at in range(len(wire))][-1] == [said(0x18, b"2")]


def test_an_exchange_that_ends_badly() -> None:  # [MQTT-4.12.0-1]
    session = stepwise(will=WILL)
    session.challenge(b"1")
    hear(session, said(0x18, b"2"))
    sent(session)
    session.refuse(0x87)
    assert sent(session) == [ConnAck(False, 0x87)]
    assert session.will is None
    session.challenge(b"late")
    assert session.take_outgoing() == b""


@pytest.mark.parametrize(
    "packet", [PingReq(), Publish("a", b""), Connect("c", 5), said(0x19), said(0x00), said(0x18, method="n"), Auth(0x18)]
)
def test_nothing_else_is_read_before_the_connack(packet: object) -> None:  # [MQTT-3.1.2-30]
    session = stepwise(will=WILL)
    session.challenge(b"1")
    sent(session)
    (event,) = hear(session, packet)
    assert isinstance(event, ProtocolFailed)
    assert [(type(answer), answer.reason) for answer in sent(session)] == [(ConnAck, 0x82)]
    assert session.will is None


def test_a_client_does_not_speak_before_its_turn() -> None:  # [MQTT-4.12.0-3]
    (event,) = hear(stepwise(), said(0x18))
    assert isinstance(event, ProtocolFailed)
    session = stepwise()
    session.challenge(b"1")
    assert [type(event) for event in hear(session, said(0x18), said(0x18))] == [Auth, ProtocolFailed]


def test_a_client_may_give_up() -> None:
    session = stepwise(will=WILL)
    session.challenge(b"1")
    assert hear(session, Disconnect()) == [Disconnect()]
    assert session.phase is Phase.CLOSED
    assert session.will is None


def test_a_client_that_never_answers() -> None:
    session = awaiting(5, Limits(connect_deadline_s=5), properties=METHOD)
    assert session.next_deadline() is None  # it is ours to speak
    session.challenge(b"1")
    assert session.next_deadline() == 5.0
    assert [type(event) for event in session.tick(5.0)] == [TimedOut]
    assert sent(session)[-1].reason == 0x87


def test_the_owner_speaks_in_turn_too() -> None:
    session = stepwise()
    with pytest.raises(LocalProtocolError):
        session.reauthenticated()
    session.challenge(b"1")
    with pytest.raises(LocalProtocolError):
        session.challenge(b"2")
    for without in (connected(5), awaiting(5), connected(4)):
        with pytest.raises(LocalProtocolError):
            without.challenge(b"1")  # [MQTT-4.12.0-6]


def test_a_challenge_that_the_client_cannot_take() -> None:
    session = awaiting(5, properties=Properties(authentication_method="m", packet_bytes_max=20))
    with pytest.raises(PacketTooLarge):
        session.challenge(bytes(20))
    session.challenge(b"", "a reason that is left out")
    assert sent(session) == [said(0x18, b"")]


def test_without_a_method_there_is_no_auth() -> None:  # [MQTT-4.12.0-6], [MQTT-4.12.0-7]
    session = awaiting(5)
    session.accept(0.0, authentication_data=b"x")
    assert sent(session)[0].properties.authentication_method is None
    (event,) = hear(session, said(0x19))
    assert isinstance(event, ProtocolFailed)
    assert sent(session)[-1].reason == 0x82


def test_authenticating_again() -> None:  # section 4.12.1
    session = authenticated()
    assert hear(session, said(0x19, b"1")) == [said(0x19, b"1")]
    session.challenge(b"2")
    assert hear(session, PingReq()) == []  # other packets go on
    assert len(session.receive(publishes(1, level=5), 0.0)) == 1
    session.acknowledge_many([1])
    assert [type(packet).__name__ for packet in sent(session)] == ["Auth", "PingResp", "PubAck"]
    assert hear(session, said(0x18, b"3")) == [said(0x18, b"3")]
    session.reauthenticated(b"4")
    assert sent(session) == [said(0x00, b"4")]
    assert hear(session, said(0x19, b"5")) == [said(0x19, b"5")]
    session.disconnect(0x87)
    assert sent(session) == [Disconnect(0x87)]
    session.reauthenticated()
    assert session.take_outgoing() == b""


@pytest.mark.parametrize("packet", [said(0x18), said(0x00), said(0x19, method="n"), Auth(0x19), Auth()])
def test_what_does_not_begin_a_re_authentication(packet: Auth) -> None:  # [MQTT-4.12.1-1]
    session = authenticated()
    (event,) = hear(session, packet)
    assert isinstance(event, ProtocolFailed)
    assert sent(session)[-1].reason == 0x82


def test_one_re_authentication_at_a_time() -> None:
    session = authenticated()
    assert [type(event) for event in hear(session, said(0x19), said(0x19))] == [Auth, ProtocolFailed]


def test_response_information_goes_to_who_asked() -> None:  # [MQTT-3.1.2-28]
    for asked, told in ((None, None), (0, None), (1, "answers/c")):
        session = awaiting(5, properties=Properties(request_response_information=asked))
        session.accept(0.0, response_information="answers/c")
        assert sent(session)[0].properties.response_information == told

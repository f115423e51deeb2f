"""Damaged packets, hundreds of thousands by default and a million by `make fuzz`: no exception, no growth, nobody stuck.

Deterministic: FUZZ_SEED and the number of a stream, which a failure prints, name everything that happens in it. Hypothesis
looks for the clever cases, the mutation fuzzer for the many.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.protocols.players import STATES, Player
from tests.unit.protocols.sessions import connected
from tests.unit.protocols.strategies import client_packets

from headwater.protocols.mqtt import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Event,
    Limits,
    Packet,
    PacketReader,
    Phase,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    RemoteProtocolError,
    ServerSession,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
    encode_packet,
)
from headwater.protocols.mqtt.wire import encode_variable_integer

PACKETS = int(os.environ.get("FUZZ_PACKETS", "200000"))
SEED = os.environ.get("FUZZ_SEED", "20261124")
LIMITS = Limits(packet_bytes_max=400, connect_bytes_max=300, receive_maximum=20, topic_bytes_max=100, maximum_qos=2)
RICH = Properties(
    payload_format=1,
    message_expiry_s=9,
    content_type="t",
    response_topic="r",
    correlation_data=b"c",
    user_properties=(("k", "v"),),
)
PLAIN = [
    Connect("client", will=Will("w", b"x"), username="u", password=b"p"),
    Publish("d/t/telemetry", b'{"t":21.5}'),
    Publish("d/t/telemetry", b'{"t":21.5}', 1, packet_id=7),
    Publish("d/t/telemetry", b"x" * 200, 1, packet_id=8),
    Publish("other", b"x", 1, True, True, 9),
    Publish("twice", b"x", 2, packet_id=10),
    PubAck(1),
    PubRec(2),
    PubRec(3),
    PubRel(10),
    PubRel(11),
    PubComp(3),
    PubComp(2),
    Subscribe(4, (Subscription("a/+", 1), Subscription("#", 2))),
    Unsubscribe(5, ("a/+", "b")),
    PingReq(),
    Disconnect(),
]
MODERN = [
    Connect(
        "client", 5, will=Will("w", b"x", properties=Properties(will_delay_s=1)), properties=Properties(receive_maximum=5)
    ),
    Publish("d/t/telemetry", b"x", 1, packet_id=7, properties=RICH),
    Publish("alias", b"x", properties=Properties(topic_alias=1)),
    Publish("", b"x", properties=Properties(topic_alias=1)),
    PubAck(1, 0x10, Properties(reason_string="r")),
    PubRec(2, 0x97),
    PubRel(10, 0x92, Properties(reason_string="r")),
    Subscribe(
        4, (Subscription("$share/g/a", 1), Subscription("b", 0, True, True, 2)), Properties(user_properties=(("k", "v"),))
    ),
    Unsubscribe(5, ("a",), Properties(user_properties=(("k", "v"),))),
    Disconnect(4, Properties(session_expiry_s=0)),
    Connect("client", 5, properties=Properties(authentication_method="m", authentication_data=b"d", topic_alias_maximum=3)),
    Auth(0x18, Properties(authentication_method="m", authentication_data=b"d")),
    Auth(0x19, Properties(authentication_method="m")),
    ConnAck(properties=Properties(assigned_client_id="i")),
    SubAck(1, (0, 0x80)),
    UnsubAck(1, (0,)),
    PingResp(),
]


def corpus(level: int) -> list[bytes]:
    return [encode_packet(packet, level) for packet in (PLAIN + MODERN if level == 5 else PLAIN)]


def damaged(seeds: list[bytes], rng: random.Random) -> bytes:
    """One packet with a few wounds; half of them get an honest length again, so that the damage reaches the parsers."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at] = rng.choice((0, 1, 2, 127, 128, 255, rng.randrange(256)))
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 5))
            case 3:
                del data[at : at + rng.randrange(1, 5)]
            case 4:
                other = rng.choice(seeds)
                data[at:] = other[rng.randrange(len(other)) :]
            case 5:
                data[at:at] = data[at : at + 20]
    if len(data) > 2 and rng.random() < 0.5:
        body = bytes(data[2:])
        return bytes(data[:1]) + encode_variable_integer(len(body)) + body
    return bytes(data)


def open_session(level: int) -> ServerSession:
    """0 = one that still waits for its CONNECT."""
    return connected(level, LIMITS) if level else ServerSession(LIMITS, opened_at=0.0)


def feed(session: ServerSession, pieces: list[bytes]) -> list[Event]:
    events: list[Event] = []
    for piece in pieces:
        if session.phase is Phase.CLOSED:
            break
        events += session.receive(piece, 0.0)
        assert session._rest is None or len(session._rest) <= LIMITS.packet_bytes_max + len(piece)
    return events


def feed_by_byte(session: ServerSession, stream: bytes) -> tuple[list[Event], int]:
    """The events, and how many bytes it took to close the session; all of them where that did not happen."""
    events: list[Event] = []
    for at in range(len(stream)):
        events += feed(session, [stream[at : at + 1]])
        if session.phase is Phase.CLOSED:
            return events, at + 1
    return events, len(stream)


def both_ways(level: int, stream: bytes) -> tuple[ServerSession, int]:
    """The session that got it in one piece, and how far it came. Any exception fails the test: a session has none."""
    if not level:
        stream = stream[: LIMITS.packet_bytes_max]  # of more behind a CONNECT, one read may wait for `accept`, two may not
    whole, by_byte = open_session(level), open_session(level)
    events = feed(whole, [stream] if stream else [])  # b"" would be the end of the stream
    told, came = feed_by_byte(by_byte, stream)
    assert told == events
    assert by_byte.take_outgoing() == whole.take_outgoing()
    assert (by_byte.phase, by_byte.unacknowledged, by_byte.will) == (whole.phase, whole.unacknowledged, whole.will)
    if whole.phase is Phase.CONNECTED:
        whole.acknowledge_many([event.packet_id for event in events if isinstance(event, Publish) and event.qos])
        assert whole.unacknowledged == 0
    return whole, came


def blocks() -> int:
    """Pieces of memory that anything holds: cheap to count, and a leak of one a packet would be 180,000 of them."""
    gc.collect()
    return sys.getallocatedblocks()


def streams(kind: str) -> Iterator[tuple[str, random.Random]]:
    """Without end: each has a name that says how to make it again, and chance of its own."""
    for number in count():
        name = f"FUZZ_SEED={SEED} {kind} {number}"
        yield name, random.Random(name)


@contextmanager
def named(stream: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the stream {stream!r}")
        raise


@pytest.mark.timeout(3_600)
def test_every_state() -> None:
    """What comes in pieces, between things that an owner does, at sessions of every kind."""
    seeds = {level: corpus(level or 5) for level in (0, 3, 4, 5)}
    done = survived = warm = 0
    for stream, rng in streams("every state"):
        if done >= PACKETS:
            break
        state = rng.choice(list(STATES))
        level, begin = STATES[state]
        with named(f"{stream}, {state}"):
            player = begin(rng)
            done += play(player, [damaged(seeds[level], rng) for _ in range(rng.randrange(1, 7))])
            survived += player.session.phase is not Phase.CLOSED
            player.prove_alive()
        warm = warm or (blocks() if done > PACKETS // 10 else 0)
    assert survived > PACKETS // 100  # the damage is not so great that nothing gets through
    assert blocks() - warm < 2_000


def play(player: Player, packets: list[bytes]) -> int:
    """How many packets it looked at, at least: those that began before the piece that closed it."""
    rng = player.rng
    begins = list(accumulate(map(len, packets), initial=0))[:-1]
    stream = b"".join(packets)
    at = 0
    while at < len(stream) and player.session.phase is not Phase.CLOSED:
        start, at = at, at + rng.choice((1, 2, rng.randrange(1, 80), len(stream)))
        player.feed(stream[start:at])
        player.act()
    if player.session.phase is not Phase.CLOSED:
        return len(packets)
    return sum(begin <= start for begin in begins) if at else 0


@pytest.mark.timeout(3_600)
def test_mutations() -> None:
    """The same, however the stream is cut; a quarter as many, because each is read twice."""
    seeds = {level: corpus(level or 5) for level in (0, 3, 4, 5)}
    done = survived = warm = 0
    for name, rng in streams("both ways"):
        if done >= PACKETS // 4:
            break
        level = rng.choice((0, 3, 4, 5))
        packets = [damaged(seeds[level], rng) for _ in range(rng.randrange(1, 5))]
        with named(name):
            session, came = both_ways(level, b"".join(packets))
        survived += session.phase is not Phase.CLOSED
        begins = accumulate(map(len, packets), initial=0)
        done += sum(begin < came for begin in begins)  # what lies behind the first fatal one was never looked at
        warm = warm or (blocks() if done > PACKETS // 40 else 0)
    assert survived > PACKETS // 400
    assert blocks() - warm < 2_000


def test_damage_leaves_nothing_behind() -> None:
    rng = random.Random(20_261_125)
    seeds = corpus(5)

    def measured(streams: int) -> int:
        for _ in range(streams):
            both_ways(5, b"".join(damaged(seeds, rng) for _ in range(3)))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    measured(300)
    tracemalloc.start()
    first = measured(100)
    last = measured(2_000)
    tracemalloc.stop()
    assert last - first < 50_000


@given(st.sampled_from([0, 3, 4, 5]), st.binary(max_size=60))
@settings(max_examples=500, deadline=None)
def test_noise(level: int, stream: bytes) -> None:
    both_ways(level, stream)


@st.composite
def wounded(draw: st.DrawFn) -> tuple[int, bytes]:
    """Good packets of any content, then a few pieces replaced: what Hypothesis can make smaller until it is readable."""
    level = draw(st.sampled_from([3, 4, 5]))
    packets = draw(st.lists(client_packets(level), min_size=1, max_size=4))
    stream = bytearray(b"".join(encode_packet(packet, level) for packet in packets))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(stream)))
        stream[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return level, bytes(stream)


@given(wounded())
@settings(max_examples=500, deadline=None)
def test_wounds(wounded: tuple[int, bytes]) -> None:
    both_ways(*wounded)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[int, list[Packet]]:
    level = draw(st.sampled_from([3, 4, 5]))
    return level, draw(st.lists(client_packets(level), max_size=6))


@given(conversations())
@settings(max_examples=200, deadline=None)
def test_valid_packets(conversation: tuple[int, list[Packet]]) -> None:
    level, packets = conversation
    both_ways(level, b"".join(encode_packet(packet, level) for packet in packets))


@given(
    st.sampled_from([3, 4, 5]), st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=8), st.integers(0, 2**32)
)
@settings(max_examples=150, deadline=None)
def test_the_fast_path_reads_what_the_plain_decoder_reads(level: int, payloads: list[bytes], seed: int) -> None:
    rng = random.Random(seed)
    topics = ["a", "d/tenant/device/telemetry", "ä/漢", "x" * 40]
    packets = [
        Publish(
            rng.choice(topics),
            payload * rng.choice((1, 1, 9)),
            qos := rng.randrange(2),
            packet_id=qos and rng.randrange(1, 65_536),
        )
        for payload in payloads
    ] * 2
    stream = b"".join(encode_packet(packet, level) for packet in packets)
    session = connected(level, Limits())
    assert session.receive(stream, 0.0) == packets == PacketReader(level).feed(stream)


@pytest.mark.parametrize("level", [3, 4, 5])
def test_the_reader_of_the_other_side(level: int) -> None:
    """PacketReader, which reads servers too: only its own error, the same in any pieces, and no more kept than it may."""
    rng = random.Random(7)
    seeds = corpus(5)
    for _ in range(20_000):
        stream = damaged(seeds, rng) + damaged(seeds, rng)
        read = {size: read_in_pieces(level, stream, size) for size in (1, 7, len(stream) or 1)}
        assert len({error for _, error in read.values()}) == 1
        if read[1][1] is None:
            assert read[1][0] == read[7][0] == read[len(stream) or 1][0]


def read_in_pieces(level: int, stream: bytes, size: int) -> tuple[list[Packet], int | None]:
    """The packets, and the reason of the error that ended it."""
    reader = PacketReader(level, packet_bytes_max=400)
    packets: list[Packet] = []
    try:
        for at in range(0, len(stream), size):
            packets += reader.feed(stream[at : at + size])
            assert len(reader._rest) <= 400 + size
    except RemoteProtocolError as error:
        return packets, error.reason
    return packets, None

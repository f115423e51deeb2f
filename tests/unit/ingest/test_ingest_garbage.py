"""Whatever a device sends, records or `Rejected` come out, and records are what the stream can hold."""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.profiles import EVERY_TYPE, NOW_US, compiled

from headwater.device.profile import Decoder, TopicRule
from headwater.ingest.errors import Rejected
from headwater.ingest.values import INT_MAX, INT_MIN
from headwater.stream.envelope import Kind, Record, decode_batch, encode_batch

PROFILES = (compiled(), compiled(*EVERY_TYPE))
RULES = compiled(topics=(TopicRule("a", flatten=True, path="/a", time_key="/t"), TopicRule("b", flatten=True))).topic_rules

SEEDS = {
    Decoder.JSON: [
        b'{"ts":1764000000000,"values":{"temperature":21.5,"count":1}}',
        b'[{"a":1e5},{"time":"2025-11-24T16:00Z"}]',
    ],
    Decoder.SENML_JSON: [b'[{"bn":"a","bt":1.7e9,"n":"b","v":1},{"n":"c","t":-1,"vb":true}]'],
    Decoder.CBOR: [cbor2.dumps({"ts": 1_764_000_000_000, "values": {"temperature": 21.5, "detail": [1, {"x": None}]}})],
    Decoder.SENML_CBOR: [cbor2.dumps([{-2: "a", -3: 1.7e9, 0: "b", 2: 1}, {0: "c", 8: b"x"}])],
    Decoder.MSGPACK: [msgspec.msgpack.encode([{"ts": 1_764_000_000_000, "values": {"open": True, "place": [1.0, 2]}}])],
}
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=20), st.binary(max_size=9)
)
names = st.sampled_from(
    ["ts", "time", "values", "temperature", "count", "open", "mode", "detail", "place", "n", "v", "lat", "a", "t"]
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=4), inner, max_size=5),
    max_leaves=20,
)


def check(payload: bytes, decoder: Decoder) -> None:
    for profile in PROFILES:
        for read in (profile.telemetry, profile.attributes, lambda p, n, d, f=profile: f.event("e", p, n, d)):
            try:
                records = read(payload, NOW_US, decoder)
            except Rejected as rejected:
                msgspec.json.encode(rejected.fields)
                continue
            for observed_us, body in records:
                storable(observed_us, body)
        try:
            outcomes = profile.telemetry_each(payload, NOW_US, decoder)
        except Rejected:
            continue
        assert all(outcome.observed is None or outcome.rejected is None for outcome in outcomes)
    for rule in RULES:
        try:
            rule.reader("a")(payload, NOW_US)
        except Rejected:
            continue


def storable(observed_us: int, body: dict[str, Any]) -> None:
    assert type(observed_us) is int
    assert 946_684_800_000_000 <= observed_us <= NOW_US + 300_000_000
    assert body
    for name, value in body.items():
        assert type(name) is str
        assert type(value) in {int, float, bool, str, type(None), msgspec.msgpack.Ext}
        if type(value) is int:
            assert INT_MIN <= value <= INT_MAX
        if type(value) is float:
            assert abs(value) < float("inf")
    record = Record(b"t" * 16, b"d" * 16, Kind.TELEMETRY, observed_us, NOW_US, 1, 1, body)
    assert len(decode_batch(encode_batch([record]))) == 1


@pytest.mark.parametrize("decoder", list(SEEDS))
@settings(max_examples=300, deadline=None)
@given(payload=st.binary(max_size=200))
def test_noise(decoder: Decoder, payload: bytes) -> None:
    check(payload, decoder)


@pytest.mark.parametrize("decoder", list(SEEDS))
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_good_payload_gone_bad(decoder: Decoder, data: st.DataObject) -> None:
    payload = bytearray(data.draw(st.sampled_from(SEEDS[decoder])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3)) or b"\xff"
    check(bytes(payload), decoder)


@settings(max_examples=400, deadline=None)
@given(tree=trees)
def test_well_formed_and_meaningless(tree: Any) -> None:
    check(cbor2.dumps(tree), Decoder.CBOR)
    check(cbor2.dumps(tree), Decoder.SENML_CBOR)
    check(msgspec.msgpack.encode(tree), Decoder.MSGPACK)
    text = msgspec.json.encode(tree)
    check(text, Decoder.JSON)
    check(text, Decoder.SENML_JSON)

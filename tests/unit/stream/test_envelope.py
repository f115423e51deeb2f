"""The envelope: what a gateway wrote is what a consumer reads, whatever devices say."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from headwater.stream.envelope import (
    EXT_JSON,
    VERSION,
    BatchWriter,
    DeadLetter,
    Flag,
    Kind,
    Record,
    UnknownEnvelope,
    decode_batch,
    decode_dead_letter,
    encode_batch,
    encode_dead_letter,
)

_INT64 = st.integers(-(2**63), 2**63 - 1)
_VALUES = (
    st.none()
    | st.booleans()
    | _INT64
    | st.floats(allow_nan=False)
    | st.text()
    | st.builds(Ext, st.sampled_from([1, 2]), st.binary(max_size=20))
)
RECORDS = st.builds(
    Record,
    tenant=st.binary(min_size=16, max_size=16),
    device=st.binary(min_size=16, max_size=16),
    kind=st.sampled_from([int(kind) for kind in Kind]),
    observed_at=_INT64,
    received_at=_INT64,
    epoch=_INT64,
    sequence=_INT64,
    body=st.dictionaries(st.text(), _VALUES, max_size=4),
    flags=st.sampled_from([0, int(Flag.RESENT)]),
)


def record(body: dict[str, Any]) -> Record:
    return Record(b"t" * 16, b"d" * 16, Kind.TELEMETRY, 1, 2, 3, 4, body)


def read_or_refuse(data: bytes) -> None:
    """Whatever the bytes are, no other error comes out."""
    with contextlib.suppress(msgspec.DecodeError, UnknownEnvelope):
        decode_batch(data)


@given(st.lists(RECORDS, max_size=20))
def test_a_batch_written_record_by_record_is_the_same_batch(records: list[Record]) -> None:
    writer = BatchWriter()
    for one in records:
        writer.append(one)
    assert (writer.count, writer.size) == (len(records), len(writer.finish()))
    assert decode_batch(writer.finish()) == decode_batch(encode_batch(records)) == records


def test_types_survive() -> None:
    body = {"s": "0012", "i": 2**53 + 1, "f": 5.0, "b": True, "j": Ext(EXT_JSON, b'{"a":1}'), "n": None, "nul": "a\0b"}
    read = decode_batch(encode_batch([record({**body, "nan": math.nan})]))[0].body
    assert math.isnan(read.pop("nan"))
    assert read == body
    assert [type(read[name]) for name in "sifb"] == [str, int, float, bool]


@pytest.mark.parametrize("unfit", ["\ud800", 2**64, object(), {"a": ["\udfff"]}])
def test_a_record_that_cannot_be_written_leaves_its_batch_as_it_was(unfit: object) -> None:
    writer = BatchWriter()
    writer.append(record({"before": 1}))
    with pytest.raises((UnicodeEncodeError, OverflowError, TypeError)):
        writer.append(record({"fit": 1, "unfit": unfit}))
    writer.append(record({"after": 2}))
    assert [one.body for one in decode_batch(writer.finish())] == [{"before": 1}, {"after": 2}]


def test_a_batch_of_a_version_to_come_is_refused_as_such() -> None:
    with pytest.raises(UnknownEnvelope):
        decode_batch(msgspec.msgpack.encode((VERSION + 1, [record({"x": 1})])))


@given(st.binary(max_size=200))
def test_garbage_is_told_apart_from_a_batch(data: bytes) -> None:
    read_or_refuse(data)


@given(RECORDS, st.data())
def test_a_batch_that_was_cut_or_changed_never_ends_in_another_error(one: Record, data: st.DataObject) -> None:
    encoded = bytearray(encode_batch([one]))
    place = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(msgspec.DecodeError):
        decode_batch(bytes(encoded[:place]))
    encoded[place] = data.draw(st.integers(0, 255))
    read_or_refuse(bytes(encoded))


def test_a_dead_letter_keeps_its_payload_byte_by_byte() -> None:
    letter = DeadLetter(b"d" * 16, "mqtt", "a/\u00fc/\0", "payload.malformed", "why", 7, bytes(range(256)), "text/plain")
    assert decode_dead_letter(encode_dead_letter(letter)) == letter

"""Rows as bytes. What PostgreSQL makes of them is looked at in tests/integration/store/test_writer.py."""

from __future__ import annotations

import math
import struct
from dataclasses import asdict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import Ext
from tests.unit.store import copied

from headwater.store.columns import (
    EXACT_INTEGER_MAX,
    JSON_DEPTH_MAX,
    METRIC_SET_IDS_MAX,
    PACKED_VALUES_MAX,
    TIME_MAX_US,
    TIME_MIN_US,
    UnknownValue,
    copy_data,
    make_shape,
    metric_set,
    metric_type,
    pack_event,
    pack_latest,
    pack_mixed_row,
    to_json,
)
from headwater.stream.envelope import EXT_JSON, EXT_LOCATION, Kind, Record

INT4 = st.integers(1, 2**31 - 1)
TIMES = st.integers(TIME_MIN_US, TIME_MAX_US)
INT64 = st.integers(-(2**63), 2**63 - 1)
EXACT = st.integers(-EXACT_INTEGER_MAX, EXACT_INTEGER_MAX)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | EXACT | st.booleans()


def record(body: dict[str, Any] | None = None, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "tenant": b"t" * 16, "device": b"d" * 16, "kind": Kind.TELEMETRY, "observed_at": 1_700_000_000_000_000,
        "received_at": 1_700_000_000_000_001, "epoch": 5, "sequence": 6, "body": body or {},
    }  # fmt: skip
    return Record(**fields | changes)


def json_value(value: Any) -> Ext:
    return Ext(EXT_JSON, msgspec.json.encode(value))


def location(*place: float) -> Ext:
    return Ext(EXT_LOCATION, msgspec.msgpack.encode(place))


@given(
    st.lists(st.tuples(INT4, NUMBERS), min_size=1, max_size=PACKED_VALUES_MAX, unique_by=lambda pair: pair[0]),
    TIMES, TIMES, INT64, st.integers(0, 2**15 - 1),
)  # fmt: skip
def test_the_quick_way_and_the_long_way_write_the_same_row(
    pairs: list[tuple[int, Any]], observed: int, received: int, sequence: int, lane: int
) -> None:
    ids, values = zip(*pairs, strict=True)
    one = record(observed_at=observed, received_at=received)
    shape = make_shape(ids, [metric_type(value) for value in values], lane)
    assert shape.pack is not None
    row = shape.pack(one, sequence, values)
    assert row == pack_mixed_row(one, sequence, lane, ids, values)
    assert asdict(copied.telemetry(row)) == {
        "tenant": one.tenant, "device": one.device, "observed_at": observed, "received_at": received,
        "sequence": sequence, "lane": lane, "numbers": {i: float(v) for i, v in pairs}, "extras": None,
    }  # fmt: skip


def test_what_a_float_does_not_hold_goes_into_extras() -> None:
    values: dict[int, Any] = {
        1: 21.5, 2: True, 3: EXACT_INTEGER_MAX, 4: EXACT_INTEGER_MAX + 1, 5: -EXACT_INTEGER_MAX - 1, 6: "0012",
        7: math.nan, 8: math.inf, 9: -math.inf, 10: json_value({"a": [1, None, "x"]}), 11: location(52.5, 13.4),
        12: location(1.0, 2.0, 3.0), 13: "a\0b", 14: json_value({"k\0": ["\0"]}), 15: 2**63 - 1, 16: 2**64 - 1, 17: "",
    }  # fmt: skip
    row = copied.telemetry(pack_mixed_row(record(), 7, 1, list(values), list(values.values())))
    assert row.numbers == {1: 21.5, 2: 1.0, 3: 2.0**53}
    assert row.extras == {
        "4": 2**53 + 1, "5": -(2**53) - 1, "6": "0012", "7": "NaN", "8": "Infinity", "9": "-Infinity",
        "10": {"a": [1, None, "x"]}, "11": [52.5, 13.4], "12": [1.0, 2.0, 3.0], "13": "a\ufffdb",
        "14": {"k\ufffd": ["\ufffd"]}, "15": 2**63 - 1, "16": 2**64 - 1, "17": "",
    }  # fmt: skip


def test_a_row_without_numbers_has_empty_arrays() -> None:
    row = copied.telemetry(pack_mixed_row(record(), 7, 1, [1], ["x"]))
    assert (row.numbers, row.extras) == ({}, {"1": "x"})


@given(st.dictionaries(INT4, NUMBERS | st.text(), min_size=1, max_size=20), INT64, INT64)
def test_a_row_of_latest_values_holds_what_its_row_of_telemetry_holds(
    values: dict[int, Any], epoch: int, sequence: int
) -> None:
    one = record(epoch=epoch, sequence=sequence)
    row = pack_mixed_row(one, 1, 2, list(values), list(values.values()))
    latest, whole = copied.latest(pack_latest(one, metric_set(list(values)), row)), copied.telemetry(row)
    assert (latest.numbers, latest.extras) == (whole.numbers, whole.extras)
    assert (latest.epoch, latest.record, latest.metric_set) == (epoch, sequence, metric_set(list(values)))
    assert (latest.tenant, latest.device) == (one.tenant, one.device)
    assert (latest.observed_at, latest.received_at) == (one.observed_at, one.received_at)


@given(st.text(), st.none() | st.text() | st.booleans() | EXACT, INT64, st.integers(0, 2**31 - 1))
def test_an_event_is_written_with_its_place(name: str, data: Any, sequence: int, ordinal: int) -> None:
    one = record({"name": name, "data": json_value(data)}, kind=Kind.EVENT)
    row = copied.event(pack_event(one, sequence, ordinal))
    shown = data.replace("\0", "\ufffd") if isinstance(data, str) else data
    assert (row.name, row.data) == (name.replace("\0", "\ufffd"), shown)
    assert (row.sequence, row.ordinal, row.tenant, row.device) == (sequence, ordinal, one.tenant, one.device)
    assert (row.observed_at, row.received_at) == (one.observed_at, one.received_at)


def test_an_event_without_data_has_none() -> None:
    assert copied.cells(pack_event(record({"name": "door"}), 1, 1))[5] is None


@pytest.mark.parametrize("body", [{}, {"name": 5}, {"name": "a", "data": b"bytes"}, {"name": "a", "data": [1]}])
def test_an_event_that_is_none_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(UnknownValue):
        pack_event(record(body), 1, 1)


def test_a_metric_set_does_not_depend_on_order_and_fits_into_an_index() -> None:
    assert metric_set([7, 1, 300]) == metric_set([300, 1, 7]) == struct.pack("!iii", 1, 7, 300)
    many = list(range(10**9, 10**9 + 1_000))
    assert metric_set(many) == metric_set(many[::-1]) != metric_set(many[1:])
    longest = max(len(metric_set(many[:count])) for count in (METRIC_SET_IDS_MAX, METRIC_SET_IDS_MAX + 1, 1_000))
    assert longest < 2_000, "PostgreSQL refuses an entry of an index beyond 2,704 bytes"


def test_only_small_messages_of_numbers_have_the_quick_way() -> None:
    assert make_shape([1], ["float"], 0).pack is not None
    assert make_shape([1, 2], ["float", "string"], 0).pack is None
    many = range(1, PACKED_VALUES_MAX + 2)
    assert make_shape(many, ["float"] * len(many), 0).pack is None


@pytest.mark.parametrize(
    "value",
    [
        b"bytes", [1], {"a": 1}, Ext(99, b""),
        Ext(EXT_JSON, b""), Ext(EXT_JSON, b'{"a": '), Ext(EXT_JSON, b"NaN"), Ext(EXT_JSON, b"1e400"),
        Ext(EXT_JSON, b'"\\ud800"'), Ext(EXT_JSON, b'"\xff"'), Ext(EXT_JSON, b"1" * 5_000),
        Ext(EXT_JSON, b"[" * 100_000 + b"]" * 100_000), Ext(EXT_JSON, b'{"a":' * 101 + b"1" + b"}" * 101),
        Ext(EXT_JSON, b'1, "7": 2'), Ext(EXT_LOCATION, b""), Ext(EXT_LOCATION, b"\xc0"), location(1.0),
        location(1.0, 2.0, 3.0, 4.0), location(1.0, math.nan), Ext(EXT_LOCATION, msgspec.msgpack.encode(["1", "2"])),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_that_no_reader_could_take_is_refused(value: Any) -> None:
    with pytest.raises(UnknownValue):
        to_json(value)


def test_json_may_be_as_deep_as_readers_take_and_any_number_of_members_long() -> None:
    deep = b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX
    wide = msgspec.json.encode([[{"a": [1]}]] * 500)
    for text in (deep, wide, b"1e308", b"-1e-308", b' {"a" : 1.50} '):
        assert bytes(to_json(Ext(EXT_JSON, text))) == text


def test_rows_sorted_as_bytes_lie_by_device_and_time() -> None:
    records = [
        record(device=bytes((d,)) * 16, observed_at=at)
        for d in (200, 3)
        for at in (1_700_000_000_000_000, 946_684_800_000_001)
    ]
    rows = sorted(pack_mixed_row(one, 1, 1, [1], [1.0]) for one in records)
    assert [(row.device[0], row.observed_at) for row in map(copied.telemetry, rows)] == [
        (3, 946_684_800_000_001), (3, 1_700_000_000_000_000), (200, 946_684_800_000_001), (200, 1_700_000_000_000_000),
    ]  # fmt: skip


def test_copy_data_has_a_head_and_an_end() -> None:
    assert copy_data([b"row"]) == b"PGCOPY\n\xff\r\n\x00" + bytes(8) + b"row" + b"\xff\xff"

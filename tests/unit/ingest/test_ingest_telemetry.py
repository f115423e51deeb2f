"""Types, bounds, names and shapes of telemetry, by a declared and by an accepting profile."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.profiles import EVERY_TYPE, NOW_US, compiled, plain, same

from headwater.device.principal import ProfileVersion
from headwater.device.profile import Decoder, Metric, ProfileDefinition, UnknownMetrics
from headwater.ingest.errors import Rejected
from headwater.ingest.profile_compiled import CompiledProfile

ANY = compiled()
DECLARED = compiled(*EVERY_TYPE)
GOOD = (21.5, 3, True, "auto", 1.5, 2)
VALUES: list[Any] = [
    21.5, 21, -40, 85, 85.5, 1000, 1001, 20.0, 20.5, True, False, "auto", "", "a\0b", "x" * 65_537, None, [1], {"a": 1},
    2**63 - 1, 2**63, -(2**63),
]  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        ('{"a": 21.5}', {"a": 21.5}),
        ('{"a": 21}', {"a": 21}),
        ('{"a": 21.0}', {"a": 21.0}),
        ('{"a": 2e1}', {"a": 20.0}),
        ('{"a": true, "b": false}', {"a": True, "b": False}),
        ('{"a": "21"}', {"a": "21"}),
        ('{"a": 1, "b": null}', {"a": 1}),
        ('{"a": {"lat": 1, "lon": 2}}', {"a": ("json", {"lat": 1, "lon": 2})}),
        ('{"a": [1, "x", null]}', {"a": ("json", [1, "x", None])}),
        ('{"a": 9223372036854775807}', {"a": 9223372036854775807}),
        ('{"Temp. °C": 1.5}', {"Temp. °C": 1.5}),
        ('{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_an_undeclared_metric_keeps_its_own_type(payload: str, body: dict[str, Any]) -> None:
    for _ in range(2):  # the second time by the remembered shape
        ((observed_us, given),) = ANY.telemetry(payload.encode(), NOW_US)
        assert observed_us == NOW_US
        assert same(plain(given), body)


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        ('{"temperature": 21}', {"temperature": 21.0}),
        ('{"temperature": -40.0}', {"temperature": -40.0}),
        ('{"temperature": 85}', {"temperature": 85.0}),
        ('{"count": 20.0}', {"count": 20}),
        ('{"count": 0}', {"count": 0}),
        ('{"open": true}', {"open": True}),
        ('{"mode": "42"}', {"mode": "42"}),
        ('{"detail": 5}', {"detail": ("json", 5)}),
        ('{"detail": "text"}', {"detail": ("json", "text")}),
        ('{"place": {"lat": 52.5, "lon": 13}}', {"place": ("location", [52.5, 13.0])}),
        ('{"place": {"latitude": 52.5, "longitude": 13.4, "altitude": 34}}', {"place": ("location", [52.5, 13.4, 34.0])}),
        ('{"place": [52.5, 13.4]}', {"place": ("location", [52.5, 13.4])}),
        ('{"temperature": 20, "other": 1}', {"temperature": 20.0, "other": 1}),
    ],
)
def test_a_declared_metric_takes_exact_steps_only(payload: str, body: dict[str, Any]) -> None:
    for _ in range(2):
        ((_, given),) = DECLARED.telemetry(payload.encode(), NOW_US)
        assert same(plain(given), body)


@pytest.mark.parametrize(
    ("payload", "code", "metric"),
    [
        ('{"temperature": "21.5"}', "metric.type_mismatch", "temperature"),
        ('{"temperature": true}', "metric.type_mismatch", "temperature"),
        ('{"temperature": 85.01}', "metric.out_of_bounds", "temperature"),
        ('{"temperature": -41}', "metric.out_of_bounds", "temperature"),
        ('{"temperature": 123456789012345678901234567890}', "metric.type_mismatch", "temperature"),
        ('{"count": 20.5}', "metric.type_mismatch", "count"),
        ('{"count": -1}', "metric.out_of_bounds", "count"),
        ('{"count": true}', "metric.type_mismatch", "count"),
        ('{"open": 1}', "metric.type_mismatch", "open"),
        ('{"open": "true"}', "metric.type_mismatch", "open"),
        ('{"mode": 42}', "metric.type_mismatch", "mode"),
        ('{"mode": "a\\u0000b"}', "metric.type_mismatch", "mode"),
        ('{"place": [91, 0]}', "metric.out_of_bounds", "place"),
        ('{"place": {"lat": 1}}', "metric.type_mismatch", "place"),
        ('{"place": ["1", 2]}', "metric.type_mismatch", "place"),
        ('{"detail": "a\\u0000b"}', "metric.type_mismatch", "detail"),
        ('{"x": 9223372036854775808}', "metric.out_of_bounds", "x"),
        ('{"x": {"deep": 9223372036854775808}}', "metric.out_of_bounds", "x"),
        ('{"x": ' + "[" * 20 + "]" * 20 + "}", "metric.too_large", "x"),
        ('{"x": "' + "y" * 65_537 + '"}', "metric.too_large", "x"),
        ('{"": 1}', "metric.name_invalid", None),
        ('{"a\\nb": 1}', "metric.name_invalid", None),
        ('{"' + "n" * 201 + '": 1}', "metric.name_invalid", None),
        ("{}", "payload.empty", None),
        ("[]", "payload.empty", None),
        ("", "payload.empty", None),
        ('{"ts": 1764000000000, "values": {}}', "payload.empty", None),
        ("21.5", "payload.malformed", None),
        ('"text"', "payload.malformed", None),
        ('{"a": 1', "payload.malformed", None),
        ('{"a": NaN}', "payload.malformed", None),
        ('{"a": 1e999}', "payload.malformed", None),
        ("[" * 100_000, "payload.malformed", None),
        ('{"a": ' + "9" * 5_000 + "}", "payload.malformed", None),
        ("{" + ",".join(f'"m{i}":1' for i in range(1001)) + "}", "payload.too_many_values", None),
        ("[" + ",".join('{"a":1}' for _ in range(10_001)) + "]", "payload.too_many_records", None),
    ],
)
def test_what_is_rejected_says_why(payload: str, code: str, metric: str | None) -> None:
    for _ in range(2):
        with pytest.raises(Rejected) as caught:
            DECLARED.telemetry(payload.encode(), NOW_US)
        assert caught.value.code == code
        assert caught.value.fields.get("metric") == metric


def test_a_remembered_shape_is_judged_like_a_new_one() -> None:
    profile = compiled(*EVERY_TYPE)
    good = b'{"temperature": 21.5, "count": 3, "open": true, "free": 7}'
    bad = b'{"temperature": 21.5, "count": 3, "open": 1, "free": 7}'
    for payload in (good, good, b'{"temperature": 99.0, "count": 3, "open": true, "free": 7}', bad, good):
        fresh = compiled(*EVERY_TYPE)
        assert _outcome(profile, payload) == _outcome(fresh, payload)


def _outcome(profile: Any, payload: bytes) -> Any:
    try:
        return profile.telemetry(payload, NOW_US)
    except Rejected as rejected:
        return rejected.code, rejected.detail, rejected.fields


def test_a_list_is_all_or_nothing_and_names_the_record() -> None:
    with pytest.raises(Rejected) as caught:
        DECLARED.telemetry(b'[{"temperature": 1}, {"ts": 1764000000000, "values": {"temperature": 1000}}]', NOW_US)
    assert caught.value.fields == {"index": 1, "metric": "temperature"}
    outcomes = DECLARED.telemetry_each(b'[{"temperature": 1}, 7, {"temperature": 1000}, {"temperature": null}]', NOW_US)
    assert [(o.observed is not None, o.rejected.code if o.rejected else None) for o in outcomes] == [
        (True, None), (False, "payload.malformed"), (False, "metric.out_of_bounds"), (False, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "records"),
    [
        ('{"ts": 1764000000123, "values": {"a": 1}}', [(1_764_000_000_123_000, {"a": 1})]),
        ('{"ts": 1764000000, "values": {"a": 1}}', [(1_764_000_000_000_000, {"a": 1})]),
        ('{"time": "2025-11-24T17:00:00.5+01:00", "values": {"a": 1}}', [(1_764_000_000_500_000, {"a": 1})]),
        ('{"ts": 1764000000000, "a": 1}', [(1_764_000_000_000_000, {"a": 1})]),
        ('{"time": "2025-11-24T16:00:00Z", "a": 1}', [(1_764_000_000_000_000, {"a": 1})]),
        ('{"ts": null, "values": {"a": 1}}', [(NOW_US, {"a": 1})]),
        ('{"values": {"a": 1}}', [(NOW_US, {"a": 1})]),
        ('[{"a": 1}, {"ts": 1764000000, "values": {"b": 2}}]', [(NOW_US, {"a": 1}), (1_764_000_000_000_000, {"b": 2})]),
        ('{"values": 5}', [(NOW_US, {"values": 5})]),
        ('{"ts": 1764000000000, "values": {"ts": 4, "time": "x"}}', [(1_764_000_000_000_000, {"ts": 4, "time": "x"})]),
    ],
)
def test_shapes(payload: str, records: list[tuple[int, dict[str, Any]]]) -> None:
    for _ in range(2):
        assert ANY.telemetry(payload.encode(), NOW_US) == records


def test_unknown_metrics_are_dropped_or_rejected_as_the_profile_says() -> None:
    dropping = compiled(Metric("a"), unknown_metrics=UnknownMetrics.DROP)
    rejecting = compiled(Metric("a"), unknown_metrics=UnknownMetrics.REJECT)
    for _ in range(2):
        assert dropping.telemetry(b'{"a": 1, "b": 2}', NOW_US) == [(NOW_US, {"a": 1.0})]
        assert dropping.telemetry(b'{"b": 2}', NOW_US) == []
        with pytest.raises(Rejected) as caught:
            rejecting.telemetry(b'{"a": 1, "b": 2}', NOW_US)
        assert caught.value.code == "metric.unknown"
        assert caught.value.fields == {"metric": "b", "index": 0}


@pytest.mark.parametrize(("encode", "decoder"), [(cbor2.dumps, Decoder.CBOR), (msgspec.msgpack.encode, Decoder.MSGPACK)])
def test_cbor_and_messagepack_have_the_same_shapes_and_the_same_limits(encode: Any, decoder: Decoder) -> None:
    def read(value: Any) -> Any:
        return ANY.telemetry(encode(value), NOW_US, decoder)

    assert read({"ts": 1_764_000_000_000, "values": {"a": 1, "b": 1.5, "c": "x", "d": True}}) == [
        (1_764_000_000_000_000, {"a": 1, "b": 1.5, "c": "x", "d": True})
    ]
    assert read([{"a": 1}, {"b": 2}]) == [(NOW_US, {"a": 1}), (NOW_US, {"b": 2})]
    for value, code in (
        ({"a": float("nan")}, "metric.out_of_bounds"),
        ({"a": float("inf")}, "metric.out_of_bounds"),
        ({"a": {"b": float("nan")}}, "metric.out_of_bounds"),
        ({"a": b"bytes"}, "metric.type_mismatch"),
        ({"a": 2**64 - 1}, "metric.out_of_bounds"),
        ({1: 1}, "metric.name_invalid"),
        ({b"a": 1}, "metric.name_invalid"),
        ({"a": {1: 1}}, "metric.type_mismatch"),
        ([], "payload.empty"),
        (5, "payload.malformed"),
    ):
        with pytest.raises(Rejected) as caught:
            read(value)
        assert caught.value.code == code, value


@pytest.mark.parametrize(
    "payload",
    [
        cbor2.dumps({"a": cbor2.CBORTag(2, b"\xff" * 1000)}),  # bignum
        cbor2.dumps({"a": cbor2.CBORTag(4, [10**9, 1])}),  # 1E+1000000000
        cbor2.dumps({"a": cbor2.CBORTag(5, [10**9, 1])}),
        cbor2.dumps({"a": cbor2.CBORTag(35, "(a+)+$")}),  # regular expression
        bytes.fromhex("d81c81d81d00"),  # a list that contains itself
        cbor2.dumps({"a": cbor2.CBORTag(258, [1, 2])}),
        cbor2.dumps({"a": cbor2.CBORTag(260, b"1234")}),
        cbor2.dumps({"a": cbor2.CBORTag(99_999, 1)}),
        b"\xa2\x61a\x01\x61a\x02",  # the same member twice
        b"\x81" * 100_000,
        b"\xc1" * 100_000,
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",  # a list of 2^64 - 1
        b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
        cbor2.dumps({"a": 1}) + b"\x00",
        b"\xf7",
        b"\xff",
    ],
)
def test_cbor_that_is_meant_to_hurt_is_refused(payload: bytes) -> None:
    with pytest.raises(Rejected):
        ANY.telemetry(payload, NOW_US, Decoder.CBOR)


def test_cbor_tags_that_mean_a_measurement_are_read() -> None:
    payload = cbor2.dumps(cbor2.CBORTag(55_799, {"ts": cbor2.CBORTag(1, 1_764_000_000), "values": {"a": 1}}))
    assert ANY.telemetry(payload, NOW_US, Decoder.CBOR) == [(1_764_000_000_000_000, {"a": 1})]
    decimal = cbor2.dumps({"a": cbor2.CBORTag(4, [-2, 2731])})
    assert ANY.telemetry(decimal, NOW_US, Decoder.CBOR) == [(NOW_US, {"a": 27.31})]


def test_what_a_profile_remembers_is_bounded() -> None:
    profile = compiled()
    for number in range(3_000):
        assert profile.telemetry(f'{{"m{number}": 1}}'.encode(), NOW_US) == [(NOW_US, {f"m{number}": 1})]
    cells = dict(zip(profile.telemetry.__code__.co_freevars, profile.telemetry.__closure__, strict=True))  # type: ignore[attr-defined]  # a function, declared as a callable
    remembered = cells["remember"].cell_contents
    shapes = dict(zip(remembered.__code__.co_freevars, remembered.__closure__, strict=True))["shapes"].cell_contents
    assert 0 < len(shapes) <= 1_024


@given(count=st.integers(1, 6), chosen=st.lists(st.integers(0, len(VALUES) - 1), min_size=6, max_size=6))
def test_the_quick_way_and_the_general_way_agree(count: int, chosen: list[int]) -> None:
    """A profile that remembers the shape against one that has never seen it, over every type of metric and of value."""
    names = ["temperature", "count", "open", "mode", "free", "other"][:count]
    for definition in ({"metrics": EVERY_TYPE}, {}, {"metrics": EVERY_TYPE, "unknown_metrics": UnknownMetrics.DROP}):
        quick = CompiledProfile(ProfileVersion(UUID(int=1), 1, ProfileDefinition(**definition)))
        fresh = CompiledProfile(ProfileVersion(UUID(int=1), 1, ProfileDefinition(**definition)))
        _outcome(quick, msgspec.json.encode(dict(zip(names, GOOD, strict=False))))
        payload = msgspec.json.encode({name: VALUES[at] for name, at in zip(names, chosen, strict=False)})
        left, right = _outcome(quick, payload), _outcome(fresh, payload)
        assert type(left) is type(right)
        if isinstance(left, list):
            assert [at for at, _ in left] == [at for at, _ in right]
            assert all(same(plain(a[1]), plain(b[1])) for a, b in zip(left, right, strict=True))
        else:
            assert left == right

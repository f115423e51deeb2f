"""RFC 8428: the examples of its section 5 and 6, and what it forbids."""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec
import pytest
from tests.support.profiles import NOW_US, compiled, same

from headwater.device.profile import Decoder
from headwater.ingest.errors import Rejected
from headwater.ingest.senml import metric_name

ANY = compiled(decoder=Decoder.SENML_JSON)
NOW = NOW_US // 1_000_000


def read(pack: Any) -> list[tuple[int, dict[str, Any]]]:
    return ANY.telemetry(msgspec.json.encode(pack), NOW_US)


def test_5_1_1_single_data_point() -> None:
    assert read([{"n": "urn:dev:ow:10e2073a01080063", "u": "Cel", "v": 23.1}]) == [
        (NOW_US, {"urn:dev:ow:10e2073a01080063": 23.1})
    ]


def test_5_1_2_multiple_data_points() -> None:
    pack = [
        {"bn": "urn:dev:ow:10e2073a01080063:", "n": "voltage", "u": "V", "v": 120.1},
        {"n": "current", "u": "A", "v": 1.2},
    ]
    assert read(pack) == [(NOW_US, {"voltage": 120.1, "current": 1.2})]


def test_5_1_2_with_base_time_and_relative_times() -> None:
    pack: list[dict[str, Any]] = [
        {
            "bn": "urn:dev:ow:10e2073a0108006:",
            "bt": 1.276020076001e09,
            "bu": "A",
            "bver": 5,
            "n": "voltage",
            "u": "V",
            "v": 120.1,
        },
        {"n": "current", "t": -5, "v": 1.2},
        {"n": "current", "t": -4, "v": 1.3},
        {"n": "current", "v": 1.7},
    ]
    assert read(pack) == [
        (1_276_020_076_001_000, {"voltage": 120.1, "current": 1.7}),
        (1_276_020_071_001_000, {"current": 1.2}),
        (1_276_020_072_001_000, {"current": 1.3}),
    ]


def test_5_1_3_times_relative_to_now() -> None:
    pack: list[dict[str, Any]] = [
        {"bn": "urn:dev:ow:10e2073a01080063:", "bu": "%RH", "n": "h", "v": 21.2},
        {"n": "h", "t": -10, "v": 21.3},
        {"n": "h", "t": -20.5, "v": 21.4},
    ]
    assert read(pack) == [
        (NOW_US, {"h": 21.2}), (NOW_US - 10_000_000, {"h": 21.3}), (NOW_US - 20_500_000, {"h": 21.4}),
    ]  # fmt: skip


def test_5_1_4_and_strings_booleans_data() -> None:
    pack: list[dict[str, Any]] = [
        {"bn": "urn:dev:ow:10e2073a01080063:", "n": "temp", "u": "Cel", "v": 23},
        {"n": "label", "vs": "Machine Room"},
        {"n": "open", "vb": False},
        {"n": "nfc-reader", "vd": "aGkgCg"},
    ]
    ((_, body),) = read(pack)
    assert same(body, {"temp": 23, "label": "Machine Room", "open": False, "nfc-reader": "aGkgCg"})


def test_base_value_sum_and_base_sum() -> None:
    pack: list[dict[str, Any]] = [{"bv": 100, "bs": 1000, "n": "a", "v": 1}, {"n": "b", "s": 5}, {"n": "c", "vs": "x"}]
    assert read(pack) == [(NOW_US, {"a": 101, "b.sum": 1005, "c": "x"})]


def test_two_values_of_one_name_and_time_are_both_kept() -> None:
    assert read([{"n": "a", "v": 1}, {"n": "a", "v": 2}]) == [(NOW_US, {"a": 1}), (NOW_US, {"a": 2})]


def test_cbor_with_integer_labels() -> None:
    # RFC 8428, section 6, the multi-point example
    pack: list[dict[Any, Any]] = [
        {-2: "urn:dev:ow:10e2073a0108006:", -3: 1276020076.001, -4: "A", -1: 5, 0: "voltage", 1: "V", 2: 120.1},
        {0: "current", 6: -5, 2: 1.2},
        {0: "raw", 8: b"hi \n"},
        {0: "exact", 2: cbor2.CBORTag(4, [-1, 273])},
    ]
    records = ANY.telemetry(cbor2.dumps(pack), NOW_US, Decoder.SENML_CBOR)
    assert records == [
        (1_276_020_076_001_000, {"voltage": 120.1, "raw": "aGkgCg", "exact": 27.3}),
        (1_276_020_071_001_000, {"current": 1.2}),
    ]


@pytest.mark.parametrize(
    ("pack", "code"),
    [
        ({}, "payload.malformed"),
        ([], "payload.empty"),
        ([{"bn": "x"}], "payload.empty"),
        ([5], "payload.malformed"),
        ([{"v": 1}], "payload.malformed"),
        ([{"n": "a", "v": "1"}], "payload.malformed"),
        ([{"n": "a", "v": True}], "payload.malformed"),
        ([{"n": "a", "vb": 1}], "payload.malformed"),
        ([{"n": "a", "vs": 1}], "payload.malformed"),
        ([{"n": "a", "v": 1, "vs": "x"}], "payload.malformed"),
        ([{"n": "a", "v": 1, "bver": 11}], "payload.malformed"),
        ([{"n": "a", "v": 1, "must_": 1}], "payload.malformed"),
        ([{"n": "a", "v": 1, "t": "now"}], "payload.malformed"),
        ([{"n": "a", "v": 1, "t": 1e300}], "payload.malformed"),
        ([{"n": "a", "v": 1, "t": NOW + 3600}], "timestamp.implausible"),
        ([{"n": "a\n", "v": 1}], "metric.name_invalid"),
    ],
)
def test_what_is_refused(pack: Any, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        read(pack)
    assert caught.value.code == code


def test_an_unknown_label_that_need_not_be_understood_is_ignored() -> None:
    assert read([{"n": "a", "v": 1, "vendor": "x"}]) == [(NOW_US, {"a": 1})]


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("temp", "temp"),
        ("urn:dev:mac:0024befffe804ff1:temp", "temp"),
        ("urn:dev:mac:0024befffe804ff1:air:temp", "air:temp"),
        ("urn:dev:mac:0024befffe804ff1_temp", "temp"),
        ("urn:dev:dn:example.com:pump-1:rpm", "rpm"),
        ("urn:dev:mac:0024befffe804ff1", "urn:dev:mac:0024befffe804ff1"),
    ],
)
def test_the_device_is_not_part_of_a_metrics_name(name: str, metric: str) -> None:
    assert metric_name(name) == metric

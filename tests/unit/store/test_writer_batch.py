"""What the records of a batch become, as far as no database is needed: the catalogue knows its metrics beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import Ext
from tests.unit.store import copied

from headwater.store import writer_batch
from headwater.store.columns import EXACT_INTEGER_MAX, TIME_MAX_US, TIME_MIN_US, metric_set
from headwater.store.metrics import MetricCatalog, MetricKey
from headwater.store.writer_batch import Batch, Group, Item, Shapes, is_storable
from headwater.stream.envelope import EXT_JSON, Flag, Kind, Record

TENANT, OTHER = b"t" * 16, b"u" * 16
AT = 1_700_000_000_000_000
TYPES = ("float", "integer", "boolean", "string", "json", "location")


class World:
    """metrics: (name, type) -> id, the same for both tenants but for an addition of 1,000"""

    def __init__(self, names: str = "abcdef") -> None:
        self.catalog = MetricCatalog(None)
        self.metrics = {(name, type_): i for i, (name, type_) in enumerate(((n, t) for n in names for t in TYPES), 1)}
        for (name, type_), i in self.metrics.items():
            self.catalog.ids[MetricKey(TENANT, name, type_)] = i
            self.catalog.ids[MetricKey(OTHER, name, type_)] = i + 1_000
        self.shapes = Shapes(3, self.catalog)

    def batch(self, *records: Record) -> Batch:
        batch = Batch(self.shapes)
        batch.add(group(records))
        return batch

    def values(self, row: bytes) -> dict[tuple[str, str], Any]:
        """By name and type."""
        read = copied.telemetry(row)
        by_id = {i: key for key, i in self.metrics.items()}
        numbers = {by_id[i]: number for i, number in read.numbers.items()}
        return numbers | {by_id[int(key)]: value for key, value in (read.extras or {}).items()}


def group(records: Sequence[Record], sequence: int = 70, first: int = 0) -> Group:
    return Group(sequence, records, range(first, first + len(records)))


def record(body: dict[str, Any], kind: int = Kind.TELEMETRY, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "tenant": TENANT, "device": b"d" * 16, "kind": kind, "observed_at": AT, "received_at": AT + 1, "epoch": 1,
        "sequence": 1, "body": body,
    }  # fmt: skip
    return Record(**fields | changes)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("times", [1, 2], ids=["the first of its shape", "of a known shape"])
def test_types_are_kept(world: World, times: int) -> None:
    body = {"a": "0012", "b": EXACT_INTEGER_MAX + 1, "c": 5.0, "d": True, "e": Ext(EXT_JSON, b'{"x": 1}'), "f": 7}
    rows = world.batch(*[record(body)] * times).rows
    assert [world.values(row) for row in rows] == [
        {
            ("a", "string"): "0012", ("b", "integer"): 2**53 + 1, ("c", "float"): 5.0, ("d", "boolean"): 1.0,
            ("e", "json"): {"x": 1}, ("f", "integer"): 7.0,
        }
    ] * times  # fmt: skip


def test_a_name_with_two_types_is_two_metrics(world: World) -> None:
    rows = world.batch(record({"a": 1}), record({"a": 1.0}), record({"a": "1"}), record({"a": True})).rows
    assert [world.values(row) for row in rows] == [
        {("a", "integer"): 1.0}, {("a", "float"): 1.0}, {("a", "string"): "1"}, {("a", "boolean"): 1.0},
    ]  # fmt: skip


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_float_that_is_not_finite_takes_the_long_way(world: World, odd: float) -> None:
    world.batch(record({"a": 1.0, "b": 1.0}))
    (row,) = world.batch(record({"a": odd, "b": 2.5})).rows
    word = "NaN" if math.isnan(odd) else "Infinity" if odd > 0 else "-Infinity"
    assert world.values(row) == {("a", "float"): word, ("b", "float"): 2.5}


@pytest.mark.parametrize("large", [EXACT_INTEGER_MAX + 1, -EXACT_INTEGER_MAX - 1, 2**64 - 1, -(2**63)])
def test_an_integer_that_no_float_holds_takes_the_long_way(world: World, large: int) -> None:
    world.batch(record({"a": 1, "b": 1.0}))
    (row,) = world.batch(record({"a": large, "b": 1e300})).rows
    assert world.values(row) == {("a", "integer"): large, ("b", "float"): 1e300}


def test_floats_beyond_all_integers_and_sums_beyond_all_floats_are_numbers_like_others(world: World) -> None:
    world.batch(record({"a": 1, "b": 1.0, "c": 1.0}))
    (row,) = world.batch(record({"a": 3, "b": 1.7e308, "c": 1.7e308})).rows
    assert world.values(row) == {("a", "integer"): 3.0, ("b", "float"): 1.7e308, ("c", "float"): 1.7e308}


_BODIES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.none(),
    max_size=6,
)


@given(st.lists(_BODIES, max_size=12))
def test_whatever_was_in_a_batch_before_each_record_is_stored_alike(bodies: list[dict[str, Any]]) -> None:
    together, alone = World(), World()
    rows = together.batch(*map(record, bodies)).rows
    expected = [row for body in bodies for row in World().batch(record(body)).rows]
    again = [row for body in bodies for row in alone.batch(record(body)).rows]
    assert rows == expected == again


def test_nothing_and_null_are_no_values(world: World) -> None:
    batch = world.batch(record({}), record({"a": None}), record({"a": None, "b": 1.0}))
    assert [world.values(row) for row in batch.rows] == [{("b", "float"): 1.0}]
    assert not batch.refused


def test_a_repetition_is_kept_apart(world: World) -> None:
    batch = world.batch(
        record({"a": 1.0}), record({"a": 2.0}, flags=Flag.RESENT), record({"name": "x"}, Kind.EVENT, flags=Flag.RESENT),
        record({"name": "y"}, Kind.EVENT),
    )  # fmt: skip
    assert (len(batch.rows), len(batch.resent_rows), len(batch.events), len(batch.resent_events)) == (1, 1, 1, 1)
    assert world.values(batch.resent_rows[0]) == {("a", "float"): 2.0}
    assert copied.event(batch.events[0]).name == "y"


def test_tenants_do_not_share_shapes(world: World) -> None:
    batch = world.batch(record({"a": 1.0}), record({"a": 1.0}, tenant=OTHER), record({"a": 1.0}))
    ids = [next(iter(copied.telemetry(row).numbers)) for row in batch.rows]
    assert ids == [1, 1_001, 1]


def test_the_newest_of_each_set_of_metrics_is_the_latest(world: World) -> None:
    batch = world.batch(
        record({"a": 1.0}, observed_at=AT + 5), record({"a": 2.0}, observed_at=AT), record({"b": 3.0}),
        record({"a": 4.0}, observed_at=AT + 5, epoch=2), record({"a": 5.0}, observed_at=AT + 5, epoch=2, sequence=0),
        record({"a": 6.0}, device=b"e" * 16), record({"a": "text"}), record({"b": 1.0, "a": 2.0}),
        record({"a": 8.0, "b": 9.0}, observed_at=AT + 1),
    )  # fmt: skip
    latest = map(copied.latest, batch.latest_rows())
    assert {(row.device[:1], row.metric_set): row.numbers or row.extras for row in latest} == {
        (b"d", metric_set([1])): {1: 4.0}, (b"d", metric_set([7])): {7: 3.0}, (b"e", metric_set([1])): {1: 6.0},
        (b"d", metric_set([4])): {"4": "text"}, (b"d", metric_set([1, 7])): {1: 8.0, 7: 9.0},
    }  # fmt: skip
    assert len(batch.rows) == 9


def test_attributes_are_merged_leaf_by_leaf_with_their_stamps(world: World) -> None:
    batch = world.batch(
        record({"fw": "1.0", "on": True}, Kind.ATTRIBUTES), record({"fw": "1.1"}, Kind.ATTRIBUTES, observed_at=AT + 1),
        record({"fw": "0.9", "gone": None}, Kind.ATTRIBUTES, observed_at=AT - 1),
        record({"x": math.nan}, Kind.ATTRIBUTES, device=b"e" * 16),
    )  # fmt: skip
    tenant, leaves = batch.attributes[b"d" * 16]
    assert (tenant, set(batch.attributes)) == (TENANT, {b"d" * 16, b"e" * 16})
    assert leaves == {"fw": ((AT + 1, 1, 1), "1.1"), "on": ((AT, 1, 1), True), "gone": ((AT - 1, 1, 1), None)}
    assert batch.attributes[b"e" * 16].leaves["x"].value == "NaN"


def test_a_record_of_attributes_is_kept_whole_or_not_at_all(world: World) -> None:
    batch = world.batch(record({"good": 1, "bad": Ext(EXT_JSON, b"[" * 5_000)}, Kind.ATTRIBUTES))
    assert batch.attributes == {}
    assert [refused.refusal.code for refused in batch.refused] == ["record.unknown_value"]


@pytest.mark.parametrize(
    ("unfit", "code"),
    [
        (record({}, 99), "record.unknown_kind"),
        (record({"gateway": "x"}, Kind.CONNECTED), "record.unknown_kind"),
        (record({"a": b"bytes"}), "record.unknown_value"),
        (record({"a": [1]}), "record.unknown_value"),
        (record({"a": Ext(99, b"")}), "record.unknown_value"),
        (record({"a": Ext(EXT_JSON, b"{")}), "record.unknown_value"),
        (record({"a": "\ud800"}), "record.not_storable"),
        (record({"name": "\ud800"}, Kind.EVENT), "record.not_storable"),
        (record({}, Kind.EVENT), "record.unknown_value"),
        (record({"a": {}}, Kind.ATTRIBUTES), "record.unknown_value"),
    ],
    ids=lambda value: value if isinstance(value, str) else Kind(value.kind).name if value.kind in list(Kind) else "other",
)
def test_what_cannot_be_stored_is_refused_and_spoils_nothing(world: World, unfit: Record, code: str) -> None:
    batch = Batch(world.shapes)
    batch.add(group([record({"a": 1.0}), unfit, record({"a": 2.0})], first=5))
    assert [(refused.item, refused.refusal.code) for refused in batch.refused] == [(Item(unfit, 70, 6), code)]
    assert [world.values(row) for row in batch.rows] == [{("a", "float"): 1.0}, {("a", "float"): 2.0}]


def test_records_of_metrics_not_seen_before_wait(world: World) -> None:
    batch = world.batch(record({"new": 1.0, "a": 1}), record({"a": 1}), record({"newer": "x", "new": 2.0, "a": None}))
    assert (len(batch.rows), len(batch.unresolved)) == (1, 2)
    wanted = batch.wanted_metrics()
    assert wanted == {(TENANT, "new", "float"), (TENANT, "a", "integer"), (TENANT, "newer", "string")}
    for key in wanted - world.catalog.ids.keys():
        world.catalog.ids[key] = 500 + len(world.catalog.ids)
    batch.retry_unresolved()
    assert (len(batch.rows), batch.unresolved) == (3, [])


@pytest.mark.parametrize("bound", ["SHAPES_MAX", "SHAPE_NAMES_MAX"])
def test_shapes_that_never_repeat_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(writer_batch, bound, 40)
    names = [f"n{number}" for number in range(100)]
    catalog = MetricCatalog(None)
    catalog.ids.update({MetricKey(TENANT, name, "float"): i for i, name in enumerate(names, 1)})
    shapes = Shapes(0, catalog)
    batch = Batch(shapes)
    for first in range(0, 90):
        batch.add(group([record(dict.fromkeys(names[first : first + 8], 1.0))]))
        assert len(shapes.by_class) <= 40
        if bound == "SHAPE_NAMES_MAX":
            assert sum(len(names) for _, names, _ in shapes.by_class) <= 40
    assert len(batch.rows) == 90


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": b""}, {"device": b"d" * 15}, {"observed_at": TIME_MIN_US - 1}, {"observed_at": TIME_MAX_US + 1},
        {"received_at": TIME_MIN_US - 1}, {"received_at": 2**63}, {"epoch": 2**63}, {"epoch": -(2**63) - 1},
        {"sequence": 2**64 - 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_columns_cannot_hold_is_told_beforehand(changes: dict[str, Any]) -> None:
    assert not is_storable(record({}, **changes))


@given(st.integers(TIME_MIN_US, TIME_MAX_US), st.integers(-(2**63), 2**63 - 1))
def test_what_they_can_hold_is_written_in_every_way(time: int, number: int) -> None:
    world = World()
    kinds = [record({"a": 1.0}), record({"a": 1.0}), record({"a": "x"}), record({"name": "e"}, Kind.EVENT)]
    for one in kinds:
        one.observed_at = one.received_at = time
        one.epoch = one.sequence = number
        assert is_storable(one)
    batch = world.batch(*kinds)
    assert (len(batch.rows), len(batch.events), len(batch.latest_rows()), batch.refused) == (3, 1, 2, [])

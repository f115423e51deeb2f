"""What a device reports, merged into what it had reported."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.store import writer_attributes
from headwater.store.writer_attributes import FORGOTTEN_MAX, LEAVES_MAX, NAME_LENGTH_MAX, REPORTED_BYTES_MAX, merge
from headwater.store.writer_batch import Leaf

Documents = tuple[dict[str, Any], dict[str, Any]]


def stored(reported: dict[str, Any], forgotten: dict[str, Any]) -> Documents:
    """As they come back from the database."""
    return msgspec.json.decode(msgspec.json.encode(reported)), msgspec.json.decode(msgspec.json.encode(forgotten))


def say(documents: Documents, stamp: tuple[int, int, int], **values: Any) -> Documents:
    merged = merge(*documents, {name: Leaf(stamp, value) for name, value in values.items()})
    return stored(merged.reported, merged.forgotten)


def shown(documents: Documents) -> dict[str, Any]:
    return {name: entry["value"] for name, entry in documents[0].items()}


def test_each_leaf_keeps_its_own_stamp() -> None:
    documents = say(({}, {}), (10, 1, 1), fw="1.0", on=True)
    documents = say(documents, (11, 1, 2), fw="1.1")
    assert documents[0] == {
        "fw": {"value": "1.1", "observed_at": 11, "order": [1, 2]},
        "on": {"value": True, "observed_at": 10, "order": [1, 1]},
    }
    late = say(documents, (10, 9, 9), fw="0.9", on=False)
    assert shown(late) == {"fw": "1.1", "on": False}


def test_nothing_newer_is_no_change() -> None:
    documents = say(({}, {}), (10, 1, 1), fw="1.0")
    for stamp in ((10, 1, 1), (10, 1, 0), (10, 0, 9), (9, 9, 9)):
        assert not merge(*documents, {"fw": Leaf(stamp, "other")}).changed
    assert not merge(*documents, {}).changed


def test_a_forgotten_attribute_does_not_come_back_by_an_older_value() -> None:
    documents = say(say(({}, {}), (10, 1, 1), fw="1.0"), (20, 1, 2), fw=None)
    assert shown(documents) == {}
    assert shown(say(documents, (15, 1, 1), fw="late")) == {}
    documents = say(documents, (21, 1, 3), fw="2.0")
    assert documents == ({"fw": {"value": "2.0", "observed_at": 21, "order": [1, 3]}}, {})


_SAYINGS = st.lists(
    st.tuples(st.sampled_from("abc"), st.tuples(*[st.integers(0, 2)] * 3), st.none() | st.integers(0, 5)),
    unique_by=lambda saying: saying[:2],
    max_size=8,
)


@given(_SAYINGS, st.randoms())
def test_the_order_in_which_records_come_does_not_matter(sayings: list[Any], order: random.Random) -> None:
    ends = []
    for _ in range(2):
        documents: Documents = ({}, {})
        for name, stamp, value in sayings:
            documents = say(documents, stamp, **{name: value})
        ends.append(documents)
        sayings = order.sample(sayings, len(sayings))
    assert ends[0] == ends[1]


def test_names_and_values_are_made_storable() -> None:
    documents = say(({}, {}), (1, 1, 1), **{"a\0b": "c\0d", "n" * 300: msgspec.Raw(b'{"k\\u0000": 1e22}')})
    assert shown(documents) == {"a\ufffdb": "c\ufffdd", "n" * NAME_LENGTH_MAX: {"k\ufffd": 1e22}}


def test_there_are_only_so_many_attributes() -> None:
    first = merge({}, {}, {f"a{n}": Leaf((1, 1, 1), n) for n in range(LEAVES_MAX + 5)})
    assert (len(first.reported), first.left_out) == (LEAVES_MAX, 5)
    second = merge(first.reported, first.forgotten, {"a0": Leaf((2, 1, 1), "new"), "more": Leaf((2, 1, 1), 1)})
    assert (second.reported["a0"]["observed_at"], "more" in second.reported, second.left_out) == (2, False, 1)


def test_they_have_only_so_many_bytes() -> None:
    large = "x" * 100_000
    documents: Documents = ({}, {})
    left_out = 0
    for number in range(12):
        merged = merge(*documents, {f"a{number}": Leaf((1, 1, 1), large), f"s{number}": Leaf((1, 1, 1), number)})
        left_out += merged.left_out
        documents = stored(merged.reported, merged.forgotten)
        assert len(msgspec.json.encode(documents[0])) <= REPORTED_BYTES_MAX
    assert (left_out, len(documents[0])) == (12 - REPORTED_BYTES_MAX // 100_000, 24 - left_out)
    # A shorter value, or forgetting one, makes room.
    documents = say(documents, (2, 1, 1), a0="short", a1=None)
    assert "a9" in say(documents, (3, 1, 1), a9=large)[0]


def test_what_was_there_before_there_was_a_bound_can_still_become_less(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = say(({}, {}), (1, 1, 1), a="x" * 1_000, b="y" * 1_000)
    monkeypatch.setattr(writer_attributes, "REPORTED_BYTES_MAX", 500)
    assert shown(say(documents, (2, 1, 1), a="z", b="y" * 1_001)) == {"a": "z", "b": "y" * 1_000}


def test_only_the_newest_forgotten_ones_are_remembered() -> None:
    documents: Documents = ({}, {})
    for number in range(FORGOTTEN_MAX + 20):
        documents = say(documents, (number, 1, 1), **{f"a{number}": None})
    assert set(documents[1]) == {f"a{number}" for number in range(20, FORGOTTEN_MAX + 20)}
    at_once = merge({}, {}, {f"a{n}": Leaf((n, 1, 1), None) for n in range(FORGOTTEN_MAX + 20)})
    assert set(at_once.forgotten) == set(documents[1])


def test_what_was_never_said_can_be_forgotten_too() -> None:
    """Its value may have been on the way."""
    documents = say(({}, {}), (5, 1, 1), a=None)
    assert shown(say(documents, (4, 9, 9), a="late")) == {}
    assert shown(say(documents, (5, 1, 2), a="new")) == {"a": "new"}

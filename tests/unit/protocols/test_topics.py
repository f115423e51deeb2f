"""Topic names and filters: MQTT 5, section 4.7 and its examples."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.protocols.mqtt import SubscriptionTree, match, parse_share, topic_filter_problem, topic_name_problem
from headwater.protocols.mqtt.topics import LEVELS_MAX


@pytest.mark.parametrize("topic", ["a", "/", "a/b", "/a", "a/", "a//b", "$SYS/x", "Ä/漢", "a b", "x" * 65_535])
def test_names(topic: str) -> None:
    assert topic_name_problem(topic) is None


@pytest.mark.parametrize("topic", ["", "a+", "a/#", "#", "+/b", "a\0b", "x" * 65_536, "漢" * 21_846])
def test_not_names(topic: str) -> None:
    assert topic_name_problem(topic)


@pytest.mark.parametrize(
    "topic_filter", ["#", "+", "a/#", "+/a/#", "/+", "+/+", "a", "$share/g/a/#", "$share/g//", "$SYS/#"]
)
def test_filters(topic_filter: str) -> None:
    assert topic_filter_problem(topic_filter) is None


@pytest.mark.parametrize(
    "topic_filter",
    [
        "",
        "a#",
        "a/#/b",
        "#/a",
        "a+",
        "a/b+/c",
        "+a",
        "##",
        "a\0",
        "$share",
        "$share/g",
        "$share//a",
        "$share/g/",
        "$share/+/a",
        "$share/g#/a",
        "$share/#",
        "x" * 65_536,
        "/" * LEVELS_MAX,
    ],
)
def test_not_filters(topic_filter: str) -> None:
    assert topic_filter_problem(topic_filter)


def test_shares() -> None:
    assert parse_share("$share/g/a/+") == ("g", "a/+")
    assert parse_share("share/g/a") is None


MATCHES = [
    ("sport/tennis/player1/#", "sport/tennis/player1", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    ("sport/#", "sport", True),
    ("#", "sport/tennis", True),
    ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("+/+", "/finance", True),
    ("/+", "/finance", True),
    ("+", "/finance", False),
    ("#", "$SYS/monitor", False),  # [MQTT-4.7.2-1]
    ("+/monitor", "$SYS/monitor", False),
    ("$SYS/#", "$SYS/monitor", True),
    ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
    ("a/+/#", "a/$b", True),  # only the first level hides
    ("ACCOUNTS", "Accounts", False),
    ("a", "a/b", False),
    ("a/b", "a", False),
    ("/a", "a", False),
]


@pytest.mark.parametrize(("topic_filter", "topic", "expected"), MATCHES)
def test_matching(topic_filter: str, topic: str, expected: bool) -> None:
    tree: SubscriptionTree[str] = SubscriptionTree()
    tree.insert(topic_filter, "x")
    assert match(topic_filter, topic) is expected
    assert tree.match(topic) == (["x"] if expected else [])


LEVEL = st.sampled_from(["", "a", "b", "$c"])
NAMES = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(LEVEL | st.just("+"), max_size=4), st.booleans())
    .map(lambda parts: "/".join(parts[0] + ["#"] * parts[1]))
    .filter(bool)
)


@given(st.lists(st.tuples(FILTERS, st.integers(0, 3)), max_size=12), st.data())
@settings(max_examples=200, deadline=None)
def test_the_tree_is_the_list(entries: list[tuple[str, int]], data: st.DataObject) -> None:
    """Against the plain function, through inserts and removes; and it is empty again at the end."""
    tree: SubscriptionTree[int] = SubscriptionTree()
    here: set[tuple[str, int]] = set()
    for entry in entries:
        assert tree.insert(*entry) is (entry not in here)
        here.add(entry)
        if data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(here)))
            assert tree.remove(*gone)
            assert not tree.remove(*gone)
            here.discard(gone)
        name = data.draw(NAMES)
        assert sorted(tree.match(name)) == sorted(value for topic_filter, value in here if match(topic_filter, name))
        assert len(tree) == len(here)
    for entry in here:
        tree.remove(*entry)
    assert len(tree) == 0
    assert tree._root.children == {}


def test_a_malformed_filter_is_not_inserted() -> None:
    with pytest.raises(ValueError, match="#"):
        SubscriptionTree[int]().insert("a/#/b", 1)


def test_a_very_deep_name_is_matched_without_recursion() -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    tree.insert("a/#", 1)
    tree.insert("/".join("+" * LEVELS_MAX), 2)
    assert tree.match("a" + "/b" * 30_000) == [1]
    assert tree.match("/".join("x" * LEVELS_MAX)) == [2]

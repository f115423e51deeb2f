"""Topic names, topic filters and who subscribed to what (MQTT 5, section 4.7).

Knows nothing of tenants or permissions: those are the gateway's.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

TOPIC_BYTES_MAX = 65_535  # [MQTT-4.7.3-3]
LEVELS_MAX = 128
"""No device contract needs ten; a filter of 65,535 slashes would cost a tree node for each."""


class Share(NamedTuple):
    name: str
    topic_filter: str


def topic_name_problem(topic: str) -> str | None:
    """Why `topic` cannot be published to, or None."""
    if "+" in topic or "#" in topic:
        return "a topic name contains a wildcard"  # [MQTT-3.3.2-2], [MQTT-4.7.0-1]
    return _problem(topic)


def topic_filter_problem(topic_filter: str) -> str | None:
    """Why `topic_filter` cannot be subscribed to, or None. A shared subscription is judged with its prefix."""
    problem = _problem(topic_filter)
    if problem:
        return problem
    if topic_filter.count("/") >= LEVELS_MAX:
        return f"a topic filter has more than {LEVELS_MAX} levels"
    levels = topic_filter.split("/")
    if any("#" in level for level in levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#"):
        return "# is not the whole of the last level"  # [MQTT-4.7.1-1]
    if any("+" in level and level != "+" for level in levels):
        return "+ is not the whole of its level"  # [MQTT-4.7.1-2]
    if levels[0] == "$share":
        return _share_problem(levels)
    return None


def _problem(text: str) -> str | None:
    if not text:
        return "a topic is empty"  # [MQTT-4.7.3-1]
    if "\0" in text:
        return "a topic contains U+0000"  # [MQTT-4.7.3-2]
    if len(text) > TOPIC_BYTES_MAX // 4 and len(text.encode("utf-8", "surrogatepass")) > TOPIC_BYTES_MAX:
        return "a topic has more than 65,535 bytes"  # [MQTT-4.7.3-3]
    return None


def _share_problem(levels: list[str]) -> str | None:
    if len(levels) < 3 or not levels[1]:
        return "a shared subscription has no share name"  # [MQTT-4.8.2-1]
    if "+" in levels[1] or "#" in levels[1]:
        return "a share name contains a wildcard"  # [MQTT-4.8.2-2]
    if levels[2:] == [""]:
        return "a shared subscription has no topic filter"  # [MQTT-4.8.2-2]
    return None


def parse_share(topic_filter: str) -> Share | None:
    """The two halves of a valid `$share/<name>/<filter>`; None for an ordinary filter."""
    if not topic_filter.startswith("$share/"):
        return None
    _, name, inner = topic_filter.split("/", 2)
    return Share(name, inner)


def match(topic_filter: str, topic: str) -> bool:
    """Both valid. A leading wildcard does not match a name that begins with $. [MQTT-4.7.2-1]"""
    if topic[0] == "$" and topic_filter[0] in "+#":
        return False
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    for at, level in enumerate(wanted):
        if level == "#":
            return True  # also the parent level itself: "a/#" matches "a"  (section 4.7.1.2)
        if at == len(levels) or (level not in ("+", levels[at])):
            return False
    return len(wanted) == len(levels)


V = TypeVar("V", bound=Hashable)


class _Node(Generic[V]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[V]] = {}
        self.values: dict[V, V] = {}


class SubscriptionTree(Generic[V]):
    """Topic filters with the values that were put there (a connection, a subscription), found by topic name.

    A value stands once under a filter: inserting an equal one replaces it [MQTT-3.8.4-3]. Empty branches are cut, so the
    tree is as large as what is subscribed now. Nothing recurses, and no filter is deeper than LEVELS_MAX.
    """

    __slots__ = ("_root", "_size")

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def insert(self, topic_filter: str, value: V) -> bool:
        """Raises ValueError when the filter is malformed. False = an equal value was there and has been replaced."""
        problem = topic_filter_problem(topic_filter)
        if problem:
            raise ValueError(problem)
        node = self._root
        for level in topic_filter.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        is_new = node.values.pop(value, None) is None
        node.values[value] = value
        self._size += is_new
        return is_new

    def remove(self, topic_filter: str, value: V) -> bool:
        """False = it was not there."""
        node = self._root
        path: list[tuple[_Node[V], str]] = []
        for level in topic_filter.split("/"):
            path.append((node, level))
            child = node.children.get(level)
            if child is None:
                return False
            node = child
        if node.values.pop(value, None) is None:
            return False
        self._size -= 1
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.values or child.children:
                break
            del parent.children[level]
        return True

    def match(self, topic: str) -> list[V]:
        """Every value under every filter that matches; one that stands under several of them comes as often."""
        found: list[V] = []
        nodes = [self._root]
        levels = topic.split("/", LEVELS_MAX)
        hidden = topic.startswith("$")
        for at, level in enumerate(levels):
            following: list[_Node[V]] = []
            for node in nodes:
                children = node.children
                if not (hidden and at == 0):  # [MQTT-4.7.2-1]
                    if (any_below := children.get("#")) is not None:
                        found.extend(any_below.values.values())
                    if (any_here := children.get("+")) is not None:
                        following.append(any_here)
                if (same := children.get(level)) is not None:
                    following.append(same)
            if not following:
                return found
            nodes = following
        for node in nodes:
            found.extend(node.values.values())
            if (any_below := node.children.get("#")) is not None:  # "a/#" matches "a" (section 4.7.1.2)
                found.extend(any_below.values.values())
        return found

"""The filter language: what it means, what it refuses, and that nothing gets past its own error."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.device.errors import FilterInvalid, PositionInvalid
from headwater.device.filter import DEPTH_MAX, TERMS_MAX, And, Comparison, Not, Or, parse_filter
from headwater.device.filter_sql import Parameters, compile_filter
from headwater.device.sort import Order, parse_sort


def compiled(text: str) -> tuple[str, list[object]]:
    parameters = Parameters()
    return compile_filter(parse_filter(text), parameters), parameters.values


def test_and_binds_tighter_than_or() -> None:
    node = parse_filter("name = a or name = b and name = c")
    assert isinstance(node, Or)
    assert isinstance(node.operands[0], Comparison)
    assert isinstance(node.operands[1], And)


def test_parentheses_and_not() -> None:
    node = parse_filter("not (name = a or name = b)")
    assert isinstance(node, Not)
    assert isinstance(node.operand, Or)


def test_unequal_is_not_equal() -> None:
    assert parse_filter("name != a") == Not(Comparison(*_parts("name = a")))


def _parts(text: str) -> tuple[object, ...]:
    node = parse_filter(text)
    assert isinstance(node, Comparison)
    values = tuple(type(v)(v.value, v.position + 1) for v in node.values)
    return node.field, node.operator, values


@pytest.mark.parametrize(
    ("text", "sql", "values"),
    [
        ('labels.site = "north"', "d.labels @> $1::jsonb", [{"site": "north"}]),
        ("labels.site = north", "d.labels @> $1::jsonb", [{"site": "north"}]),
        ("attributes.floor = 3", "d.attributes @> $1::jsonb", [{"floor": 3}]),
        ("attributes.a.b = true", "d.attributes @> $1::jsonb", [{"a": {"b": True}}]),
        ('attributes."a.b" = null', "d.attributes @> $1::jsonb", [{"a.b": None}]),
        ("reported.fw = x", "(s.reported @> $1::jsonb) IS TRUE", [{"fw": {"value": "x"}}]),
        ("status in (active, suspended)", "d.status = ANY($1::text[])", [["active", "suspended"]]),
        ("connected = true", "COALESCE(s.connected, false) = $1::boolean", [True]),
        ('name like "a%_*?\\\\"', "d.name ILIKE $1", ["a\\%\\_%_\\\\"]),
        ("last_seen_at exists", None, []),
        ("labels.a in (b, c)", "d.labels @> $1::jsonb OR d.labels @> $2::jsonb", [{"a": "b"}, {"a": "c"}]),
    ],
)
def test_sql(text: str, sql: str | None, values: list[object]) -> None:
    got, parameters = compiled(text)
    assert parameters == values
    assert sql is None or got == sql


@pytest.mark.parametrize(
    ("text", "position", "word"),
    [
        ("", 0, "a field"),
        ("name", 4, "comparison"),
        ("name = ", 6, "value"),
        ("nam = a", 0, "no field"),
        ("name = a name = b", 9, "“and”"),
        ("name = 3", 7, "quotes"),
        ("labels.floor = 3", 15, "quotes"),
        ("labels = 3", 0, "labels.<name>"),
        ("labels.a.b = x", 0, "quotes"),
        ('name = "abc', 7, "closing quote"),
        ('name = "\\ud800"', 7, "escapes"),
        ('name = "\\u0000"', 7, "NUL"),
        ("name = a; drop table device", 8, "unexpected character"),
        ("status = broken", 9, "one of"),
        ("connected > true", 0, "no order"),
        ("version = x", 10, "whole number"),
        ("created_at > yesterday", 13, "a time"),
        ("id = 5", 5, "quotes"),
        ("attributes.a > true", 15, "no order"),
        ("attributes.a = 1e999", 15, "too large"),
        ('name like "*****a*"', 10, "wildcards"),
        ("name = and", 7, "quotes"),
        ("(" * (DEPTH_MAX + 1) + "name = a", DEPTH_MAX, "deep"),
        (" and ".join(["name = a"] * (TERMS_MAX + 1)), 13 * TERMS_MAX, "comparisons"),
        ("name in (" + ",".join("a" * 201) + ")", 9 + 400, "values"),
        ("name = " + "a" * 4000, 4000, "characters"),
    ],
)
def test_refused_with_the_place(text: str, position: int, word: str) -> None:
    with pytest.raises(FilterInvalid) as caught:
        compiled(text)
    assert caught.value.position == position
    assert word in caught.value.detail


_WORDS = st.sampled_from(
    [
        *("and", "or", "not", "in", "like", "exists", "(", ")", ",", "=", "!=", "<", "<=", ">", ">=", ".", "name", "labels"),
        *("attributes", "reported", "status", "connected", "true", "false", "null", '"x"', '"\\""', "3", "-4.5e2", "active"),
        *("created_at", '"2026-01-01"', "labels.site", "attributes.a.b", "reported.x", "id", "'", "--", ";", "$1", "\\"),
    ]
)


@given(st.one_of(st.text(max_size=200), st.lists(_WORDS, max_size=30).map(" ".join)))
@example('attributes.a > 1e308 and attributes."\U0001f600" like "*"')
def test_any_text_gives_sql_or_the_own_error(text: str) -> None:
    try:
        sql, values = compiled(text)
    except FilterInvalid as error:
        assert 0 <= error.position <= len(text)  # noqa: PT017  # most texts raise, some do not
        return
    assert sql.count("$") >= len(values)


@given(st.text(min_size=1, max_size=50))
def test_no_text_of_the_caller_is_in_the_statement(text: str) -> None:
    marker = "zq" + text.replace('"', "").replace("\\", "").replace("\0", "") + "qz"
    try:
        sql, _ = compiled(
            f'labels."{marker}" = "{marker}" or attributes."{marker}" > "{marker}" or name like "{marker[:3]}"'
        )
    except FilterInvalid:
        return
    assert "zq" not in sql


@pytest.mark.parametrize("text", ["", "-", "nope", "name asc", "labels", "name; drop", "--name", "attributes."])
def test_sort_refused(text: str) -> None:
    with pytest.raises(FilterInvalid):
        parse_sort(text)


@pytest.mark.parametrize(
    "position", [[], ["a"], [1, "x"], [5, "01999999-0000-7000-8000-000000000000"], [None, None], ["a", "b", "c"]]
)
def test_cursor_refused(position: list[object]) -> None:
    with pytest.raises(PositionInvalid):
        Order(parse_sort("name"), Parameters()).after(position)

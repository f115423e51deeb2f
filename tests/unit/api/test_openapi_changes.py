"""What breaks a client, and what does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from headwater.api.openapi_changes import breaking_changes

THING = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "size": {"type": "integer", "minimum": 1},
        "inner": {"$ref": "#/components/schemas/Thing"},
    },
}
OLD: dict[str, Any] = {
    "paths": {
        "/things": {
            "post": {
                "operationId": "createThing",
                "x-access": "permission",
                "x-permission": "thing:write",
                "x-group-scoped": True,
                "parameters": [
                    {"in": "query", "name": "dry", "required": False, "schema": {"type": "boolean"}},
                    {"in": "query", "name": "sort", "required": False, "schema": {"type": "string", "enum": ["x", "y"]}},
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}},
                },
                "responses": {
                    "201": {
                        "headers": {"ETag": {}},
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}},
                    },
                    "409": {"content": {}},
                },
            }
        },
        "/other": {"get": {"operationId": "getOther", "x-access": "public", "responses": {"204": {}}}},
    },
    "components": {"schemas": {"Thing": THING}},
}

Change = Callable[[dict[str, Any]], Any]


def operation(document: dict[str, Any]) -> dict[str, Any]:
    return document["paths"]["/things"]["post"]


def thing(document: dict[str, Any]) -> dict[str, Any]:
    return document["components"]["schemas"]["Thing"]


BREAKING: list[tuple[str, Change, str]] = [
    ("path", lambda d: d["paths"].pop("/other"), "GET /other: removed"),
    ("operation", lambda d: d["paths"]["/things"].pop("post"), "POST /things: removed"),
    ("operation id", lambda d: operation(d).update(operationId="x"), "operationId was createThing, is x"),
    ("permission", lambda d: operation(d).update({"x-permission": "thing:delete"}), "x-permission was thing:write"),
    ("less public", lambda d: d["paths"]["/other"]["get"].update({"x-access": "person"}), "x-access was public, is person"),
    ("group", lambda d: operation(d).update({"x-group-scoped": False}), "limited to a group"),
    ("parameter removed", lambda d: operation(d)["parameters"].pop(0), "query parameter dry removed"),
    ("parameter required", lambda d: operation(d)["parameters"][0].update(required=True), "dry is required now"),
    ("parameter enum", lambda d: operation(d)["parameters"][1]["schema"]["enum"].remove("y"), "sort: y taken no more"),
    ("media type", lambda d: operation(d)["requestBody"].update(content={}), "application/json is taken no more"),
    ("required member", lambda d: thing(d)["required"].append("size"), "body.size is required now"),
    ("member removed", lambda d: thing(d)["properties"].pop("size"), "answer.size removed"),
    ("member refused", lambda d: thing(d)["properties"].pop("size"), "body.size taken no more"),
    ("enum", lambda d: thing(d)["properties"]["kind"]["enum"].remove("b"), "body.kind: b taken no more"),
    ("minimum", lambda d: thing(d)["properties"]["size"].update(minimum=2), "size: minimum was 1, is 2"),
    ("maxLength", lambda d: thing(d)["properties"]["name"].update(maxLength=10), "name: maxLength was 20, is 10"),
    ("pattern", lambda d: thing(d)["properties"]["name"].update(pattern="^a"), "name: pattern was none"),
    ("type", lambda d: thing(d)["properties"]["size"].update(type="string"), "body.size: integer taken no more"),
    ("answer may be null", lambda d: thing(d)["properties"]["size"].update(type=["integer", "null"]),
     "answer.size: may be null"),
    ("may be absent", lambda d: thing(d)["required"].remove("name"), "answer.name may be absent now"),
    ("status", lambda d: operation(d)["responses"].pop("201"), "201: answered no more"),
    ("header", lambda d: operation(d)["responses"]["201"]["headers"].clear(), "header ETag removed"),
    ("body required", lambda d: d["paths"]["/other"]["get"].update(requestBody={"required": True, "content": {}}),
     "a body is required now"),
]  # fmt: skip

HARMLESS: list[tuple[str, Change]] = [
    ("nothing", lambda d: None),
    ("new path", lambda d: d["paths"].update({"/new": {"get": {"operationId": "n", "responses": {}}}})),
    ("new optional parameter", lambda d: operation(d)["parameters"].append(
        {"in": "query", "name": "z", "required": False, "schema": {}})),
    ("new optional member", lambda d: thing(d)["properties"].update(new={"type": "string"})),
    ("wider", lambda d: thing(d)["properties"]["name"].update(maxLength=30)),
    ("error gone", lambda d: operation(d)["responses"].pop("409")),
    ("made public", lambda d: (operation(d).update({"x-access": "public"}), operation(d).pop("x-permission"))),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), [pytest.param(c, e, id=i) for i, c, e in BREAKING])
def test_breaks(change: Change, expected: str) -> None:
    new = copy.deepcopy(OLD)
    change(new)
    found = breaking_changes(OLD, new)
    assert any(expected in one for one in found), found


@pytest.mark.parametrize("change", [pytest.param(c, id=i) for i, c in HARMLESS])
def test_does_not_break(change: Change) -> None:
    new = copy.deepcopy(OLD)
    change(new)
    assert breaking_changes(OLD, new) == []


def test_a_wider_enum_of_an_answer_is_told_where_it_was_closed() -> None:
    new = copy.deepcopy(OLD)
    del thing(new)["properties"]["kind"]["enum"]
    assert any("no longer one of" in one for one in breaking_changes(OLD, new))

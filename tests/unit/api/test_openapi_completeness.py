"""What a reader of the description finds at every parameter and every member: what it means, what it may be, how much."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

Schema = dict[str, Any]

DOCUMENT: Schema = json.loads((Path(__file__).parents[3] / "openapi" / "v1.json").read_bytes())
SCHEMAS: dict[str, Schema] = DOCUMENT["components"]["schemas"]
OPERATIONS: list[Schema] = [operation for item in DOCUMENT["paths"].values() for operation in item.values()]

WHATEVER_WAS_MEASURED = {"value", "first", "last", "min", "max"}
"""Members of answers that hold a value as the device sent it: a number, a text, a boolean, a location, any JSON."""
ANY_NUMBER = {"Metric.min", "Metric.max"}
"""The bounds of a metric are bounded by nothing but the float."""
_NAMED = re.compile(r"(?:^|[.;] |\n {4})((?:[a-z_]+, )*[a-z_]+)(?::| {2,})")
"""`member: ...` and `one, other  ...` in the description of an object"""


def parameters() -> Iterator[tuple[str, Schema]]:
    for operation in OPERATIONS:
        for parameter in operation["parameters"]:
            yield f"{operation['operationId']} {parameter['in']} {parameter['name']}", parameter


def members(names: set[str]) -> Iterator[tuple[str, Schema]]:
    for name in sorted(names):
        for member, schema in SCHEMAS[name].get("properties", {}).items():
            yield f"{name}.{member}", schema


def leaves(schema: Schema, where: str) -> Iterator[tuple[str, Schema]]:
    """Each thing that may stand there, items of lists and members of mappings too. A reference is looked at by itself."""
    if "$ref" in schema:
        return
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        for option in options:
            yield from leaves(option, where)
        return
    yield where, schema
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from leaves(inner, f"{where}[]")


def reached(value: Any, found: set[str]) -> set[str]:
    """Names of the schemas that it leads to, directly or through others; added to `found`."""
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/components/"):
            kind, name = reference.split("/")[2:]
            if kind == "responses":
                reached(DOCUMENT["components"]["responses"][name], found)
            elif kind == "schemas" and name not in found:
                found.add(name)
                reached(SCHEMAS[name], found)
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            reached(inner, found)
    return found


SENT = reached([operation.get("requestBody") for operation in OPERATIONS], set())
TOLD = reached([operation["responses"] for operation in OPERATIONS], set())


def is_bounded(schema: Schema) -> bool:
    match schema.get("type"):
        case "string":
            return bool({"maxLength", "pattern", "enum", "const", "format"} & schema.keys())
        case "array":
            return "maxItems" in schema
        case "object":
            return "maxProperties" in schema or schema.get("additionalProperties") is False
        case "integer" | "number":
            return bool({"minimum", "exclusiveMinimum"} & schema.keys() and {"maximum", "exclusiveMaximum"} & schema.keys())
        case _:
            return True


def test_every_schema_is_met() -> None:
    asked = reached([parameter for _, parameter in parameters()], set())
    assert SCHEMAS.keys() == SENT | TOLD | asked


def test_every_parameter_says_what_it_does() -> None:
    silent = [where for where, parameter in parameters() if not parameter.get("description", "").endswith(".")]
    assert silent == []


def test_every_parameter_is_bounded() -> None:
    found = [leaf for where, parameter in parameters() for leaf in leaves(parameter["schema"], where)]
    assert [where for where, schema in found if not is_bounded(schema)] == []


def test_whatever_is_sent_is_bounded() -> None:
    found = [leaf for where, schema in members(SENT) for leaf in leaves(schema, where)]
    assert {where for where, schema in found if not is_bounded(schema)} == ANY_NUMBER


def test_an_unknown_member_is_refused() -> None:
    objects = {name: SCHEMAS[name] for name in SENT if "properties" in SCHEMAS[name]}
    assert [name for name, schema in objects.items() if schema.get("additionalProperties") is not False] == []


def test_every_member_has_a_type() -> None:
    found = [leaf for where, schema in members(SENT | TOLD) for leaf in leaves(schema, where)]
    untyped = {where for where, schema in found if not {"type", "enum", "const"} & schema.keys()}
    assert {where.split(".")[1] for where in untyped} == WHATEVER_WAS_MEASURED


@pytest.mark.parametrize("text", ["parameter", "member"])
def test_every_time_says_that_it_is_one(text: str) -> None:
    named = [(w, p["schema"]) for w, p in parameters()] if text == "parameter" else list(members(SENT | TOLD))
    times = [(w, s) for w, s in named if re.search(r"(?:_at|[. ]at|[. ]from|[. ]to|[. ]since|[. ]until)$", w)]
    assert times
    wrong = [
        where
        for where, schema in times
        for _, leaf in leaves(schema, where)
        if leaf.get("type") == "string" and leaf.get("format") != "date-time"
    ]
    assert wrong == []


def test_descriptions_name_members_that_exist() -> None:
    wrong = {}
    for name, schema in SCHEMAS.items():
        if "properties" in schema:
            said = {one for group in _NAMED.findall(schema.get("description", "")) for one in group.split(", ")}
            if unknown := said - schema["properties"].keys():
                wrong[name] = sorted(unknown)
    assert wrong == {}

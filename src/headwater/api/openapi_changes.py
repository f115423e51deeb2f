"""Which changes of the API's description break a client that was written for the old one.

A client breaks where something that it may send is refused now, or something that it may rely on in an answer is gone. So
requests may only become wider and answers only richer. What may grow is judged once for each place that uses it: a type
may stand in requests and in answers.

Known to be left alone: texts, examples, names of types, and the set of error codes, which may grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
"""Of a request, these must not rise."""
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
"""Of a request, these must not fall."""
_METHODS = ("get", "put", "post", "delete", "patch")


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """A sentence for each; empty = none."""
    return list(dict.fromkeys(_Comparison(old, new).all()))


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new

    def all(self) -> Iterator[str]:
        for path, item in self._old["paths"].items():
            for method in _METHODS:
                if method in item:
                    now = self._new["paths"].get(path, {}).get(method)
                    where = f"{method.upper()} {path}"
                    if now is None:
                        yield f"{where}: removed"
                    else:
                        yield from self._operation(where, item[method], now)

    def _operation(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        if old.get("operationId") != new.get("operationId"):
            yield f"{where}: operationId was {old.get('operationId')}, is {new.get('operationId')}"
        yield from self._access(where, old, new)
        yield from self._parameters(where, old, new)
        yield from self._request(where, old.get("requestBody"), new.get("requestBody"))
        for status, response in old.get("responses", {}).items():
            if status.startswith("2"):
                yield from self._response(f"{where} {status}", response, new.get("responses", {}).get(status))

    def _access(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        for member in ("x-access", "x-permission"):
            if member in old and old[member] != new.get(member) and new.get("x-access") != "public":
                yield f"{where}: {member} was {old[member]}, is {new.get(member)}"
        if old.get("x-group-scoped") and not new.get("x-group-scoped"):
            yield f"{where}: tokens limited to a group get in no more"

    def _parameters(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        before = {(p["in"], p["name"]): p for p in old.get("parameters", [])}
        now = {(p["in"], p["name"]): p for p in new.get("parameters", [])}
        for key, parameter in now.items():
            name = f"{where}: {key[0]} parameter {key[1]}"
            if key in before:
                yield from self._narrower(name, before[key]["schema"], parameter["schema"])
            if parameter.get("required") and not before.get(key, {}).get("required"):
                yield f"{name} is required now"
        for key in before.keys() - now.keys():
            yield f"{where}: {key[0]} parameter {key[1]} removed"

    def _request(self, where: str, old: Schema | None, new: Schema | None) -> Iterator[str]:
        if new is None:
            return
        if old is None:
            if new.get("required"):
                yield f"{where}: a body is required now"
            return
        for media_type, content in old["content"].items():
            now = new["content"].get(media_type)
            if now is None:
                yield f"{where}: a body of {media_type} is taken no more"
            else:
                yield from self._narrower(f"{where}: body", content["schema"], now["schema"])

    def _response(self, where: str, old: Schema, new: Schema | None) -> Iterator[str]:
        if new is None:
            yield f"{where}: answered no more"
            return
        for name in old.get("headers", {}).keys() - new.get("headers", {}).keys():
            yield f"{where}: header {name} removed"
        for media_type, content in old.get("content", {}).items():
            now = new.get("content", {}).get(media_type)
            if now is None:
                yield f"{where}: {media_type} answered no more"
            else:
                yield from self._poorer(f"{where}: answer", content["schema"], now["schema"])

    # --- schemas -----------------------------------------------------------------------------------------------------

    def _narrower(self, where: str, old: Schema, new: Schema, seen: frozenset[str] = frozenset()) -> Iterator[str]:
        """What a client may send: nothing that was good may be refused."""
        old, new, seen, again = self._resolve(old, new, seen)
        if again:
            return
        gone = _types(old) - _types(new)
        if gone and _types(new):
            yield f"{where}: {', '.join(sorted(gone))} taken no more"
        yield from _narrower_enum(where, old, new)
        yield from _narrower_bounds(where, old, new)
        for name in sorted(set(new.get("required", [])) - set(old.get("required", []))):
            yield f"{where}.{name} is required now"
        properties = new.get("properties", {})
        for name, schema in old.get("properties", {}).items():
            if name in properties:
                yield from self._narrower(f"{where}.{name}", schema, properties[name], seen)
            elif new.get("additionalProperties", True) is False:
                yield f"{where}.{name} taken no more"
        if new.get("additionalProperties", True) is False and old.get("additionalProperties", True) is not False:
            yield f"{where}: unknown members taken no more"
        yield from self._inside(where, old, new, seen, self._narrower)

    def _poorer(self, where: str, old: Schema, new: Schema, seen: frozenset[str] = frozenset()) -> Iterator[str]:
        """What a client may rely on: every member that was there, of a type that it knows."""
        old, new, seen, again = self._resolve(old, new, seen)
        if again:
            return
        added = _types(new) - _types(old)
        if added and _types(old):
            yield f"{where}: may be {', '.join(sorted(added))} now"
        if "enum" in old and "enum" not in new:
            yield f"{where}: no longer one of {old['enum']}"
        properties = new.get("properties", {})
        for name, schema in old.get("properties", {}).items():
            if name not in properties:
                yield f"{where}.{name} removed"
            else:
                if name in old.get("required", []) and name not in new.get("required", []):
                    yield f"{where}.{name} may be absent now"
                yield from self._poorer(f"{where}.{name}", schema, properties[name], seen)
        yield from self._inside(where, old, new, seen, self._poorer)

    def _inside(self, where: str, old: Schema, new: Schema, seen: frozenset[str], compare: Any) -> Iterator[str]:
        for member, suffix in (("items", "[]"), ("additionalProperties", ".*")):
            if isinstance(old.get(member), dict) and isinstance(new.get(member), dict):
                yield from compare(where + suffix, old[member], new[member], seen)
        before, now = _alternatives(old), _alternatives(new)
        # Alternatives have no names: they are compared where each has its place.
        if before and len(before) == len(now):
            for index, (one, other) in enumerate(zip(before, now, strict=True)):
                yield from compare(f"{where}|{index}", one, other, seen)
        elif len(now) < len(before) and compare == self._narrower:
            yield f"{where}: fewer alternatives"

    def _resolve(self, old: Schema, new: Schema, seen: frozenset[str]) -> tuple[Schema, Schema, frozenset[str], bool]:
        """Behind the references; again: this pair is being compared already (a type that holds itself)."""
        pair = f"{old.get('$ref')} {new.get('$ref')}"
        if "$ref" in old and "$ref" in new:
            if pair in seen:
                return old, new, seen, True
            seen |= {pair}
        return _behind(self._old, old), _behind(self._new, new), seen, False


def _behind(document: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema


def _types(schema: Schema) -> set[str]:
    """Empty = not said, or any."""
    said = schema.get("type")
    types = {said} if isinstance(said, str) else set(said or [])
    # Every integer is a number.
    return types | {"integer"} if "number" in types else types


def _alternatives(schema: Schema) -> list[Schema]:
    found: list[Schema] = schema.get("anyOf") or schema.get("oneOf") or []
    return found


def _narrower_enum(where: str, old: Schema, new: Schema) -> Iterator[str]:
    if "enum" in new:
        if "enum" not in old and "const" not in old:
            yield f"{where}: only {new['enum']} taken now"
        else:
            gone = [value for value in old.get("enum", [old.get("const")]) if value not in new["enum"]]
            if gone:
                yield f"{where}: {', '.join(map(str, gone))} taken no more"


def _narrower_bounds(where: str, old: Schema, new: Schema) -> Iterator[str]:
    for member in _LOWER:
        if member in new and new[member] > old.get(member, float("-inf")):
            yield f"{where}: {member} was {old.get(member, 'none')}, is {new[member]}"
    for member in _UPPER:
        if member in new and new[member] < old.get(member, float("inf")):
            yield f"{where}: {member} was {old.get(member, 'none')}, is {new[member]}"
    for member in ("pattern", "format"):
        if member in new and new[member] != old.get(member):
            yield f"{where}: {member} was {old.get(member, 'none')}, is {new[member]}"

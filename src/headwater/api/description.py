"""The API's own description: OpenAPI 3.1, made from the handlers, completed with what their options promise.

Litestar tells the parameters; msgspec the schemas of bodies and answers (it knows which members are forbidden); the
options of a route tell the rest: who may, which problems, versions, idempotency. Deterministic: the same code gives the
same bytes, so a difference to the committed `openapi/v1.json` is a difference of the API.

    x-access        permission, member, person, anyone, operator or public
    x-permission    the permission, where x-access is that
    x-group-scoped  whether a token that is limited to a device group gets in
    x-condition     the header of RFC 9110 that makes the request a conditional one
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast, get_args, get_origin

import msgspec
from litestar import Litestar, Response
from litestar._openapi.plugin import OpenAPIPlugin
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.response import Stream

from headwater import __version__
from headwater.api import problems
from headwater.api.auth import ACCESS
from headwater.api.errors import (
    BodyTooLarge,
    CursorInvalid,
    IdempotencyGone,
    IdempotencyInProgress,
    IdempotencyKeyInvalid,
    IdempotencyMismatch,
    MediaTypeUnsupported,
    PathUnknown,
    RateLimited,
    Unexpected,
)
from headwater.api.handlers import handlers_of
from headwater.api.pagination import CURSOR_LENGTH_MAX
from headwater.device.device import ATTRIBUTES_DEPTH_MAX
from headwater.device.filter import TEXT_CHARACTERS_MAX
from headwater.device.filter_pattern import FILTER_PATTERN, SORT_PATTERN
from headwater.errors import DomainError, Forbidden, Invalid, Unauthenticated, Unavailable, VersionConflict
from headwater.store.query_interval import ZONE
from headwater.tenancy.errors import (
    GroupScoped,
    NotAMember,
    PersonSuspended,
    TenantSuspended,
    TokenExpired,
    TokenRevoked,
)
from headwater.tenancy.text import NO_NUL

REF = "#/components/schemas/{name}"

_SHARED: dict[str, dict[str, Any]] = {
    "Cursor": {
        "type": "string", "maxLength": CURSOR_LENGTH_MAX, "pattern": "^[A-Za-z0-9_-]*$",
        "description": "Opaque, from an answer of the same list, filter and order.",
    },
    "DeviceFilter": {
        "type": "string", "maxLength": TEXT_CHARACTERS_MAX, "pattern": FILTER_PATTERN,
        "description": "Empty, or an expression over a device's fields. The pattern holds what a regular expression can "
        "say: the server also takes deeper parentheses, bare words as texts and more white space.",
        "examples": ['labels.site = "north" and attributes.floor >= 3 and status in (active, suspended)'],
    },
    "DeviceSort": {
        "type": "string", "pattern": SORT_PATTERN, "description": "A field of the filter, `-` before it = descending.",
        "examples": ["-last_seen_at"],
    },
    "JSONValue": {
        "description": "Any JSON without the character U+0000, which PostgreSQL does not keep; "
        f"at most {ATTRIBUTES_DEPTH_MAX} levels deep.",
        "anyOf": [
            {"type": ["null", "boolean", "number"]},
            {"type": "string", "pattern": NO_NUL},
            {"type": "array", "items": {"$ref": REF.format(name="JSONValue")}},
            {
                "type": "object",
                "propertyNames": {"pattern": NO_NUL},
                "additionalProperties": {"$ref": REF.format(name="JSONValue")},
            },
        ],
    },
    "TimeZone": {
        "type": "string", "pattern": f"^{ZONE}$", "description": "An IANA name.",
        "examples": ["Europe/Berlin"],
    },
}  # fmt: skip
_TEXTS = {
    "headwater-cursor": "Cursor", "headwater-filter": "DeviceFilter", "headwater-json": "JSONValue",
    "headwater-sort": "DeviceSort", "headwater-time-zone": "TimeZone",
}  # fmt: skip
"""`format` in the schema of a member or parameter -> its component"""
_EVENT_STREAM = {
    "ServerSentEvent": {
        "title": "ServerSentEvent",
        "description": "Of each event of the stream. data: JSON, docs/reference/live.md says which.",
        "type": "object",
        "required": ["data"],
        "properties": {
            "data": {"type": "string"},
            "id": {"type": "string"},
            "event": {"type": "string"},
            "retry": {"type": "integer"},
        },
    },
}
_JSON = "application/json"

_BY_CREDENTIAL = (Unauthenticated, TokenExpired, TokenRevoked, PersonSuspended, TenantSuspended, Forbidden, RateLimited)

DESCRIPTION = """
The control API of a Headwater installation.

Credentials are bearer tokens: the access token of a session (`POST /api/v1/auth/login`), an API token (`hwt_...`) or, for
the operator's plane, an operator token (`hwo_...`). Every answer that is not a success is `application/problem+json`
(RFC 9457) with a stable `code`. Lists are pages with a cursor. Times are UTC.

What can change has a version, told as `ETag`. Whoever read it sends that as `If-Match`, and the change is made only where
nobody else was faster (412); `If-None-Match` saves the body of a GET (304). Operations that take one have `x-condition`.
""".strip()


def describe(app: Litestar) -> dict[str, Any]:
    """The OpenAPI document, as JSON values."""
    handlers = {str(h.operation_id): h for h, _ in handlers_of(app) if isinstance(h, HTTPRouteHandler) and h.operation_id}
    raw = _litestars(app)
    types = _Types(raw.get("components", {}).get("schemas", {}), handlers.values())
    paths: dict[str, Any] = {}
    for path, item in sorted(raw["paths"].items()):
        for method, operation in sorted(item.items()):
            handler = handlers[operation["operationId"]]
            paths.setdefault(path, {})[method] = _operation(method, operation, handler, types)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headwater",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": noun.tag, "description": noun.description} for noun in app.state.nouns],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An access token or an API token."},
                "operator": {"type": "http", "scheme": "bearer", "description": "An operator's access or operator token."},
            },
            "schemas": dict(sorted({**types.components, **_PROBLEM, **_SHARED, **_EVENT_STREAM}.items())),
            "responses": dict(sorted(types.responses.items())),
            "parameters": _CONDITIONS,
            "examples": {e.code: _example(e) for e in sorted(types.errors, key=lambda e: e.code)},
        },
    }


def document(app: Litestar) -> bytes:
    return msgspec.json.format(msgspec.json.encode(describe(app), order="deterministic"), indent=1) + b"\n"


def _litestars(app: Litestar) -> dict[str, Any]:
    plugin = app.plugins.get(OpenAPIPlugin)
    # Set here and not given to the app, which would then also serve pages that load scripts from a CDN.
    plugin._openapi_config = OpenAPIConfig(title="Headwater", version=__version__, use_handler_docstrings=True)
    return cast(dict[str, Any], msgspec.to_builtins(plugin.provide_openapi_schema()))


# --- schemas -----------------------------------------------------------------------------------------------------------


class _Types:
    """The components: the schemas of all bodies and answers, made together so that each type has one name."""

    def __init__(self, litestars: Mapping[str, Any], handlers: Iterable[HTTPRouteHandler]) -> None:
        self._litestars = litestars
        self.errors: set[type[DomainError]] = set()
        """those that some operation gives, as examples"""
        self.responses: dict[str, Any] = {}
        wanted: list[Any] = []
        for handler in handlers:
            wanted.extend(t for t in (_body(handler), _answer(handler), *_answers(handler).values()) if t is not None)
        unique = list(dict.fromkeys(wanted))
        schemas, components = msgspec.json.schema_components(unique, ref_template=REF)
        for name, member in _times(unique):
            _mark_time(components[name]["properties"][member])
        self.components: dict[str, Any] = _tidy(components)
        self._schemas = dict(zip(unique, (_tidy(schema) for schema in schemas), strict=True))

    def schema(self, wanted: Any) -> dict[str, Any]:
        return cast(dict[str, Any], self._schemas[wanted])

    def parameter(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Litestar's schema of a parameter: without null, which no parameter can say, and without references."""
        schema = {k: v for k, v in schema.items() if k != "description" and not (k == "default" and v is None)}
        if "$ref" in schema:
            schema = {**self._litestars[schema.pop("$ref").rsplit("/", 1)[1]], **schema}
            schema.pop("title", None)
            schema.pop("description", None)
        if _is_shared(schema):
            return _shared(schema)
        for part in schema.pop("allOf", []):
            schema = {**self.parameter(part), **schema}
        options = [o for o in schema.pop("oneOf", []) if o.get("type") != "null"]
        if len(options) == 1:
            schema = {**self.parameter(options[0]), **schema}
        elif options:
            schema["oneOf"] = [self.parameter(o) for o in options]
        if isinstance(schema.get("items"), dict):
            schema["items"] = self.parameter(schema["items"])
        if isinstance(schema.get("type"), list):
            schema["type"] = next(t for t in schema["type"] if t != "null")
            schema["enum"] = [value for value in schema["enum"] if value is not None]
        return {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in schema.items()}


def _times(types: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """(component, member) of each time. msgspec says `date-time` only where a zone is demanded; all of ours have one."""
    waiting: list[Any] = list(msgspec.inspect.multi_type_info(types))
    seen: set[type] = set()
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType) and info.cls not in seen:
            seen.add(info.cls)
            for member in info.fields:
                parts = _parts(member.type)
                if any(isinstance(part, msgspec.inspect.DateTimeType) for part in parts):
                    yield info.cls.__name__, member.encode_name
                waiting.extend(parts)
        elif not isinstance(info, msgspec.inspect.StructType):
            waiting.extend(part for part in _parts(info) if part is not info)


def _parts(info: Any) -> list[Any]:
    """What a union, a list, a mapping or an annotated type is made of; otherwise itself."""
    if isinstance(info, msgspec.inspect.Metadata):
        return _parts(info.type)
    if isinstance(info, msgspec.inspect.UnionType):
        return [part for one in info.types for part in _parts(one)]
    if isinstance(info, msgspec.inspect.DictType):
        return _parts(info.value_type)
    if isinstance(info, msgspec.inspect.CollectionType):
        return _parts(info.item_type)
    return [info]


def _mark_time(schema: dict[str, Any]) -> None:
    for part in schema.get("anyOf", [schema]):
        if part.get("type") == "string":
            part.setdefault("format", "date-time")


def _tidy(schema: Any) -> Any:
    """msgspec's names of generics (`Page_APIToken_`), and its integers' bounds, as people write them."""
    if isinstance(schema, dict):
        if _is_shared(schema):
            return _shared(schema)
        return {_name(k): _tidy(v) for k, v in schema.items()}
    if isinstance(schema, list):
        return [_tidy(v) for v in schema]
    if isinstance(schema, str) and schema.startswith("#/components/schemas/"):
        return REF.format(name=_name(schema.rsplit("/", 1)[1]))
    return schema


def _is_shared(schema: dict[str, Any]) -> bool:
    return isinstance(schema.get("format"), str) and schema["format"] in _TEXTS  # not a member called format


def _shared(schema: dict[str, Any]) -> dict[str, Any]:
    """A text of a language of ours: what it must keep to is said once."""
    name = _TEXTS[schema["format"]]
    own = {k: v for k, v in schema.items() if k != "format" and _SHARED[name].get(k) != v}
    return {"$ref": REF.format(name=name), **own}


def _name(name: str) -> str:
    match = re.fullmatch(r"Page_(.*?)_", name)
    return f"{match[1].rsplit('.', 1)[-1]}Page" if match else name


def _body(handler: HTTPRouteHandler) -> Any:
    parameter = handler.parsed_fn_signature.parameters.get("data")
    return None if parameter is None else parameter.annotation


def _answer(handler: HTTPRouteHandler) -> Any:
    """None where the answer has no JSON."""
    annotation = handler.parsed_fn_signature.return_type.annotation
    if get_origin(annotation) is Response:
        annotation = get_args(annotation)[0]
    return None if annotation in {None, type(None), bytes, Stream} else annotation


def _answers(handler: HTTPRouteHandler) -> dict[int, Any]:
    return cast(dict[int, Any], handler.opt.get("answers", {}))


# --- operations --------------------------------------------------------------------------------------------------------


_SECURITY: dict[str, list[dict[str, list[str]]]] = {"public": [], "operator": [{"operator": []}]}


def _operation(method: str, raw: dict[str, Any], handler: HTTPRouteHandler, types: _Types) -> dict[str, Any]:
    text = " ".join(raw.get("description", "").split("\n\n", 1)[0].split())
    access = next(name for name in ACCESS if handler.opt.get(name))
    parameters = [_parameter(p, types) for p in raw.get("parameters", [])]
    if handler.opt.get("idempotent"):
        parameters.append(_IDEMPOTENCY_KEY)
    operation: dict[str, Any] = {
        "operationId": raw["operationId"],
        "tags": raw["tags"],
        "summary": re.split(r"(?<=[a-z)`])[.:;] ", text, maxsplit=1)[0].rstrip("."),
        "description": raw.get("description", ""),
        "parameters": parameters,
        "x-access": access,
        "x-group-scoped": bool(handler.opt.get("group_scoped")) or access in {"anyone", "public"},
        "security": handler.opt.get("security") or _SECURITY.get(access, [{"bearer": []}]),
        "responses": _responses(method, parameters, handler, types),
    }
    if access == "permission":
        operation["x-permission"] = str(handler.opt["permission"])
    condition = _condition(method, handler)
    if condition is not None:
        operation["x-condition"] = {"$ref": f"#/components/parameters/{condition}"}
    body = _request_body(handler, types)
    if body is not None:
        operation["requestBody"] = body
    return operation


def _parameter(raw: dict[str, Any], types: _Types) -> dict[str, Any]:
    parameter = {"name": raw["name"], "in": raw["in"], "required": raw["required"], "schema": types.parameter(raw["schema"])}
    if raw.get("description"):
        parameter["description"] = raw["description"]
    return parameter


def _header(name: str, description: str, pattern: str, example: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern}
    return {
        "name": name, "in": "header", "required": False, "description": description, "schema": schema, "example": example,
    }  # fmt: skip


_IDEMPOTENCY_KEY = _header("Idempotency-Key", "Repeats are answered again, not done again.", r"^[!-~]{1,200}$", "7f9c2ba4")
_CONDITIONS = {
    "IfMatch": _header("If-Match", "412 where the ETag is another; absent = whatever it is.", r'^"[0-9]{1,18}"$', '"7"'),
    "IfNoneMatch": _header("If-None-Match", "304 where the ETag is this.", r'^"[0-9]{1,18}"$', '"7"'),
}
"""The conditions of RFC 9110. They are HTTP's own, as Accept and Authorization are, which OpenAPI keeps out of the list of
parameters: what makes one of them good is the ETag of an answer and no schema. So an operation refers to them beside it."""


def _condition(method: str, handler: HTTPRouteHandler) -> str | None:
    if not handler.opt.get("versioned"):
        return None
    return "IfNoneMatch" if method == "get" else "IfMatch"


def _request_body(handler: HTTPRouteHandler, types: _Types) -> dict[str, Any] | None:
    binary = handler.opt.get("body_types")
    if binary:
        return {
            "required": True,
            "content": {
                media_type: {"schema": {"type": "string", "pattern": pattern} if pattern else {"type": "string"}}
                for media_type, pattern in binary.items()
            },
        }
    body = _body(handler)
    return None if body is None else {"required": True, "content": {_JSON: {"schema": types.schema(body)}}}


def _responses(method: str, parameters: list[dict[str, Any]], handler: HTTPRouteHandler, types: _Types) -> dict[str, Any]:
    responses: dict[str, Any] = {str(handler.status_code): _success(handler, types)}
    for status, answer in _answers(handler).items():
        responses[str(status)] = {"description": "As 200.", "content": {_JSON: {"schema": types.schema(answer)}}}
    if method == "get" and handler.opt.get("versioned"):
        responses["304"] = {"description": "It is as you know it."}
    by_status: dict[int, list[type[DomainError]]] = {}
    for error in dict.fromkeys((*handler.opt.get("problems", ()), *_common_problems(method, parameters, handler))):
        by_status.setdefault(problems.STATUS[error.code], []).append(error)
    for status, errors in by_status.items():
        described = responses.get(str(status))
        types.errors.update(errors)
        examples = {e.code: {"$ref": f"#/components/examples/{e.code}"} for e in errors}
        problem = {"schema": {"$ref": REF.format(name="Problem")}, "examples": examples}
        if described is None:
            # Many operations fail alike: each way of failing is written once, named after its codes.
            name = "-".join(e.code for e in errors)
            types.responses[name] = {"description": _codes(errors), "content": {problems.MEDIA_TYPE: problem}}
            responses[str(status)] = {"$ref": f"#/components/responses/{name}"}
        else:
            described["content"][problems.MEDIA_TYPE] = problem
    return dict(sorted(responses.items()))


def _common_problems(
    method: str, parameters: list[dict[str, Any]], handler: HTTPRouteHandler
) -> Iterable[type[DomainError]]:
    opt = handler.opt
    if not opt.get("public"):
        yield from _BY_CREDENTIAL
    if opt.get("permission") or opt.get("member"):
        yield NotAMember
        if not opt.get("group_scoped"):
            yield GroupScoped
    if any(p["in"] == "path" for p in parameters):
        yield PathUnknown
    if any(p["name"] == "cursor" for p in parameters) or "cursor" in getattr(_body(handler), "__struct_fields__", ()):
        yield CursorInvalid
    body = _body(handler) is not None or "body_types" in opt
    if parameters or body:
        yield Invalid
    if body:
        yield from (BodyTooLarge, MediaTypeUnsupported)
    if opt.get("idempotent"):
        yield from (IdempotencyKeyInvalid, IdempotencyMismatch, IdempotencyInProgress, IdempotencyGone)
    if opt.get("versioned") and method != "get":
        yield VersionConflict
    yield from (Unexpected, Unavailable)


def _success(handler: HTTPRouteHandler, types: _Types) -> dict[str, Any]:
    response: dict[str, Any] = {"description": "Done." if handler.status_code == 204 else "As asked."}
    headers: dict[str, Any] = {}
    if handler.opt.get("versioned") and handler.status_code != 204:
        headers["ETag"] = {"description": "The version, for If-Match.", "schema": {"type": "string"}}
    if handler.opt.get("idempotent"):
        headers["Location"] = {"description": "Path of what was made.", "schema": {"type": "string"}}
        headers["Idempotency-Replayed"] = {
            "description": "true = this answer was given before.", "required": False, "schema": {"type": "string"},
        }  # fmt: skip
    if headers:
        response["headers"] = headers
    content = {media_type: {"schema": _media_schema(media_type, handler, types)} for media_type in _media_types(handler)}
    if content:
        response["content"] = content
    return response


def _media_types(handler: HTTPRouteHandler) -> tuple[str, ...]:
    said = handler.opt.get("media_types", {}).get(handler.status_code)
    if said:
        # Parameters (`; charset=utf-8`) are no part of the type's name.
        return tuple(str(media_type).split(";", maxsplit=1)[0] for media_type in said)
    if _answer(handler) is not None:
        return (_JSON,)
    return () if handler.status_code == 204 else (str(handler.media_type),)


def _media_schema(media_type: str, handler: HTTPRouteHandler, types: _Types) -> dict[str, Any]:
    if media_type == "text/event-stream":
        return {"$ref": REF.format(name="ServerSentEvent")}
    answer = _answer(handler)
    return types.schema(answer) if media_type == _JSON and answer is not None else {"type": "string"}


# --- problems ----------------------------------------------------------------------------------------------------------

_PROBLEM: dict[str, Any] = {
    "Problem": {
        "title": "Problem",
        "description": "RFC 9457. `code` is a promise; `title` and `detail` may improve any day. There may be more members.",
        "type": "object",
        "required": ["type", "title", "status", "code", "detail", "instance"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference", "description": "A page about the code."},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "code": {"type": "string", "pattern": r"^[a-z_]+(\.[a-z_]+)+$"},
            "detail": {"type": "string"},
            "instance": {"type": "string", "format": "uri", "description": "This occurrence: the X-Request-ID."},
            "errors": {"type": "array", "items": {"$ref": REF.format(name="FieldError")}},
        },
    },
    "FieldError": {
        "title": "FieldError",
        "description": "What is wrong with one member of the body or one parameter.",
        "type": "object",
        "required": ["in", "name", "message"],
        "properties": {"in": {"type": "string"}, "name": {"type": "string"}, "message": {"type": "string"}},
    },
}


def _codes(errors: list[type[DomainError]]) -> str:
    return "A problem: " + ", ".join(f"`{e.code}`" for e in errors)


def _example(error: type[DomainError]) -> dict[str, Any]:
    meaning = " ".join(problems.meaning_of(error.code).split())
    return {
        "summary": meaning,
        "value": {
            "type": f"{problems.DOCS_PATH}/{error.code}",
            "title": problems.title_of(error.code),
            "status": problems.STATUS[error.code],
            "code": error.code,
            "detail": meaning,
            "instance": "urn:uuid:01a20ae7-7b34-7075-9b8e-8bc14e399876",
        },
    }

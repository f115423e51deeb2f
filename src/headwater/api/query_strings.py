"""Query strings, read strictly: what the framework would guess about is refused.

It reads `null` as an absent value, digits as a time, and of a parameter that is given twice the last: whoever sends one of
these means something else and is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute

from headwater.errors import Invalid

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


class _Expected(NamedTuple):
    """several: the parameter may be repeated; text: any text is a value of it, also `null`; time: it is a time"""

    several: bool
    text: bool
    time: bool


class QueryStrings:
    """A guard, behind the gate. `learn` once the routes are known."""

    def __init__(self) -> None:
        self._expected: dict[Any, Mapping[str, _Expected]] = {}
        """by the handler's function: guards are given copies of handlers"""

    def learn(self, app: Litestar) -> None:
        for route in app.routes:
            if isinstance(route, HTTPRoute):
                for handler, parameters in route.route_handler_map.values():
                    fields = handler.parsed_fn_signature.parameters
                    self._expected[handler.fn] = {
                        one.field_alias: _expected(fields[one.field_name], several=one.is_sequence)
                        for one in parameters.expected_query_params
                    }

    def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Raises Invalid."""
        expected = self._expected.get(handler.fn)
        if not expected or not connection.scope["query_string"]:
            return
        given = connection.query_params.dict()
        wrong = [
            {"in": "query", "name": name, "message": message}
            for name, one in expected.items()
            if name in given and (message := _complaint(one, given[name]))
        ]
        if wrong:
            raise Invalid("the query string does not say what the API description asks for", errors=wrong)


def _expected(field: Any, *, several: bool) -> _Expected:
    inner = field.inner_types if several else (field,)
    types = {t.annotation for one in inner for t in (one, *one.inner_types)}
    words = {word.value for t in types if isinstance(t, type) and issubclass(t, Enum) for word in t}
    return _Expected(several, str in types or "null" in words, datetime in types)


def _complaint(expected: _Expected, values: list[Any]) -> str | None:
    if not expected.several and len(values) > 1:
        return "Given more than once"
    for value in values:
        if not expected.text and str(value).lower() == "null":
            return "Expected a value; leave the parameter away to say nothing"
        if expected.time and not _RFC3339.fullmatch(str(value)):
            return "Expected a time of RFC 3339, as in 2026-01-31T12:00:00Z"
    return None

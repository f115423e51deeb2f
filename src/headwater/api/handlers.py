"""What an application answers: its handlers, each with the paths that lead to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Litestar
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute


def handlers_of(app: Litestar) -> list[tuple[BaseRouteHandler, set[str]]]:
    """Every handler that answers something of its own, with its paths."""
    found: dict[int, tuple[BaseRouteHandler, set[str]]] = {}
    for route in app.routes:
        handlers: Sequence[Any] = route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler]
        for handler in handlers:
            # The framework's own answer to OPTIONS only repeats the methods of the path.
            if getattr(handler, "http_methods", None) != {"OPTIONS"}:
                found.setdefault(id(handler), (handler, set()))[1].add(route.path_format)
    return list(found.values())

"""The outermost layer: what every answer carries, also one for a path that does not exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

from headwater.api.context import request_id

BODY_BYTES_MAX = 1 << 20
"""A route that takes more (an import) says so with `request_max_body_size`."""

# A page brings its own policy; nothing else that we send is ever meant to be rendered.
_DEFAULTS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
HSTS = "max-age=31536000; includeSubDomains"
"""Only where the public URL is https: a browser that was told this over plain HTTP ignores it (RFC 6797, 7.2)."""


def headers_hook(*, https: bool, methods: Mapping[str, set[str]]) -> Any:
    """methods: path template -> what it can do. Litestar's own answer to OPTIONS forgets handlers registered later."""

    async def add_headers(message: Message, scope: Scope) -> None:
        if message["type"] != "http.response.start":
            return
        headers = MutableScopeHeaders.from_message(message)
        for name, value in _DEFAULTS.items():
            headers.setdefault(name, value)
        for name, value in _ALWAYS.items():
            headers[name] = value
        if https:
            headers["strict-transport-security"] = HSTS
        headers["x-request-id"] = str(request_id(scope))
        if scope["method"] == "OPTIONS" and "allow" in headers:  # type: ignore[typeddict-item]  # only HTTP gets here
            headers["allow"] = ", ".join(sorted(methods.get(str(scope.get("path_template")), {"OPTIONS"})))

    return add_headers

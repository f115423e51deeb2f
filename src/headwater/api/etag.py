"""Versions as strong entity tags: `"7"`. If-Match is optional and honoured; If-None-Match saves the body of a GET.

A route that does this says `versioned=True`, so that the API's description tells about the headers.
"""

from __future__ import annotations

import re
from typing import Any

from litestar import Request, Response

from headwater.errors import Invalid

_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_LIST = re.compile(r'\s*(?:W/)?"[^"]*"\s*(?:,\s*(?:W/)?"[^"]*"\s*)*')

NEVER = -1
"""A version that no row ever has: an If-Match that names no version of ours cannot match."""


def tag(version: int) -> str:
    return f'"{version}"'


def expected_version(request: Request[Any, Any, Any]) -> int | None:
    """From If-Match: the version that the caller has seen; None = whatever it is. Raises Invalid.

    Several tags, which RFC 9110 allows, are refused: a caller has seen one version.
    """
    text = request.headers.get("if-match")
    if text is None or text.strip() == "*":
        return None
    if not _LIST.fullmatch(text):
        raise Invalid(
            "If-Match holds no entity tag",
            errors=[{"in": "header", "name": "If-Match", "message": 'Expected one entity tag: "7"'}],
        )
    tags = re.findall(r'(W/)?"([^"]*)"', text)
    if len(tags) > 1:
        raise Invalid(
            "If-Match holds several entity tags",
            errors=[{"in": "header", "name": "If-Match", "message": 'Expected one entity tag: "7"'}],
        )
    weak, opaque = tags[0]
    # RFC 9110, 13.1.1: strong comparison, so a weak tag never matches.
    return int(opaque) if not weak and re.fullmatch(r"[0-9]{1,18}", opaque) else NEVER


def respond(request: Request[Any, Any, Any], body: Any, version: int, *, status: int = 200) -> Response[Any]:
    """The body with its ETag, or 304 where the caller has it already."""
    headers = {"ETag": tag(version), "Cache-Control": "private, no-cache"}
    if request.method == "GET" and _has(request, version):
        return Response(content=None, status_code=304, headers=headers)
    return Response(content=body, status_code=status, headers=headers)


def _has(request: Request[Any, Any, Any], version: int) -> bool:
    text = request.headers.get("if-none-match", "")
    return text.strip() == "*" or str(version) in _TAG.findall(text)

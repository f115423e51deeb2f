"""The API's documentation, served by the API itself: the OpenAPI document, a page that renders it, a page for each error.

Nothing comes from elsewhere, so it works where there is no internet, and the content security policy can be strict.
"""

from __future__ import annotations

import asyncio
import html
from importlib import resources
from typing import Any

from litestar import Request, Response, get
from litestar.params import FromPath

from headwater.api import problems
from headwater.api.description import document
from headwater.api.errors import PathUnknown
from headwater.api.services import Noun

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_MEDIA_TYPES = {"docs.html": "text/html", "docs.css": "text/css", "docs.js": "text/javascript"}


@get("/api/v1/openapi.json", public=True, include_in_schema=False)
async def get_openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The description of this API, made when it is first asked for."""
    state = request.app.state
    if state.get("openapi") is None:
        # Half a second of work: not on the loop that serves everybody.
        state["openapi"] = await asyncio.to_thread(document, request.app)
    return Response(state["openapi"], media_type="application/json")


@get("/docs", public=True, include_in_schema=False)
async def get_page() -> Response[bytes]:
    """The page that renders it."""
    return _file("docs.html")


@get("/docs/docs.css", public=True, include_in_schema=False)
async def get_style() -> Response[bytes]:
    """Its style."""
    return _file("docs.css")


@get("/docs/docs.js", public=True, include_in_schema=False)
async def get_script() -> Response[bytes]:
    """Its script."""
    return _file("docs.js")


@get("/docs/problems/{code:str}", public=True, include_in_schema=False)
async def get_problem(code: FromPath[str]) -> Response[bytes]:
    """What an error code means: where a problem's `type` leads."""
    status = problems.STATUS.get(code)
    if status is None:
        raise PathUnknown("there is no such error code")
    page = _PROBLEM_PAGE.format(
        code=html.escape(code),
        title=html.escape(problems.title_of(code)),
        status=status,
        meaning=html.escape(problems.meaning_of(code)),
    )
    return _respond(page.encode(), "text/html")


_PROBLEM_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><link rel="stylesheet" href="/docs/docs.css"></head>
<body><h1>{title}</h1><p><code>{code}</code>, HTTP {status}</p><p>{meaning}</p><p><a href="/docs">The API</a></p></body>
</html>
"""


def _file(name: str) -> Response[bytes]:
    return _respond((resources.files("headwater.api") / "pages" / name).read_bytes(), _MEDIA_TYPES[name])


def _respond(content: bytes, media_type: str) -> Response[bytes]:
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Response(content, media_type=f"{media_type}; charset=utf-8", headers=headers)


NOUN = Noun(
    tag="Documentation",
    description="The API's own description.",
    handlers=(get_openapi, get_page, get_style, get_script, get_problem),
    prefix="/",
)

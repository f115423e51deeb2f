"""Serving the console: `/` and its files. Plugs into the API's application as a noun without a place in its description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from headwater.api.errors import PathUnknown
from headwater.api.services import APIServices, Noun
from headwater.console import assets
from headwater.console.assets import Asset, Assets

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""Only our own files, nothing inline, nothing from a string: a device's name can never become a program."""
YEAR_S = 31_536_000


@get("/", public=True, include_in_schema=False)
async def get_page(request: Request[Any, Any, Any], console: NamedDependency[Assets]) -> Response[bytes]:
    """The page."""
    tag = f'"{console.version}"'
    headers = {"cache-control": "no-cache", "etag": tag, "content-security-policy": POLICY}
    if tag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers)
    return _answer(request, console.page, headers)


@get("/console/{version:str}/{name:str}", public=True, include_in_schema=False)
async def get_asset(
    request: Request[Any, Any, Any], console: NamedDependency[Assets], version: FromPath[str], name: FromPath[str]
) -> Response[bytes]:
    """One of its files. An old page asks for files that are gone; it has to be loaded again."""
    asset = console.files.get(name)
    if asset is None or version != console.version:
        raise PathUnknown("this file belongs to another version of the console")
    return _answer(request, asset, {"cache-control": f"public, max-age={YEAR_S}, immutable"})


def _answer(request: Request[Any, Any, Any], asset: Asset, headers: dict[str, str]) -> Response[bytes]:
    headers = {**headers, "vary": "Accept-Encoding"}
    content = asset.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["content-encoding"] = asset.compressed, "gzip"
    return Response(content, media_type=asset.media_type, headers=headers)


def _build(_: APIServices) -> Mapping[str, object]:
    return {"console": assets.load()}


NOUN = Noun(tag="Console", description="A page for people.", handlers=(get_page, get_asset), build=_build, prefix="/")

"""The API, as commands call it: where it is, with which token, and how its problems are told to a person.

Blocking and from the standard library: a command does one thing after the other, and imports in a few milliseconds.
"""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import typer

URL_HELP = "Where the API is. Default: what `headwater up` says in --home."
TOKEN_HELP = "An API token. Default: what `headwater up` says in --home."
TIMEOUT_S = 120.0
"""One block of an import on a loaded machine takes some seconds."""
ATTEMPTS = 5
CHUNK_BYTES = 1 << 18


def fail(text: str) -> NoReturn:
    print(f"headwater: {text}", file=sys.stderr)
    raise typer.Exit(1)


def connect(url: str, token: str, home: Path) -> APIClient:
    """What is not given comes from the ready file of the home. An address of one's own never gets the home's token."""
    if url and token:
        return APIClient(url, token)
    if url:
        fail("say which token to use: --token or HEADWATER_TOKEN")
    path = home.expanduser() / "run" / "ready.json"
    try:
        ready = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return APIClient(str(ready["http_url"]), token or str(ready["admin_token"]))
    except (OSError, msgspec.DecodeError, KeyError):
        fail(f"nothing runs in {home} ({path} is not there): give --url and --token, or --home")


class APIClient:
    def __init__(self, url: str, token: str) -> None:
        if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
            fail(f"{url} is no http:// or https:// address")
        self._url = url.rstrip("/")
        self._token = token

    def json(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        advice: Mapping[str, str] = {},
    ) -> Any:
        """advice: what to do about a problem, by its code"""
        encoded = None if body is None else msgspec.json.encode(body)
        answer = self.send(method, path, encoded, query, "application/json", advice)
        return msgspec.json.decode(answer) if answer else None

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        content_type: str = "",
        advice: Mapping[str, str] = {},
    ) -> bytes:
        """The body of the answer. A problem ends the command with its detail."""
        return b"".join(self.stream(method, path, body, query, content_type, advice))

    def stream(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        content_type: str = "",
        advice: Mapping[str, str] = {},
    ) -> Iterator[bytes]:
        given = {name: str(value) for name, value in (query or {}).items() if value not in {None, ""}}
        address = f"{self._url}/api/v1{path}" + (f"?{urllib.parse.urlencode(given)}" if given else "")
        headers = {"Authorization": f"Bearer {self._token}"} | ({"Content-Type": content_type} if content_type else {})
        request = urllib.request.Request(address, body, headers, method=method)  # noqa: S310  # http and https only, see above
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310  # http and https only
                    while chunk := answer.read(CHUNK_BYTES):
                        yield chunk
                return
            except urllib.error.HTTPError as error:
                # Refused at the door, before anything was done.
                if error.code == 429 and attempt < ATTEMPTS:
                    time.sleep(min(10.0, float(error.headers.get("Retry-After", "1"))))
                    continue
                fail(_told(error, advice))
            except OSError as error:
                reason = getattr(error, "reason", error)
                fail(f"no answer from {self._url}: {reason}. `headwater status` says whether it runs")


def _told(error: urllib.error.HTTPError, advice: Mapping[str, str]) -> str:
    try:
        problem = msgspec.json.decode(error.read(), type=dict[str, Any])
    except (msgspec.DecodeError, OSError):
        return f"HTTP {error.code} {error.reason}"
    wrong = "".join(f"; {e['name']}: {e['message']}" for e in problem.get("errors", []) if isinstance(e, dict))
    code = str(problem.get("code", error.code))
    so = "; give another by --token or HEADWATER_TOKEN" if error.code == 401 else advice.get(code, "")
    return f"{problem.get('detail', error.reason)} [{code}]{wrong}{so}"

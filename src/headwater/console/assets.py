"""The console's files, read once, compressed once, and named by what is in them.

All files but the page lie below one hash of them all, so they may be kept for ever, and modules that import each other by
relative names always belong together. The page itself is asked for anew every time.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath

PAGE = "index.html"
BASE = "/console"
_PLACEHOLDER = b"{{base}}"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    media_type: str
    content: bytes
    compressed: bytes


@dataclass(frozen=True, slots=True)
class Assets:
    """version: the hash in the address of `files`"""

    version: str
    page: Asset
    files: Mapping[str, Asset]


def load() -> Assets:
    folder = resources.files("headwater.console") / "assets"
    contents = {file.name: file.read_bytes() for file in sorted(folder.iterdir(), key=lambda f: f.name)}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    version = digest.hexdigest()[:16]
    page = contents.pop(PAGE).replace(_PLACEHOLDER, f"{BASE}/{version}".encode())
    return Assets(version, _asset(PAGE, page), {name: _asset(name, content) for name, content in contents.items()})


def _asset(name: str, content: bytes) -> Asset:
    # mtime: the same bytes on every server
    return Asset(_MEDIA_TYPES[PurePosixPath(name).suffix], content, gzip.compress(content, 9, mtime=0))

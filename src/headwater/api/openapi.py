"""The committed description of the API, `openapi/v1.json`: written, checked for drift, checked for breaking changes.

python -m headwater.api.openapi --write            write the description
python -m headwater.api.openapi --check            fail where the committed one is another
python -m headwater.api.openapi --since v1.2.0     fail where it breaks clients of that revision, or of that file
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from headwater.api.app import APIServices, create_app
from headwater.api.description import document
from headwater.api.openapi_changes import breaking_changes
from headwater.clock import SystemClock
from headwater.database.session import Database

FILE = Path("openapi/v1.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m headwater.api.openapi", description="The API's description.")
    parser.add_argument("--file", type=Path, default=FILE, help="the committed description (%(default)s)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="write it")
    what.add_argument("--check", action="store_true", help="fail where the committed one is another")
    what.add_argument("--since", metavar="REVISION|FILE", help="fail where clients of that description would break")
    said = parser.parse_args(arguments)
    current = document(create_app(_without_engines()))
    if said.write:
        said.file.parent.mkdir(parents=True, exist_ok=True)
        said.file.write_bytes(current)
        return 0
    if said.check:
        if said.file.exists() and said.file.read_bytes() == current:
            return 0
        return _complain([f"{said.file} is not what the code says: run `make openapi` and commit it"])
    old = msgspec.json.decode(_old(said.since, said.file))
    return _complain(breaking_changes(old, msgspec.json.decode(current)))


def _without_engines() -> APIServices:
    # No handler is called, so nothing asks for an engine.
    database = Database(cast(Any, None))
    return APIServices(secrets.token_urlsafe(32), database, None, None, None, SystemClock())


def _old(since: str, file: Path) -> bytes:
    if Path(since).is_file():
        return Path(since).read_bytes()
    # No shell; git itself tells a revision from a path.
    return subprocess.run(["git", "show", f"{since}:{file.as_posix()}"], check=True, capture_output=True).stdout  # noqa: S603, S607


def _complain(complaints: list[str]) -> int:
    for complaint in complaints:
        sys.stderr.write(complaint + "\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())

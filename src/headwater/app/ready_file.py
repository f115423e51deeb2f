"""The file that says how to use what runs: there when it is ready, mode 0600, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import msgspec

from headwater.app.engines.account import write_private


class ReadyFile:
    """While an installation starts, an older file waits beside it: nobody takes it for the new one, and it is not lost."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._earlier = self.path.with_name(self.path.name + ".previous")

    def __enter__(self) -> ReadyFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self.path.replace(self._earlier)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.path.exists():
            self._earlier.unlink(missing_ok=True)
        elif self._earlier.exists():
            self._earlier.replace(self.path)

    @property
    def known_password(self) -> str | None:
        """The `admin_password` of the earlier file."""
        try:
            said = msgspec.json.decode(self._earlier.read_bytes())
        except (OSError, msgspec.DecodeError):
            return None
        password = said.get("admin_password") if isinstance(said, dict) else None
        return password if isinstance(password, str) else None

    def write(self, ready: msgspec.Struct) -> None:
        write_private(self.path, msgspec.json.format(msgspec.json.encode(ready)).decode() + "\n")

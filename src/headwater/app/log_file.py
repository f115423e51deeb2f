"""A child's output on disk, bounded: when the file is full it becomes `<name>.1`, and so on; the oldest goes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import IO

FILE_BYTES_MAX = 8 << 20
FILES_MAX = 4
"""32 MiB a child: days of ordinary output, or the last minutes of a child that screams."""


class LogFile:
    def __init__(self, path: Path, *, bytes_max: int = FILE_BYTES_MAX, files_max: int = FILES_MAX) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._file = self._open()
        self._size = path.stat().st_size

    def write(self, data: bytes) -> None:
        """Never raises: a full disk must not stop the one who watches over the others."""
        try:
            if self._size + len(data) > self._bytes_max:
                self._rotate()
            self._file.write(data)
            self._size += len(data)
        except (OSError, ValueError):  # ValueError: closed, because it could not be opened again
            with suppress(OSError):
                self._file = self._open()

    def tail(self, lines: int = 20) -> str:
        with self.path.open("rb") as file:
            file.seek(max(0, self._size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._files_max - 1, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        self._file = self._open()
        self._size = 0

    def _numbered(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")

    def _open(self) -> IO[bytes]:
        return os.fdopen(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", buffering=0)

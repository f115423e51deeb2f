"""The import as a command does it: the file in blocks, each one request, so that a lost answer costs one block's
credentials at most, and lines are reported with their number in the whole file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from headwater.cli.client import APIClient, fail
from headwater.device.import_lines import LINE_BYTES_MAX, LineSplitter, RawLine

BLOCK_LINES = 2000
"""Two of the server's transactions: a second of work, which is also how often the progress bar moves."""
BLOCK_BYTES = 8 << 20
READ_BYTES = 1 << 18


class CredentialFile:
    """Lines `client_id username password`, for its owner's eyes. What is in it already stays: it was shown only once."""

    def __init__(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)
        except OSError as error:
            fail(f"{path} cannot be written: {error.strerror}")
        self._file = os.fdopen(descriptor, "w", encoding="ascii")

    def add(self, lines: list[str]) -> None:
        """On disk when it returns."""
        self._file.writelines(line + "\n" for line in lines)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


@dataclass
class Totals:
    lines: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    exists: int = 0
    bad: int = 0
    credentials: int = 0

    def add(self, summary: dict[str, int]) -> None:
        for name, count in summary.items():
            setattr(self, name, getattr(self, name, 0) + count)


@dataclass
class Importer:
    """tell: one sentence about one line"""

    client: APIClient
    content_type: str
    query: dict[str, str]
    credentials: CredentialFile | None
    tell: Callable[[str], None]
    totals: Totals = field(default_factory=Totals)

    def run(self, file: BinaryIO, moved: Callable[[int], None]) -> None:
        """moved: bytes done"""
        header = b""
        block: list[RawLine] = []
        size = 0
        for raw in self._records(file):
            if raw.data is None:
                self.totals.lines += 1
                self._bad(raw.number, "", "line.too_long", f"a line has at most {LINE_BYTES_MAX} bytes")
                self.totals.bad += 1
            elif self.content_type == "text/csv" and not header:
                header = raw.data.rstrip(b"\r") + b"\n"
            else:
                block.append(raw)
                size += len(raw.data)
            if len(block) >= BLOCK_LINES or size >= BLOCK_BYTES:
                self._send(header, block)
                block, size = [], 0
                moved(file.tell())
        if block or not self.totals.lines:
            # Also a file without any line goes to the server, which says what is wrong with it.
            self._send(header, block)
        moved(file.tell())

    def _records(self, file: BinaryIO) -> Iterator[RawLine]:
        splitter = LineSplitter(quoted=self.content_type == "text/csv")
        while data := file.read(READ_BYTES):
            yield from splitter.feed(data)
        yield from splitter.finish()

    def _send(self, header: bytes, block: list[RawLine]) -> None:
        numbers: dict[int, int] = {}
        at = 1 + header.count(b"\n")
        body = [header]
        for raw in block:
            assert raw.data is not None  # those without are told about and left out
            numbers[at] = raw.number
            at += raw.data.count(b"\n") + 1
            body.append(raw.data + b"\n")
        answer = self.client.send("POST", "/devices/import", b"".join(body), self.query, self.content_type)
        lines = [msgspec.json.decode(line) for line in answer.splitlines()]
        if self.credentials is not None:
            self.credentials.add(
                [f"{line['client_id']} {line['username']} {line['password']}" for line in lines if line.get("password")]
            )
        for line in lines:
            self._tell(line, numbers)

    def _tell(self, line: dict[str, Any], numbers: dict[int, int]) -> None:
        if "summary" in line:
            self.totals.add(line["summary"])
            return
        number = numbers.get(line["line"], line["line"])
        if line["outcome"] == "bad":
            self._bad(number, line.get("column", ""), line["code"], line["reason"])
        elif line["outcome"] == "exists":
            done = "already there; it gets a further credential" if line.get("password") else "already there; skipped"
            self.tell(f"line {number}: {line['external_id']}: {done}")

    def _bad(self, number: int, column: str, code: str, reason: str) -> None:
        self.tell(f"line {number}: {column + ': ' if column else ''}{reason} [{code}]")

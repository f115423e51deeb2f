"""Files of devices, line by line: bytes in, lines or their problems out. No I/O, no database.

CSV: a header of `external_id`, `name`, `profile`, `status`, `labels.<name>`, `attributes.<name>` in any order, parted by
comma, semicolon or tab. An empty cell says nothing. An attribute's cell is JSON where it reads as JSON (`21.5`, `true`,
`{"a":1}`, `null` to remove), else text; a text that reads as JSON stands in JSON's quotes. NDJSON: one object a line.

A cell whose text starts with = + - @ ' or a control character has a `'` before it in our exports, so that no spreadsheet
takes it for a formula, and loses it again here. Columns that an export adds for people (`READ_ONLY`) are skipped.
Invariant: a bad line costs itself only; its number is that of its first line in the file, counted from 1.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from headwater.device.device import Status, check_attributes, check_external_id, check_labels, check_name, check_text
from headwater.device.errors import DeviceInvalid, ImportInvalid

LINE_BYTES_MAX = 65_536
"""Of one record: attributes may have 16 KiB, which CSV's and JSON's escapes can triple. Also ends a lost quote's reach."""
COLUMNS_MAX = 512
INTEGER_MAX = 2**53
"""In CSV a longer row of digits is text: it is a serial number, and a browser would round it."""

READ_ONLY = frozenset({"id", "profile_id", "version", "connected", "last_seen_at", "created_at", "updated_at"})
_PLAIN_COLUMNS = frozenset({"external_id", "name", "profile", "status"})
_FORMULA = "=+-@\t\r\n'"


class RawLine(NamedTuple):
    """data is None where the record was too long to keep."""

    number: int
    data: bytes | None


class Line(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a line says of one device; UNSET = nothing."""

    external_id: str
    name: str | UnsetType = UNSET
    profile: str | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    labels: dict[str, str | None] = {}
    attributes: dict[str, Any] = {}
    # Skipped: READ_ONLY.
    id: Any = None
    profile_id: Any = None
    version: Any = None
    connected: Any = None
    last_seen_at: Any = None
    created_at: Any = None
    updated_at: Any = None
    number: int = 0


class LineProblem(NamedTuple):
    number: int
    column: str
    code: str
    reason: str


class LineSplitter:
    """Bytes, as they come, into records. `quoted`: a line end inside CSV quotes is part of the record."""

    def __init__(self, *, quoted: bool) -> None:
        self._quoted = quoted
        self._rest = b""
        self._skipping = False
        self._number = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._quotes = 0
        self._started = 1

    def feed(self, data: bytes) -> Iterator[RawLine]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            yield from self._line(line)
        if len(self._rest) > LINE_BYTES_MAX:
            self._rest = b""
            self._skipping = True

    def finish(self) -> Iterator[RawLine]:
        if self._rest or self._skipping:
            yield from self._line(self._rest)
        if self._pending:
            yield self._flush()

    def _line(self, line: bytes) -> Iterator[RawLine]:
        self._number += 1
        if self._skipping or len(line) > LINE_BYTES_MAX:
            self._skipping = False
            self._flush()
            yield RawLine(self._number, None)
            return
        if not self._quoted or (not self._pending and line.count(b'"') % 2 == 0):
            if line.strip():
                yield RawLine(self._number, line)
            return
        if not self._pending:
            self._started = self._number
        self._pending.append(line)
        self._pending_bytes += len(line) + 1
        self._quotes += line.count(b'"')
        if self._quotes % 2 == 0:
            yield self._flush()
        elif self._pending_bytes > LINE_BYTES_MAX:
            self._flush()
            yield RawLine(self._started, None)

    def _flush(self) -> RawLine:
        record = RawLine(self._started, b"\n".join(self._pending))
        self._pending, self._pending_bytes, self._quotes = [], 0, 0
        return record


class CSVReader:
    """The first record is the header."""

    def __init__(self) -> None:
        self._columns: list[str] | None = None
        self._delimiter = ","

    def read(self, raw: RawLine) -> Line | LineProblem | None:
        """None = the header. Raises ImportInvalid where the header cannot be used."""
        if raw.data is None:
            return _too_long(raw)
        try:
            text = raw.data.decode("utf-8-sig" if self._columns is None else "utf-8")
        except UnicodeDecodeError:
            return LineProblem(raw.number, "", "line.not_utf8", "the line is not UTF-8")
        if self._columns is None:
            self._columns = self._header(text)
            return None
        try:
            cells = next(csv.reader([text], delimiter=self._delimiter, strict=True))
        except (csv.Error, StopIteration) as error:
            return LineProblem(raw.number, "", "line.not_csv", f"not CSV: {error}")
        if len(cells) != len(self._columns):
            reason = f"{len(cells)} cells where the header has {len(self._columns)}"
            return LineProblem(raw.number, "", "line.cells", reason)
        return _checked(raw.number, lambda: self._line(cells))

    def _header(self, text: str) -> list[str]:
        self._delimiter = next((d for d in ",;\t" if d in text), ",")
        try:
            columns = [column.strip() for column in next(csv.reader([text], delimiter=self._delimiter, strict=True))]
        except csv.Error as error:
            raise ImportInvalid(f"the header is not CSV: {error}") from error
        if len(columns) > COLUMNS_MAX:
            raise ImportInvalid(f"a file has at most {COLUMNS_MAX} columns")
        for index, column in enumerate(columns):
            bag, _, name = column.partition(".")
            if column not in _PLAIN_COLUMNS | READ_ONLY and (bag not in {"labels", "attributes"} or not name):
                known = "external_id, name, profile, status, labels.<name>, attributes.<name>"
                raise ImportInvalid(f"unknown column {column!r}; there are {known}", column=column)
            if column in columns[:index]:
                raise ImportInvalid(f"the column {column!r} stands twice in the header", column=column)
        if "external_id" not in columns:
            raise ImportInvalid("the header has no column external_id", column="external_id")
        return columns

    def _line(self, cells: list[str]) -> Line:
        line = Line(external_id="")
        labels: dict[str, str | None] = {}
        attributes: dict[str, Any] = {}
        for column, cell in zip(self._columns or (), cells, strict=True):
            if not cell:
                continue
            text = unguarded(cell)
            if column.startswith("labels."):
                labels[column[7:]] = text
            elif column.startswith("attributes."):
                attributes[column[11:]] = text if text is not cell else value_of_cell(cell)
            elif column == "name":
                line.name = text
            elif column == "external_id":
                line.external_id = text.strip()
            elif column == "profile":
                line.profile = text.strip()
            elif column == "status":
                line.status = _status(text.strip())
        line.labels, line.attributes = labels, attributes
        return line


class NDJSONReader:
    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Line)

    def read(self, raw: RawLine) -> Line | LineProblem | None:
        if raw.data is None:
            return _too_long(raw)
        data = raw.data.removeprefix(b"\xef\xbb\xbf") if raw.number == 1 else raw.data
        return _checked(raw.number, lambda: self._decoder.decode(data))


def _checked(number: int, make: Any) -> Line | LineProblem:
    try:
        line: Line = make()
        check_external_id(line.external_id)
        if line.name is not UNSET:
            check_name(line.name)
        if line.profile is not UNSET:
            check_text(line.profile, "profile")
        if line.labels:
            check_labels({name: value for name, value in line.labels.items() if value is not None})
            check_text("".join(line.labels), "labels")
        if line.attributes:
            check_attributes(line.attributes)
    except DeviceInvalid as error:
        return LineProblem(number, error.field, error.code, error.detail)
    except msgspec.ValidationError as error:
        return LineProblem(number, "", "line.invalid", str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return LineProblem(number, "", "line.not_json", f"not JSON: {error}"[:300])
    line.number = number
    return line


def _status(text: str) -> Status:
    try:
        return Status(text)
    except ValueError as error:
        raise DeviceInvalid(f"status is one of {', '.join(Status)}", "status") from error


def _too_long(raw: RawLine) -> LineProblem:
    reason = f"a record has at most {LINE_BYTES_MAX} bytes; a quote that is never closed also looks like this"
    return LineProblem(raw.number, "", "line.too_long", reason)


def value_of_cell(text: str) -> Any:
    """The JSON value, or the text itself where it does not read as JSON."""
    if text[0] not in '-0123456789{["tfn':
        return text
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text
    return text if isinstance(value, int) and abs(value) > INTEGER_MAX else value


def cell_of_value(value: Any) -> str:
    """The inverse of `value_of_cell`, safe to open in a spreadsheet."""
    if not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if not value or value_of_cell(value) is not value:
        return msgspec.json.encode(value).decode()
    return guarded(value)


def guarded(text: str) -> str:
    return f"'{text}" if text[:1] and text[0] in _FORMULA else text


def unguarded(cell: str) -> str:
    """The very same object where there was nothing to take away."""
    return cell[1:] if len(cell) > 1 and cell[0] == "'" and cell[1] in _FORMULA else cell

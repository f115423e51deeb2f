"""Answers as bytes: JSON, NDJSON, CSV, and Arrow (see formats_arrow.py).

JSON is one document and has pages. The others are streams of rows, made piece by piece, so that an answer of any length
needs the memory of one piece. Knows rows and columns, nothing of queries.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from headwater.store.query_errors import FormatUnknown


class Format(StrEnum):
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    ARROW = "arrow"


MEDIA_TYPE = {
    Format.JSON: "application/json",
    Format.NDJSON: "application/x-ndjson",
    Format.CSV: "text/csv; charset=utf-8; header=present",
    Format.ARROW: "application/vnd.apache.arrow.stream",
}
_BY_MEDIA_TYPE = {
    "application/json": Format.JSON,
    "application/x-ndjson": Format.NDJSON,
    "application/ndjson": Format.NDJSON,
    "application/jsonl": Format.NDJSON,
    "text/csv": Format.CSV,
    "application/vnd.apache.arrow.stream": Format.ARROW,
    "application/*": Format.JSON,
    "text/*": Format.CSV,
    "*/*": Format.JSON,
}


class Kind(StrEnum):
    """What a column holds."""

    ID = "id"
    TEXT = "text"
    TIME = "time"
    FLOAT = "float"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    LOCATION = "location"
    ANY = "any"
    """any JSON value; a table without types says it as JSON text"""


class Column(msgspec.Struct, frozen=True):
    name: str
    kind: Kind


Rows = AsyncIterator[Sequence[Sequence[Any]]]
"""pieces of rows, each row as long as there are columns; None = no value"""


def choose(name: str | None, accept: str) -> Format:
    """`name` (the parameter `format`) wins over the Accept header. Raises FormatUnknown."""
    if name is not None:
        try:
            return Format(name)
        except ValueError as error:
            raise FormatUnknown(f"the formats are {', '.join(Format)}", formats=list(Format)) from error
    ranges = [_range(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    # A stable sort: of equals the first that the client names.
    for media_type, quality in sorted(ranges, key=lambda one: -one[1]):
        if quality > 0 and media_type in _BY_MEDIA_TYPE:
            return _BY_MEDIA_TYPE[media_type]
    raise FormatUnknown(f"accept one of {', '.join(MEDIA_TYPE.values())}", formats=list(Format))


def _range(text: str) -> tuple[str, float]:
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return media_type, float(parameter[2:])
            except ValueError:
                return media_type, 0.0
    return media_type, 1.0


_encoder = msgspec.json.Encoder()


async def ndjson(columns: Sequence[Column], rows: Rows) -> AsyncIterator[bytes]:
    """One object a line; a column without a value is null."""
    names = [column.name for column in columns]
    async for piece in rows:
        yield _encoder.encode_lines([dict(zip(names, row, strict=True)) for row in piece])


async def csv_text(columns: Sequence[Column], rows: Rows) -> AsyncIterator[bytes]:
    """RFC 4180, with a header line. No value is an empty field."""
    text = io.StringIO()
    write = csv.writer(text, quoting=csv.QUOTE_MINIMAL)
    write.writerow([column.name for column in columns])
    write_values = [_CSV[column.kind] for column in columns]
    async for piece in rows:
        write.writerows(
            [None if value is None else one(value) for one, value in zip(write_values, row, strict=True)] for row in piece
        )
        yield _taken(text)
    yield _taken(text)


def _taken(text: io.StringIO) -> bytes:
    piece = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return piece


def iso(at: datetime) -> str:
    """As msgspec writes a time in JSON."""
    return at.isoformat().replace("+00:00", "Z")


def any_text(value: Any) -> str:
    """JSON, except that a text stands without quotes."""
    return value if isinstance(value, str) else _encoder.encode(value).decode()


_CSV: dict[Kind, Callable[[Any], str]] = {
    Kind.ID: str,
    Kind.TEXT: str,
    Kind.TIME: iso,
    Kind.FLOAT: any_text,
    Kind.INTEGER: any_text,
    Kind.BOOLEAN: any_text,
    Kind.LOCATION: any_text,
    Kind.ANY: any_text,
}

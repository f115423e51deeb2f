from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pyarrow
import pytest

from headwater.store.formats import Column, Format, Kind, choose, csv_text, ndjson
from headwater.store.formats_arrow import arrow_stream
from headwater.store.query_errors import FormatNotInstalled, FormatUnknown

DEVICE = UUID(int=7)
AT = datetime(2026, 11, 24, 1, 2, 3, 456789, tzinfo=UTC)
COLUMNS = [
    Column("device_id", Kind.ID), Column("at", Kind.TIME), Column("f", Kind.FLOAT), Column("i", Kind.INTEGER),
    Column("b", Kind.BOOLEAN), Column("s", Kind.TEXT), Column("p", Kind.LOCATION), Column("j", Kind.ANY),
]  # fmt: skip
PLACE = {"latitude": 1.0, "longitude": 2.0}
FULL = (DEVICE, AT, 1.5, 2**60 + 1, True, 'a,"b"\nc', PLACE, {"a": [1]})
EMPTY = (DEVICE, AT, None, None, None, None, None, None)


async def rows(*pieces: Sequence[Sequence[Any]]) -> AsyncIterator[Sequence[Sequence[Any]]]:
    for piece in pieces:
        yield piece


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def test_csv() -> None:
    text = (await whole(csv_text(COLUMNS, rows([FULL], [], [EMPTY])))).decode()
    header, full, empty = csv.reader(io.StringIO(text, newline=""))
    assert header == [column.name for column in COLUMNS]
    assert full == [
        str(DEVICE), "2026-11-24T01:02:03.456789Z", "1.5", str(2**60 + 1), "true", 'a,"b"\nc',
        '{"latitude":1.0,"longitude":2.0}', '{"a":[1]}',
    ]  # fmt: skip
    assert empty[2:] == [""] * 6


async def test_csv_without_rows_has_its_header() -> None:
    assert await whole(csv_text(COLUMNS[:2], rows())) == b"device_id,at\r\n"


async def test_ndjson() -> None:
    full, empty = (json.loads(line) for line in (await whole(ndjson(COLUMNS, rows([FULL], [EMPTY])))).splitlines())
    assert full["i"] == 2**60 + 1
    assert full["p"] == PLACE
    assert full["s"] == FULL[5]
    assert empty["f"] is None


async def test_arrow_keeps_types() -> None:
    data = await whole(arrow_stream(COLUMNS, rows([FULL], [], [EMPTY])))
    table = pyarrow.ipc.open_stream(data).read_all()
    assert [str(field.type) for field in table.schema] == [
        "string", "timestamp[us, tz=UTC]", "double", "int64", "bool", "string",
        "struct<latitude: double, longitude: double, altitude_m: double>", "string",
    ]  # fmt: skip
    full, empty = table.to_pylist()
    assert full["at"] == AT
    assert full["i"] == 2**60 + 1
    assert full["p"] == {**PLACE, "altitude_m": None}
    assert json.loads(full["j"]) == {"a": [1]}
    assert empty["b"] is None


async def test_arrow_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FormatNotInstalled, match=r"headwater\[arrow\]"):
        await whole(arrow_stream(COLUMNS, rows()))


@pytest.mark.parametrize(
    ("name", "accept", "expected"),
    [
        (None, "", Format.JSON),
        (None, "*/*", Format.JSON),
        (None, "text/csv", Format.CSV),
        (None, "text/html, application/xhtml+xml, */*;q=0.8", Format.JSON),
        (None, "application/json;q=0.1, application/x-ndjson", Format.NDJSON),
        (None, "application/vnd.apache.arrow.stream;q=1", Format.ARROW),
        ("csv", "application/json", Format.CSV),
    ],
)
def test_the_format_is_what_the_client_likes_best(name: str | None, accept: str, expected: Format) -> None:
    assert choose(name, accept) is expected


@pytest.mark.parametrize(("name", "accept"), [("xml", ""), (None, "image/png"), (None, "text/csv;q=0"), (None, "a;q=x")])
def test_a_format_that_does_not_exist_is_refused(name: str | None, accept: str) -> None:
    with pytest.raises(FormatUnknown):
        choose(name, accept)

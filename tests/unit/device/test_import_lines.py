"""Files of devices: every way to be broken costs one line; what an export writes, an import reads."""

from __future__ import annotations

import csv
import io
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.device.errors import ImportInvalid
from headwater.device.import_lines import (
    LINE_BYTES_MAX,
    CSVReader,
    Line,
    LineProblem,
    LineSplitter,
    NDJSONReader,
    cell_of_value,
    guarded,
    unguarded,
    value_of_cell,
)


def read_csv(data: bytes, step: int = 10**9) -> list[Line | LineProblem]:
    splitter, reader = LineSplitter(quoted=True), CSVReader()
    raws = [raw for at in range(0, len(data), step) for raw in splitter.feed(data[at : at + step])] + list(splitter.finish())
    return [line for raw in raws if (line := reader.read(raw)) is not None]


def only_line(data: bytes) -> Line:
    (line,) = read_csv(data)
    assert isinstance(line, Line)
    return line


def only_problem(lines: list[Line | LineProblem]) -> LineProblem:
    (problem,) = [line for line in lines if isinstance(line, LineProblem)]
    return problem


def test_columns_and_types() -> None:
    line = only_line(
        b"\xef\xbb\xbfexternal_id; name;labels.site;attributes.floor;attributes.on;attributes.note;attributes.x;id\r\n"
        b'p-1 ;"Pump; one";3;3;true;"""7""";{"a":[1]};skipped\r\n'.replace(b'{"a":[1]}', b'"{""a"":[1]}"')
    )
    assert (line.external_id, line.name, line.number) == ("p-1", "Pump; one", 2)
    assert line.labels == {"site": "3"}
    assert line.attributes == {"floor": 3, "on": True, "note": "7", "x": {"a": [1]}}


def test_empty_cells_say_nothing() -> None:
    line = only_line(b"external_id,name,status,profile,labels.a,attributes.b\nx,,,,,\n")
    assert line == Line(external_id="x", number=2)


def test_record_over_several_lines_keeps_its_first_number() -> None:
    data = b'external_id,name\na,"one\n\ntwo"\nb,\n/,\n'
    for step in (1, 3, 7, 1000):
        lines = read_csv(data, step)
        assert [line.number for line in lines] == [2, 5, 6]
        assert isinstance(lines[0], Line)
        assert lines[0].name == "one\n\ntwo"
        assert only_problem(lines).column == "external_id"


@pytest.mark.parametrize(
    ("row", "column", "code"),
    [
        (b",x,", "external_id", "device.invalid"),
        (b"a/b,x,", "external_id", "device.invalid"),
        (b"a,x", "", "line.cells"),
        (b'a,"x"y,', "", "line.not_csv"),
        (b"a,\xff,", "", "line.not_utf8"),
        (b"a,x,broken", "status", "device.invalid"),
        (b"a," + b"x" * 201 + b",", "name", "device.invalid"),
        (b"a,\0,", "name", "device.invalid"),
        (b"a," + b"x" * LINE_BYTES_MAX + b",", "", "line.too_long"),
    ],
)
def test_bad_line_costs_itself_only(row: bytes, column: str, code: str) -> None:
    lines = read_csv(b"external_id,name,status\ngood-1,,\n" + row + b"\ngood-2,,\n", 1000)
    problem = only_problem(lines)
    assert (problem.number, problem.column, problem.code) == (3, column, code)
    assert [line.external_id for line in lines if isinstance(line, Line)] == ["good-1", "good-2"]


def test_lost_quote_costs_a_bounded_part() -> None:
    rows = b"".join(b"d-%d,x\n" % n for n in range(20_000))
    lines = read_csv(b'external_id,name\na,"lost\n' + rows, 4096)
    problem = only_problem(lines)
    assert (problem.number, problem.code) == (2, "line.too_long")
    assert len(lines) > 20_000 - LINE_BYTES_MAX // 6


@pytest.mark.parametrize(
    "header",
    [b"name", b"external_id,external_id", b"external_id,color", b"external_id,labels.", b'external_id,"', b"id;name"],
)
def test_header_refused(header: bytes) -> None:
    with pytest.raises(ImportInvalid):
        read_csv(header + b"\na,b\n")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"{}", "line.invalid"),
        (b'{"external_id": 5}', "line.invalid"),
        (b'{"external_id": "a", "color": 1}', "line.invalid"),
        (b'{"external_id": "a"', "line.not_json"),
        (b'{"external_id": "\xff"}', "line.not_json"),
        (b'{"external_id": "a", "attributes": {"x": ' + b"[" * 5000 + b"]" * 5000 + b"}}", "line.not_json"),
        (b'{"external_id": "a", "attributes": {"x": "\\u0000"}}', "device.invalid"),
        (b'{"external_id": "a", "attributes": {"x": ' + b"[" * 33 + b"]" * 33 + b"}}", "device.invalid"),
        (b'{"external_id": "a", "labels": {"x": ""}}', "device.invalid"),
    ],
)
def test_bad_ndjson(text: bytes, code: str) -> None:
    splitter, reader = LineSplitter(quoted=False), NDJSONReader()
    (raw,) = [*splitter.feed(text), *splitter.finish()]
    problem = reader.read(raw)
    assert isinstance(problem, LineProblem)
    assert problem.code == code


@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes_give_lines_or_problems(data: bytes, step: int) -> None:
    for line in read_csv(b"external_id,name\n" + data, step):
        assert isinstance(line, Line | LineProblem)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.printable, max_size=5), inner, max_size=3),
)  # fmt: skip


@given(JSON_VALUES)
def test_cell_of_a_value_reads_back(value: object) -> None:
    cell = cell_of_value(value)
    assert not cell.startswith(("=", "+", "@", "\t", "\r", "\n"))
    assert not cell.startswith("-") or isinstance(value, int | float)
    text = unguarded(cell)
    back = text if text is not cell else value_of_cell(cell)
    assert back == value
    assert type(back) is type(value)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_guarded_text_survives_a_whole_file(text: str) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["external_id", "labels.x"], ["a", guarded(text)]])
    splitter = LineSplitter(quoted=True)
    raws = [*splitter.feed(buffer.getvalue().encode()), *splitter.finish()]
    rows = [next(csv.reader(io.StringIO(raw.data.decode(), newline=""))) for raw in raws if raw.data is not None]
    assert unguarded(rows[1][1]) == text
    assert guarded(text)[0] not in "=+-@\t\r\n"


def test_a_long_row_of_digits_stays_text() -> None:
    assert value_of_cell("89490200001234567890") == "89490200001234567890"
    assert value_of_cell("007") == "007"
    assert value_of_cell("7") == 7

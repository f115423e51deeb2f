"""Arrow's IPC stream, with types. pyarrow is large and an extra (`pip install headwater[arrow]`), so it is imported late."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from headwater.store.formats import Column, Kind, Rows, any_text
from headwater.store.query_errors import FormatNotInstalled


def require_arrow() -> Any:
    """The module pyarrow. Raises FormatNotInstalled."""
    try:
        import pyarrow  # noqa: PLC0415  170 MB that most servers never need
    except ImportError as error:
        raise FormatNotInstalled("this server has no Arrow: install headwater[arrow], or ask for another format") from error
    return pyarrow


async def arrow_stream(columns: Sequence[Column], rows: Rows) -> AsyncIterator[bytes]:
    """One record batch a piece. Ids and times are typed; what may be any JSON value is JSON text."""
    pyarrow = require_arrow()
    schema = pyarrow.schema([(column.name, _type(pyarrow, column.kind)) for column in columns])
    sink = _Sink()
    with pyarrow.ipc.new_stream(pyarrow.PythonFile(sink, mode="w"), schema) as writer:
        async for piece in rows:
            values = zip(*piece, strict=True) if piece else ([] for _ in columns)
            arrays = [
                pyarrow.array([_value(column.kind, value) for value in of_column], type=field.type)
                for column, field, of_column in zip(columns, schema, values, strict=True)
            ]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
            yield sink.take()
    yield sink.take()


def _type(pyarrow: Any, kind: Kind) -> Any:
    match kind:
        case Kind.TIME:
            return pyarrow.timestamp("us", tz="UTC")
        case Kind.FLOAT:
            return pyarrow.float64()
        case Kind.INTEGER:
            return pyarrow.int64()
        case Kind.BOOLEAN:
            return pyarrow.bool_()
        case Kind.LOCATION:
            return pyarrow.struct([(name, pyarrow.float64()) for name in ("latitude", "longitude", "altitude_m")])
        case _:
            return pyarrow.string()


def _value(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.ANY:
        return any_text(value)
    if kind is Kind.FLOAT:
        return float(value)
    return str(value) if kind is Kind.ID else value


class _Sink:
    """A file that only remembers what was written since it was last asked."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        return len(piece)

    def flush(self) -> None:
        """pyarrow calls it."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

"""The order of a device list, and the place in it where the next page starts.

A sort key is a field, with `-` before it for descending. Ties are broken by the device's id in the same direction, and
devices without the field come last in both, so the order is total and a page neither skips nor repeats a row that kept
its key. A position is `[key, id]`, JSON values only; the API signs it, here it is only checked for its form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from headwater.device.errors import PositionInvalid
from headwater.device.filter import Field, parse_field
from headwater.device.filter_sql import Parameters, bag_value, column_of

Position = list[object]

KEY_CHARACTERS_MAX = 200
"""Of a text attribute: it goes into the cursor, and with it into a URL. What differs only behind it is a tie."""


@dataclass(frozen=True, slots=True)
class Sort:
    field: Field
    descending: bool = False


def parse_sort(text: str) -> Sort:
    """`name`, `-labels.site`, `attributes."floor no".x`. Raises FilterInvalid."""
    descending = text.startswith("-")
    field = parse_field(text[1:] if descending else text)
    if not field.path:
        column_of(field)
    return Sort(field, descending)


BY_ID = parse_sort("id")
"""Creation order: the ids are time-ordered."""


class Order:
    """A sort, compiled into one statement's parameters."""

    def __init__(self, sort: Sort, parameters: Parameters) -> None:
        self._sort = sort
        self._parameters = parameters
        field = sort.field
        if field.name == "labels":
            self.key, self._kind, self._nullable = f"(d.labels ->> {parameters.add(field.path[0], 'text')})", "text", True
        elif field.path:
            # jsonb has an order of its own over mixed types; objects and arrays count as absent.
            found = bag_value(field, parameters)
            self.key = (
                f"(CASE jsonb_typeof({found}) WHEN 'string' THEN to_jsonb(left({found} #>> '{{}}', {KEY_CHARACTERS_MAX}))"
                f" WHEN 'number' THEN {found} WHEN 'boolean' THEN {found} END)"
            )
            self._kind, self._nullable = "jsonb", True
        else:
            column = column_of(field)
            self.key, self._kind, self._nullable = column.sql, column.kind, column.nullable

    @property
    def by(self) -> str:
        direction = "DESC" if self._sort.descending else "ASC"
        if self._sort.field.name == "id":
            return f"d.id {direction}"
        return f"{self.key} {direction}{' NULLS LAST' if self._nullable else ''}, d.id {direction}"

    def after(self, position: Position) -> str:
        """The condition for the rows behind this place. Raises PositionInvalid."""
        key, device_id = self._read(position)
        further = "<" if self._sort.descending else ">"
        identifier = self._parameters.add(device_id, "uuid")
        if self._sort.field.name == "id":
            return f"d.id {further} {identifier}"
        if key is None:
            return f"{self.key} IS NULL AND d.id {further} {identifier}"
        value = self._parameters.add(key, _CAST[self._kind])
        behind = f"({self.key}, d.id) {further} ({value}, {identifier})"
        return f"({behind} OR {self.key} IS NULL)" if self._nullable else behind

    def position(self, key: object, device_id: UUID) -> Position:
        if isinstance(key, int) and abs(key) >= 2**63:
            key = float(key)  # a cursor holds 64 bits; what differs only behind them is a tie
        if isinstance(key, datetime):
            return [key.isoformat(), str(device_id)]
        return [str(key) if isinstance(key, UUID) else key, str(device_id)]

    def _read(self, position: Position) -> tuple[object, UUID]:
        try:
            key, device_id = position
            return (None if key is None and self._nullable else _READ[self._kind](key)), UUID(str(device_id))
        except (ValueError, TypeError) as error:
            raise PositionInvalid("this cursor does not belong to this order of the list") from error


def _is(kind: type, value: object) -> object:
    if type(value) is not kind:
        raise TypeError(value)
    return value


_CAST = {
    "text": "text", "uuid": "uuid", "time": "timestamptz", "integer": "bigint", "boolean": "boolean", "jsonb": "jsonb",
}  # fmt: skip
_READ: dict[str, Callable[[object], object]] = {
    "text": lambda value: _is(str, value),
    "uuid": lambda value: UUID(str(value)),
    "time": lambda value: datetime.fromisoformat(str(value)),
    "integer": lambda value: _is(int, value),
    "boolean": lambda value: _is(bool, value),
    "jsonb": lambda value: value if isinstance(value, str | int | float | bool) else _is(str, value),
}

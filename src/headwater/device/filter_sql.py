"""The filter's tree, compiled to a SQL condition over `device d`, `profile p` and `device_state s`.

Invariant: what a caller wrote reaches PostgreSQL as a parameter only; the text of the statement is made of this file's
own literals. Equality with a label or an attribute is containment (`@>`), which the GIN indexes answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from headwater.device.errors import FilterInvalid
from headwater.device.filter import And, Comparison, Field, Node, Not, Or, Scalar, Value
from headwater.device.profile import DATA_FRESH_S

FROM = "device d JOIN profile p ON p.id = d.profile_id LEFT JOIN device_state s ON s.device_id = d.id"
"""What a condition may speak of. Every user of `compile_filter` selects from this."""

DATA_AT = "(SELECT max(l.received_at) FROM telemetry_latest l WHERE l.device_id = d.id)"
LAST_SEEN = f"GREATEST(s.last_seen_at, {DATA_AT})"
"""Control records note it on the device's state; telemetry, which is far more, only on the latest values."""
DATA_FRESH = (
    f"COALESCE({DATA_AT} > now() - make_interval(secs => COALESCE((p.definition ->> 'data_fresh_s')::int, {DATA_FRESH_S})),"
    " false)"
)
"""A profile keeps only what differs from the defaults."""

STATUSES = ("registered", "active", "suspended", "decommissioned")


class Parameters:
    """The values of one statement, numbered as they come."""

    def __init__(self, *values: object) -> None:
        self.values: list[object] = list(values)

    def add(self, value: object, cast: str = "") -> str:
        """The placeholder. `cast` is a PostgreSQL type of ours, where the context does not settle it."""
        self.values.append(value)
        return f"${len(self.values)}{'::' + cast if cast else ''}"


@dataclass(frozen=True, slots=True)
class Column:
    """sql       the expression
    kind      text, uuid, time, integer, boolean: which values and operators fit
    nullable  the sort order needs to know
    choices   the only words there are
    """

    sql: str
    kind: str
    nullable: bool = False
    choices: tuple[str, ...] = ()


COLUMNS: dict[str, Column] = {
    "id": Column("d.id", "uuid"),
    "external_id": Column("d.external_id", "text"),
    "name": Column("d.name", "text"),
    "profile": Column("p.name", "text"),
    "profile_id": Column("d.profile_id", "uuid"),
    "status": Column("d.status", "text", choices=STATUSES),
    "version": Column("d.version", "integer"),
    "created_at": Column("d.created_at", "time"),
    "updated_at": Column("d.updated_at", "time"),
    "connected": Column("COALESCE(s.connected, false)", "boolean"),
    "connection_changed_at": Column("s.changed_at", "time", nullable=True),
    "last_seen_at": Column(LAST_SEEN, "time", nullable=True),
    "connection_version": Column("COALESCE(s.connection_version, 0)", "integer"),
    "data_at": Column(DATA_AT, "time", nullable=True),
    "data_fresh": Column(DATA_FRESH, "boolean"),
    "reason": Column("s.reason", "text", nullable=True),
    "client_id": Column("s.client_id", "text", nullable=True),
    "protocol": Column("s.protocol", "text", nullable=True),
    "address": Column("s.address", "text", nullable=True),
}
"""Also what a list can be sorted by, besides labels, attributes and reported attributes."""


def column_of(field: Field) -> Column:
    column = COLUMNS.get(field.name)
    if column is None:
        known = ", ".join(COLUMNS)
        raise FilterInvalid(
            f"no field “{field.name}”; there are {known}, labels.<name>, attributes.<name>, reported.<name>", field.position
        )
    return column


def compile_filter(node: Node, parameters: Parameters) -> str:
    """A condition that is true or false for every row. Raises FilterInvalid where a value does not fit its field."""
    match node:
        case Comparison():
            return _comparison(node, parameters)
        case Not(operand):
            return f"NOT ({compile_filter(operand, parameters)})"
        case And(operands):
            return " AND ".join(f"({compile_filter(o, parameters)})" for o in operands)
        case Or(operands):
            return " OR ".join(f"({compile_filter(o, parameters)})" for o in operands)


def bag_value(field: Field, parameters: Parameters) -> str:
    """The jsonb at the path, or NULL. A reported attribute is kept as {"value": ..., "observed_at": ...}."""
    if field.name == "reported":
        return f"(s.reported #> {parameters.add([field.path[0], 'value', *field.path[1:]], 'text[]')})"
    return f"(d.{field.name} #> {parameters.add(list(field.path), 'text[]')})"


def _comparison(node: Comparison, parameters: Parameters) -> str:
    if node.field.name == "labels":
        return _label(node, parameters)
    if node.field.path:
        return _bag(node, parameters)
    return _column(node, column_of(node.field), parameters)


def _column(node: Comparison, column: Column, parameters: Parameters) -> str:
    if node.operator == "exists":
        return f"{column.sql} IS NOT NULL"
    if node.operator == "like":
        if column.kind != "text":
            raise FilterInvalid(f"{node.field} is no text, so like does not fit", node.field.position)
        return _strict(f"{column.sql} ILIKE {parameters.add(_pattern(node.values[0].value))}", column)
    if column.kind in {"boolean", "uuid"} and node.operator not in {"=", "in"}:
        raise FilterInvalid(f"{node.field} has no order: use = or !=", node.field.position)
    convert = _CONVERT[column.kind]
    values = [convert(node.field, value) for value in node.values]
    for value in node.values:
        if column.choices and value.value not in column.choices:
            raise FilterInvalid(f"{node.field} is one of {', '.join(column.choices)}", value.position)
    cast = _CAST[column.kind]
    if node.operator == "in":
        return _strict(f"{column.sql} = ANY({parameters.add(values, cast + '[]')})", column)
    return _strict(f"{column.sql} {node.operator} {parameters.add(values[0], cast)}", column)


def _strict(condition: str, column: Column) -> str:
    """Never unknown, so that `not` means what it says."""
    return f"({condition}) IS TRUE" if column.nullable else condition


_CAST = {"text": "text", "uuid": "uuid", "time": "timestamptz", "integer": "bigint", "boolean": "boolean"}


def _text(field: Field, value: Value) -> str:
    if not isinstance(value.value, str):
        raise FilterInvalid(f'{field} is a text: write it in quotes, as in "north"', value.position)
    return value.value


def _uuid(field: Field, value: Value) -> UUID:
    try:
        return UUID(_text(field, value))
    except ValueError as error:
        raise FilterInvalid(f"{field} is a UUID", value.position) from error


def _time(field: Field, value: Value) -> datetime:
    try:
        at = datetime.fromisoformat(_text(field, value))
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise FilterInvalid(f'{field} is a time: "2026-01-31T12:00:00Z"', value.position) from error


def _integer(field: Field, value: Value) -> int:
    if isinstance(value.value, bool) or not isinstance(value.value, int):
        raise FilterInvalid(f"{field} is a whole number", value.position)
    return value.value


def _boolean(field: Field, value: Value) -> bool:
    if not isinstance(value.value, bool):
        raise FilterInvalid(f"{field} is true or false", value.position)
    return value.value


_CONVERT: dict[str, Callable[[Field, Value], object]] = {
    "text": _text, "uuid": _uuid, "time": _time, "integer": _integer, "boolean": _boolean,
}  # fmt: skip


def _label(node: Comparison, parameters: Parameters) -> str:
    name = node.field.path[0]
    texts = [_text(node.field, value) for value in node.values]
    if node.operator in {"=", "in"}:
        return " OR ".join(f"d.labels @> {parameters.add({name: text}, 'jsonb')}" for text in texts)
    label = f"(d.labels ->> {parameters.add(name, 'text')})"
    if node.operator == "exists":
        return f"{label} IS NOT NULL"
    if node.operator == "like":
        return f"({label} ILIKE {parameters.add(_pattern(texts[0]))}) IS TRUE"
    return f"({label} {node.operator} {parameters.add(texts[0], 'text')}) IS TRUE"


def _bag(node: Comparison, parameters: Parameters) -> str:
    if node.operator in {"=", "in"}:
        return " OR ".join(_contains(node.field, value.value, parameters) for value in node.values)
    found = bag_value(node.field, parameters)
    if node.operator == "exists":
        return f"{found} IS NOT NULL"
    value = node.values[0]
    if node.operator == "like":
        return _typed(found, "string", f"({found} #>> '{{}}') ILIKE {parameters.add(_pattern(value.value))}")
    if isinstance(value.value, str):
        return _typed(found, "string", f"({found} #>> '{{}}') {node.operator} {parameters.add(value.value, 'text')}")
    if isinstance(value.value, bool) or value.value is None:
        raise FilterInvalid("true, false and null have no order: use = or !=", value.position)
    number = parameters.add(Decimal(repr(value.value)), "numeric")
    return _typed(found, "number", f"({found} #>> '{{}}')::numeric {node.operator} {number}")


def _typed(found: str, kind: str, condition: str) -> str:
    """CASE, because AND promises no order and the cast of a text to a number would fail."""
    return f"CASE jsonb_typeof({found}) WHEN '{kind}' THEN {condition} ELSE false END"


def _contains(field: Field, value: Scalar, parameters: Parameters) -> str:
    document: object = value
    path = (field.path[0], "value", *field.path[1:]) if field.name == "reported" else field.path
    for name in reversed(path):
        document = {name: document}
    if field.name == "reported":
        return f"(s.reported @> {parameters.add(document, 'jsonb')}) IS TRUE"
    return f"d.attributes @> {parameters.add(document, 'jsonb')}"


def _pattern(value: Scalar) -> str:
    """ILIKE's own wildcards lose their meaning; ours become them."""
    text = str(value)
    for special in ("\\", "%", "_"):
        text = text.replace(special, "\\" + special)
    return text.replace("*", "%").replace("?", "_")

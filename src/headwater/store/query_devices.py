"""Which devices a query is about, as far as the scope may see them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from headwater.device.filter import find_filter
from headwater.device.filter_sql import FROM, Parameters, compile_filter
from headwater.device.visibility import device_not_found, group_condition, restriction, visible_devices
from headwater.errors import NotFound
from headwater.store.query_errors import QueryTooLarge
from headwater.tenancy.scope import TenantScope


class DeviceSelection(msgspec.Struct, frozen=True):
    """A device must fulfil all that is given; nothing given = every device of the scope.

    ids     all must exist
    group   a device group
    filter  in the language of device/filter.py
    """

    ids: tuple[UUID, ...] = ()
    group: UUID | None = None
    filter: str = ""


async def select_devices(
    connection: Any, scope: TenantScope, selection: DeviceSelection, *, devices_max: int, list_all: bool
) -> list[UUID] | None:
    """Ids in ascending order. None = every device of the tenant, where the caller can say that without a list.

    Raises NotFound, FilterInvalid, QueryTooLarge.
    """
    if selection.ids:
        await _require(connection, scope, selection.ids)
    wanted = find_filter(selection.filter)
    if not (selection.ids or selection.group or wanted or scope.group_id or list_all):
        return None
    parameters = Parameters()
    conditions = [await restriction(connection, scope, parameters)]
    if selection.ids:
        conditions.append(f"d.id = ANY({parameters.add(list(selection.ids), 'uuid[]')})")
    if selection.group:
        await _require_group(connection, scope, selection.group)
        conditions.append(await group_condition(connection, selection.group, parameters))
    if wanted is not None:
        conditions.append(compile_filter(wanted, parameters))
    where = " AND ".join(f"({condition})" for condition in conditions)
    limit = parameters.add(devices_max + 1, "bigint")
    statement = f"SELECT d.id FROM {FROM} WHERE {where} ORDER BY d.id LIMIT {limit}"  # noqa: S608  compiled, values are arguments
    rows = await connection.fetch(statement, *parameters.values)
    if len(rows) > devices_max:
        raise QueryTooLarge(
            f"this query takes at most {devices_max} devices: name devices, a group or a filter that finds fewer",
            devices_max=devices_max,
        )
    return [row["id"] for row in rows]


async def _require(connection: Any, scope: TenantScope, ids: tuple[UUID, ...]) -> None:
    missing = set(ids) - await visible_devices(connection, scope, ids)
    if missing:
        raise device_not_found(min(missing))


async def _require_group(connection: Any, scope: TenantScope, group: UUID) -> None:
    visible = scope.group_id in (None, group)
    if not visible or await connection.fetchval("SELECT 1 FROM device_group WHERE id = $1", group) is None:
        raise NotFound("there is no such group", noun="group", id=str(group))

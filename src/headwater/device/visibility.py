"""Which devices a scope may see: all of its tenant's, or those of one group.

Every statement that touches devices takes its condition from here; row-level security keeps the tenants apart beneath it.
The condition speaks of the tables that `filter_sql.FROM` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from headwater.device.filter import parse_filter
from headwater.device.filter_sql import FROM, Parameters, compile_filter
from headwater.errors import NotFound
from headwater.tenancy.errors import GroupScoped
from headwater.tenancy.scope import TenantScope

DEVICES_MAX = 1_000_000
"""Of a group resolved at once: 16 bytes each, and as many as a tenant may have by default."""


async def restriction(connection: Any, scope: TenantScope, parameters: Parameters) -> str:
    """The condition that keeps a statement to the devices that the scope may see."""
    if scope.group_id is None:
        return "TRUE"
    return await group_condition(connection, scope.group_id, parameters)


async def group_condition(connection: Any, group_id: UUID, parameters: Parameters) -> str:
    """The condition that a device belongs to the group. A group that does not exist has no devices."""
    group = await connection.fetchrow("SELECT kind, query FROM device_group WHERE id = $1", group_id)
    if group is None:
        return "FALSE"
    if group["kind"] == "query":
        return compile_filter(parse_filter(group["query"]), parameters)
    members = f"SELECT m.device_id FROM device_group_member m WHERE m.group_id = {parameters.add(group_id, 'uuid')}"  # noqa: S608  # a placeholder
    return f"d.id IN ({members})"


async def devices_in_group(connection: Any, group_id: UUID, *, limit: int = DEVICES_MAX) -> list[UUID]:
    """In the order of their ids. The connection carries the tenant."""
    parameters = Parameters()
    condition = await group_condition(connection, group_id, parameters)
    return await _identifiers(connection, condition, parameters, limit)


async def devices_matching(connection: Any, scope: TenantScope, text: str, *, limit: int = DEVICES_MAX) -> list[UUID]:
    """The devices that a filter finds, as far as the scope sees them. Raises FilterInvalid."""
    parameters = Parameters()
    condition = compile_filter(parse_filter(text), parameters)
    visible = await restriction(connection, scope, parameters)
    return await _identifiers(connection, f"({condition}) AND ({visible})", parameters, limit)


async def visible_devices(connection: Any, scope: TenantScope, device_ids: Sequence[UUID]) -> set[UUID]:
    """Those of the given devices that exist for the scope."""
    parameters = Parameters(list(device_ids))
    visible = await restriction(connection, scope, parameters)
    statement = f"SELECT d.id FROM {FROM} WHERE d.id = ANY($1::uuid[]) AND ({visible})"  # noqa: S608  # made by restriction
    rows = await connection.fetch(statement, *parameters.values)
    return {row["id"] for row in rows}


async def require_device(connection: Any, scope: TenantScope, device_id: UUID) -> None:
    """Raises NotFound where the device does not exist for the scope."""
    if not await visible_devices(connection, scope, [device_id]):
        raise device_not_found(device_id)


async def require_group(connection: Any, scope: TenantScope, group_id: UUID | None) -> None:
    """Raises NotFound where the group does not exist for the scope."""
    exists = scope.group_id in {None, group_id} and await connection.fetchval(
        "SELECT true FROM device_group WHERE id = $1", group_id
    )
    if not exists:
        raise group_not_found(group_id)


def group_not_found(group_id: UUID | None) -> NotFound:
    return NotFound("there is no such group", noun="group", id=str(group_id))


def device_not_found(device_id: UUID) -> NotFound:
    return NotFound("there is no such device", noun="device", id=str(device_id))


def require_whole_tenant(scope: TenantScope, what: str) -> None:
    """Raises GroupScoped for a scope of one group: what reaches beyond its devices is not its business."""
    if scope.group_id is not None:
        raise GroupScoped(f"a token of one group may not {what}")


async def _identifiers(connection: Any, condition: str, parameters: Parameters, limit: int) -> list[UUID]:
    bound = parameters.add(limit)
    statement = f"SELECT d.id FROM {FROM} WHERE {condition} ORDER BY d.id LIMIT {bound}"  # noqa: S608  # made by filter_sql
    return [row["id"] for row in await connection.fetch(statement, *parameters.values)]

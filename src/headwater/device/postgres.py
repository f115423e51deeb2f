"""Rows of the registry. Every function takes a connection that carries the tenant.

Statements are put together from literals of this package and conditions that `visibility` and `filter_sql` make; values
are always parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headwater.clock import to_datetime
from headwater.device.device import Device, Presence, ReportedValue, Status
from headwater.device.filter_sql import DATA_AT, DATA_FRESH, FROM, LAST_SEEN, Parameters
from headwater.device.sort import Order, Position
from headwater.tenancy.errors import TenantQuotaReached
from headwater.tenancy.quotas import Quotas, quotas_of

_COLUMNS = f"""
    d.id, d.external_id, d.name, d.profile_id, p.name AS profile, d.status, d.labels, d.attributes, d.version,
    d.created_at, d.updated_at, s.reported, s.connected, s.connection_version, s.changed_at, s.reason, s.detail,
    s.client_id, s.protocol, s.address, {LAST_SEEN} AS last_seen_at, {DATA_AT} AS data_at, {DATA_FRESH} AS data_fresh
"""

QUOTA_RETRY_S = 3600.0
"""Only deleting something or a higher quota helps, and neither happens in a hurry."""


@dataclass(frozen=True, slots=True)
class DevicePage:
    """next: where the following page starts; None = this was the last."""

    devices: list[Device]
    next: Position | None


async def find_device(connection: Any, device_id: UUID, visible: str, parameters: Parameters) -> Device | None:
    identifier = parameters.add(device_id, "uuid")
    statement = f"SELECT {_COLUMNS} FROM {FROM} WHERE d.id = {identifier} AND ({visible})"
    row = await connection.fetchrow(statement, *parameters.values)
    return None if row is None else device_of(row)


async def lock_device(connection: Any, device_id: UUID, visible: str, parameters: Parameters) -> Any:
    """The bare row, until the transaction ends; None where there is none."""
    identifier = parameters.add(device_id, "uuid")
    statement = f"SELECT d.*, s.epoch FROM {FROM} WHERE d.id = {identifier} AND ({visible}) FOR UPDATE OF d"
    return await connection.fetchrow(statement, *parameters.values)


async def fetch_page(
    connection: Any, parameters: Parameters, condition: str, order: Order, *, after: Position | None, limit: int
) -> DevicePage:
    where = condition if after is None else f"({condition}) AND ({order.after(after)})"
    columns = f"{_COLUMNS}, {order.key} AS sort_key"
    bound = parameters.add(limit + 1)
    statement = f"SELECT {columns} FROM {FROM} WHERE {where} ORDER BY {order.by} LIMIT {bound}"
    rows = await connection.fetch(statement, *parameters.values)
    page = rows[:limit]
    following = order.position(page[-1]["sort_key"], page[-1]["id"]) if len(rows) > limit else None
    return DevicePage([device_of(row) for row in page], following)


def device_of(row: Any) -> Device:
    return Device(
        id=row["id"],
        external_id=row["external_id"],
        name=row["name"],
        profile_id=row["profile_id"],
        profile=row["profile"],
        status=Status(row["status"]),
        labels=row["labels"],
        attributes=row["attributes"],
        reported={name: _reported(value) for name, value in (row["reported"] or {}).items()},
        presence=Presence(
            connected=bool(row["connected"]),
            connection_version=row["connection_version"] or 0,
            changed_at=row["changed_at"],
            reason=row["reason"] or "",
            detail=row["detail"] or "",
            last_seen_at=row["last_seen_at"],
            data_at=row["data_at"],
            data_fresh=row["data_fresh"],
            client_id=row["client_id"] or "",
            protocol=row["protocol"] or "",
            address=row["address"] or "",
        ),
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _reported(stored: dict[str, Any]) -> ReportedValue:
    observed_at = stored.get("observed_at")
    return ReportedValue(stored.get("value"), None if observed_at is None else to_datetime(observed_at))


async def lock_usage(connection: Any, tenant_id: UUID) -> tuple[Quotas, int]:
    """The tenant's quotas and how many devices it has; whoever else creates something waits for this transaction."""
    devices = await connection.fetchval("SELECT devices FROM tenant_usage WHERE tenant_id = $1 FOR UPDATE", tenant_id)
    stored = await connection.fetchval("SELECT quotas FROM tenant WHERE id = $1", tenant_id)
    return quotas_of(stored or {}), devices or 0


async def require_room(connection: Any, tenant_id: UUID, table: str, quota: str) -> None:
    """Raises TenantQuotaReached. table: `profile` or `device_group`, of which there are few enough to count."""
    quotas, _ = await lock_usage(connection, tenant_id)
    limit: int = getattr(quotas, quota)
    count = await connection.fetchval(f"SELECT count(*) FROM {table}")
    if count >= limit:
        raise TenantQuotaReached(f"the tenant's quota is {limit}", retry_after_s=QUOTA_RETRY_S, quota=quota, limit=limit)

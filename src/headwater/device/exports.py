"""Export of devices as CSV or NDJSON, streamed, in a form that `import_lines` reads back.

Read page by page, so no transaction and no connection waits for a slow reader. CSV needs its columns first: labels and
attributes that appear while the export runs are not in it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import msgspec

from headwater.database.session import Database
from headwater.device.device import Device
from headwater.device.devices import DeviceService
from headwater.device.errors import ExportTooWide
from headwater.device.filter import parse_filter
from headwater.device.filter_sql import FROM, Parameters, compile_filter
from headwater.device.import_lines import COLUMNS_MAX, cell_of_value, guarded
from headwater.device.imports import FileFormat
from headwater.device.visibility import group_condition, restriction
from headwater.tenancy.scope import TenantScope

PAGE_DEVICES = 1000
_FIXED = ("external_id", "name", "profile", "status")
_READ_ONLY = ("id", "connected", "last_seen_at", "created_at")


@dataclass(frozen=True, slots=True)
class ExportService:
    database: Database
    devices: DeviceService

    async def run(
        self, scope: TenantScope, form: FileFormat, *, q: str = "", group_id: UUID | None = None
    ) -> AsyncIterator[bytes]:
        """Raises FilterInvalid and ExportTooWide before the first byte: await the first chunk before answering."""
        scope.require("device:read")
        labels: list[str] = []
        attributes: list[str] = []
        if form is FileFormat.CSV:
            labels = await self._names(scope, "labels", q, group_id)
            attributes = await self._names(scope, "attributes", q, group_id)
            if len(labels) + len(attributes) + len(_FIXED) + len(_READ_ONLY) > COLUMNS_MAX:
                raise ExportTooWide(f"this would be a table of more than {COLUMNS_MAX} columns; export NDJSON")
            header = [*_FIXED, *(f"labels.{n}" for n in labels), *(f"attributes.{n}" for n in attributes), *_READ_ONLY]
            yield _csv([header])
        after = None
        while True:
            page = await self.devices.list(scope, q=q, after=after, limit=PAGE_DEVICES, group_id=group_id)
            if form is FileFormat.CSV:
                yield _csv([_row(device, labels, attributes) for device in page.devices])
            else:
                yield b"".join(msgspec.json.encode(_object(device)) + b"\n" for device in page.devices)
            after = page.next
            if after is None:
                return

    async def _names(self, scope: TenantScope, bag: str, q: str, group_id: UUID | None) -> list[str]:
        """bag: `labels` or `attributes`"""
        parameters = Parameters()
        conditions = [compile_filter(parse_filter(q), parameters)] if q.strip() else []
        async with self.database.tenant_session(scope.tenant_id) as connection:
            conditions.append(await restriction(connection, scope, parameters))
            if group_id is not None:
                conditions.append(await group_condition(connection, group_id, parameters))
            condition = " AND ".join(f"({c})" for c in conditions)
            source = f"{FROM} CROSS JOIN LATERAL jsonb_object_keys(d.{bag}) AS member"
            bound = parameters.add(COLUMNS_MAX + 1)
            statement = f"SELECT DISTINCT member FROM {source} WHERE {condition} ORDER BY member LIMIT {bound}"  # noqa: S608  # made by filter_sql
            return [row[0] for row in await connection.fetch(statement, *parameters.values)]


def _row(device: Device, labels: list[str], attributes: list[str]) -> list[str]:
    seen = device.presence.last_seen_at
    return [
        guarded(device.external_id),
        guarded(device.name),
        guarded(device.profile),
        device.status.value,
        *(guarded(device.labels.get(name, "")) for name in labels),
        *(cell_of_value(device.attributes[name]) if name in device.attributes else "" for name in attributes),
        str(device.id),
        "true" if device.presence.connected else "false",
        seen.isoformat() if seen else "",
        device.created_at.isoformat(),
    ]


def _object(device: Device) -> dict[str, object]:
    return {
        "external_id": device.external_id,
        "name": device.name,
        "profile": device.profile,
        "status": device.status,
        "labels": device.labels,
        "attributes": device.attributes,
        "id": device.id,
        "connected": device.presence.connected,
        "last_seen_at": device.presence.last_seen_at,
        "created_at": device.created_at,
    }


def _csv(rows: list[list[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue().encode()

"""Devices in bulk: import and export as CSV and NDJSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from litestar.response import Stream

from headwater.api.devices import DeviceFilter, InGroup
from headwater.api.errors import MediaTypeUnsupported
from headwater.api.services import APIServices, Noun
from headwater.device.device import TEXT
from headwater.device.devices import DeviceService
from headwater.device.errors import ExportTooWide, FilterInvalid, ImportInvalid
from headwater.device.exports import ExportService
from headwater.device.imports import (
    FileFormat,
    ImportCredentials,
    ImportMode,
    ImportOptions,
    ImportService,
    ImportSummary,
    LineResult,
    Outcome,
)
from headwater.stream.registry_events import NATSRegistryEvents
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.errors import GroupScoped
from headwater.tenancy.scope import TenantScope
from headwater.tenancy.text import SPACES

FILE_BYTES_MAX = 64 << 20
"""Some 500,000 plain lines. The report waits in memory until the file is read, and is at most five times as large."""

NDJSON = "application/x-ndjson"
_FORMATS = {"text/csv": FileFormat.CSV, NDJSON: FileFormat.NDJSON}
_NAME = rf"[^{SPACES},;\"\x00](?:[^,;\"\t\r\n\x00]*[^{SPACES},;\"\x00])?"
_COLUMN = rf"(?:labels|attributes)\.{_NAME}"
CSV_PATTERN = rf"^external_id(?:,name)?(?:,profile)?(?:,status)?(?:,{_COLUMN})?(?:\r?\n[^\x00]*)?$"
"""The header, for the API's description. The columns may stand in any order, and there may be more than one label or
attribute: that no column stands twice is more than a pattern can say."""
_TYPES = {FileFormat.CSV: "text/csv; charset=utf-8; header=present", FileFormat.NDJSON: NDJSON}


class ImportReport(msgspec.Struct):
    """The last line of the report."""

    summary: ImportSummary


Mode = Annotated[
    ImportMode,
    QueryParameter(
        description="What happens to a device that exists: create leaves it alone, update and upsert change it; and for one "
        "that does not: create and upsert make it, to update its line is bad."
    ),
]
Credentials = Annotated[
    ImportCredentials,
    QueryParameter(description="new: for devices made now; rotate: a further one for those that existed, too."),
]
ExportFormat = Annotated[FileFormat, QueryParameter(description="A table (`csv`) or a JSON object a line (`ndjson`).")]
DefaultProfile = Annotated[
    str, QueryParameter(max_length=200, pattern=TEXT, description="The profile of lines that name none.")
]


@post("/devices/import", operation_id="importDevices", permission="device:write", group_scoped=True, status_code=200,
      media_type=NDJSON, request_max_body_size=FILE_BYTES_MAX, body_types={"text/csv": CSV_PATTERN, NDJSON: None},
      problems=(ImportInvalid, GroupScoped, MediaTypeUnsupported))  # fmt: skip
async def import_devices(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    imports: NamedDependency[ImportService],
    *,
    mode: Mode = ImportMode.CREATE,
    credentials: Credentials = ImportCredentials.NONE,
    profile: DefaultProfile = "default",
) -> Response[bytes]:
    """Import devices from CSV (a header with at least `external_id`) or NDJSON. A bad line costs itself only.

    The report is NDJSON: a line for each bad line (`line`, `column`, `code`, `reason`), for each device that existed
    already, and for each credential made (`client_id`, `username`, `password`: shown now and never again); the last line
    is `{"summary": ...}`. What came before a failure stays: simply send the file again.
    """
    form = _FORMATS.get(request.content_type[0].lower())
    if form is None:
        raise MediaTypeUnsupported(f"send {' or '.join(_FORMATS)}")
    summary = ImportSummary()
    report: list[bytes] = []
    options = ImportOptions(form, mode, credentials, profile)
    async for result in imports.run(caller, request.stream(), options):
        summary.count(result)
        if _tells(result):
            report.append(msgspec.json.encode(result))
    report.append(msgspec.json.encode(ImportReport(summary)))
    return Response(b"\n".join(report) + b"\n", media_type=NDJSON, status_code=200)


def _tells(result: LineResult) -> bool:
    """Whether the report needs the line: that something simply worked is in the summary."""
    return bool(result.password) or result.outcome in {Outcome.BAD, Outcome.EXISTS}


@get("/devices/export", operation_id="exportDevices", permission="device:read", group_scoped=True,
     media_types={200: ("text/csv", NDJSON)}, problems=(FilterInvalid, ExportTooWide))  # fmt: skip
async def export_devices(
    caller: NamedDependency[TenantScope],
    exports: NamedDependency[ExportService],
    q: DeviceFilter = "",
    group_id: InGroup = None,
    format: ExportFormat = FileFormat.CSV,  # noqa: A002  # the name on the wire
) -> Stream:
    """Export devices in a form that the import reads back. Cells that a spreadsheet would take for a formula start with
    an apostrophe, which the import takes away again."""
    chunks = exports.run(caller, format, q=q, group_id=group_id)
    first = await anext(chunks)  # what is wrong with the request is said before the answer begins
    return Stream(
        _chain(first, chunks),
        media_type=_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="devices.{format.value}"'},
    )


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _build(services: APIServices) -> Mapping[str, object]:
    events, audit = NATSRegistryEvents(services.nats), AuditTrail()
    return {
        "imports": ImportService(services.database, events, audit),
        "exports": ExportService(services.database, DeviceService(services.database, events, audit)),
    }


NOUN = Noun(
    tag="Device files",
    description="Devices in bulk, as CSV and NDJSON.",
    handlers=(import_devices, export_devices),
    build=_build,
)

"""Devices: registry, life, search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from headwater.api import etag
from headwater.api.errors import CursorInvalid
from headwater.api.idempotency import Created, Once
from headwater.api.pagination import LIMIT_DEFAULT, Cursors, CursorText, Limit, Page
from headwater.api.parameters import DeviceInPath
from headwater.api.services import APIServices, Noun
from headwater.device.device import Device, DevicePatch, NewDevice
from headwater.device.devices import DeviceService
from headwater.device.errors import DeviceDecommissioned, DeviceInvalid, FilterInvalid, PositionInvalid
from headwater.device.filter import TEXT_CHARACTERS_MAX
from headwater.device.postgres import DevicePage
from headwater.device.sort import parse_sort
from headwater.errors import Conflict, NotFound, ReferenceUnknown, VersionConflict
from headwater.stream.registry_events import NATSRegistryEvents
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.errors import GroupScoped, TenantQuotaReached
from headwater.tenancy.scope import TenantScope

DeviceFilter = Annotated[
    str,
    QueryParameter(
        name="q",
        max_length=TEXT_CHARACTERS_MAX,
        description=(
            'Which devices: `labels.site = "north" and attributes.floor >= 3 and status in (active, suspended)`.'
            " Fields: id, external_id, name, profile, profile_id, status, version, created_at, updated_at, connected,"
            " connection_version, connection_changed_at, last_seen_at, data_at, data_fresh, reason, client_id, protocol,"
            " address, `labels.<name>`, `attributes.<path>`, `reported.<path>`."
            ' Operators: =, !=, <, <=, >, >=, in (...), like "pump*", exists; and, or, not, ( ).'
        ),
        schema_extra={"format": "headwater-filter"},
    ),
]
"""`q: DeviceFilter = ""` in a handler's parameters."""
DeviceSort = Annotated[
    str,
    QueryParameter(
        max_length=1000,
        description=(
            "A field of the filter, with `-` before it for descending: `name`, `-last_seen_at`, `labels.site`."
            " Devices without it come last. `id` is the order of creation."
        ),
        schema_extra={"format": "headwater-sort"},
    ),
]
InGroup = Annotated[UUID | None, QueryParameter(name="group_id", description="Only devices of this group.")]


def page_of(cursors: Cursors, of: str, page: DevicePage) -> Page[Device]:
    return Page(page.devices, None if page.next is None else cursors.encode(of, page.next))


@post("/devices", operation_id="createDevice", permission="device:write", idempotent=True,
      problems=(DeviceInvalid, Conflict, ReferenceUnknown, TenantQuotaReached))  # fmt: skip
async def create_device(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    data: JSONBody[NewDevice],
    devices: NamedDependency[DeviceService],
    once: NamedDependency[Once],
) -> Response[Device]:
    """Register a device. It needs a credential before it can connect."""

    async def create() -> Created:
        device = await devices.create(caller, data)
        return Created(device, location=f"/api/v1/devices/{device.id}", version=device.version)

    return await once.answer(request, caller, create)


@get("/devices", operation_id="listDevices", permission="device:read", group_scoped=True,
     problems=(FilterInvalid, PositionInvalid, CursorInvalid))  # fmt: skip
async def list_devices(
    *,
    caller: NamedDependency[TenantScope],
    devices: NamedDependency[DeviceService],
    cursors: NamedDependency[Cursors],
    q: DeviceFilter = "",
    sort: DeviceSort = "id",
    group_id: InGroup = None,
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[Device]:
    """Find and sort devices by any field, label or attribute."""
    of = f"devices\0{q}\0{sort}\0{group_id}"
    after = cursors.decode(of, cursor, list)
    page = await devices.list(caller, q=q, sort=parse_sort(sort), after=after, limit=limit, group_id=group_id)
    return page_of(cursors, of, page)


@get("/devices/{device_id:uuid}", operation_id="getDevice", permission="device:read", group_scoped=True, versioned=True,
     problems=(NotFound,))  # fmt: skip
async def get_device(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    device_id: DeviceInPath,
    devices: NamedDependency[DeviceService],
) -> Response[Device]:
    """One device with its presence and what it reported. The ETag is of what people set: presence does not change it."""
    device = await devices.get(caller, device_id)
    return Response(device, headers={"ETag": etag.tag(device.version), "Cache-Control": "private, no-cache"})


@patch("/devices/{device_id:uuid}", operation_id="updateDevice", permission="device:write", group_scoped=True,
       versioned=True,
       problems=(NotFound, DeviceInvalid, Conflict, ReferenceUnknown, DeviceDecommissioned, VersionConflict,
                 GroupScoped))  # fmt: skip
async def update_device(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    device_id: DeviceInPath,
    data: JSONBody[DevicePatch],
    devices: NamedDependency[DeviceService],
) -> Response[Device]:
    """Change a device. Labels and attributes are merged: null removes one."""
    device = await devices.update(caller, device_id, data, version=etag.expected_version(request))
    return etag.respond(request, device, device.version)


@post("/devices/{device_id:uuid}/suspend", operation_id="suspendDevice", permission="device:write", group_scoped=True,
      versioned=True, status_code=200, problems=(NotFound, DeviceDecommissioned, VersionConflict))  # fmt: skip
async def suspend_device(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    device_id: DeviceInPath,
    devices: NamedDependency[DeviceService],
) -> Response[Device]:
    """End its connections and refuse new ones, until it is resumed."""
    device = await devices.suspend(caller, device_id, version=etag.expected_version(request))
    return etag.respond(request, device, device.version)


@post("/devices/{device_id:uuid}/resume", operation_id="resumeDevice", permission="device:write", group_scoped=True,
      versioned=True, status_code=200, problems=(NotFound, DeviceDecommissioned, VersionConflict))  # fmt: skip
async def resume_device(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    device_id: DeviceInPath,
    devices: NamedDependency[DeviceService],
) -> Response[Device]:
    """Let a suspended device connect again."""
    device = await devices.resume(caller, device_id, version=etag.expected_version(request))
    return etag.respond(request, device, device.version)


@post("/devices/{device_id:uuid}/decommission", operation_id="decommissionDevice", permission="device:delete",
      group_scoped=True, versioned=True, status_code=200, problems=(NotFound, VersionConflict))  # fmt: skip
async def decommission_device(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    device_id: DeviceInPath,
    devices: NamedDependency[DeviceService],
) -> Response[Device]:
    """Retire a device for good: its credentials are revoked, what it said stays."""
    device = await devices.decommission(caller, device_id, version=etag.expected_version(request))
    return etag.respond(request, device, device.version)


@delete("/devices/{device_id:uuid}", operation_id="deleteDevice", permission="device:delete", group_scoped=True,
        versioned=True, problems=(NotFound, VersionConflict))  # fmt: skip
async def delete_device(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    device_id: DeviceInPath,
    devices: NamedDependency[DeviceService],
) -> None:
    """Delete a device, its credentials and memberships; its telemetry follows."""
    await devices.delete(caller, device_id, version=etag.expected_version(request))


def _build(services: APIServices) -> Mapping[str, object]:
    return {"devices": DeviceService(services.database, NATSRegistryEvents(services.nats), AuditTrail())}


NOUN = Noun(
    tag="Devices",
    description="The things with a credential, as people know them.",
    handlers=(
        create_device,
        list_devices,
        get_device,
        update_device,
        suspend_device,
        resume_device,
        decommission_device,
        delete_device,
    ),
    build=_build,
)

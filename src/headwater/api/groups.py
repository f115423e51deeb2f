"""Groups of devices, static and by query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import UNSET, Meta, UnsetType

from headwater.api import etag
from headwater.api.devices import DeviceFilter, DeviceSort, page_of
from headwater.api.errors import CursorInvalid
from headwater.api.idempotency import Created, Once
from headwater.api.pagination import LIMIT_DEFAULT, Cursors, CursorText, Limit, Page
from headwater.api.parameters import GroupInPath
from headwater.api.services import APIServices, Noun
from headwater.device.device import TEXT, Device
from headwater.device.devices import DeviceService
from headwater.device.errors import DeviceInvalid, FilterInvalid, GroupInUse, GroupInvalid, PositionInvalid
from headwater.device.filter import TEXT_CHARACTERS_MAX
from headwater.device.groups import MEMBERS_AT_ONCE_MAX, Group, GroupService, MembersChanged
from headwater.device.sort import parse_sort
from headwater.errors import Conflict, NotFound, VersionConflict
from headwater.stream.registry_events import NATSRegistryEvents
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.errors import TenantQuotaReached
from headwater.tenancy.scope import TenantScope
from headwater.tenancy.text import TRIMMED

_LIST = "groups"

GroupName = Annotated[str, Meta(min_length=1, max_length=200, pattern=TRIMMED)]
Query = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=TEXT_CHARACTERS_MAX,
        description="The filter of `listDevices`; the members are what it finds.",
        examples=['labels.site = "north"'],
        extra_json_schema={"format": "headwater-filter"},
    ),
]
Description = Annotated[str, Meta(max_length=2000, pattern=TEXT)]


class NewGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With a query its members are what the query finds; without, they are listed. That is for life."""

    name: GroupName
    query: Query | None = None
    description: Description = ""


class GroupPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is absent stays."""

    name: GroupName | UnsetType = UNSET
    query: Query | UnsetType = UNSET
    description: Description | UnsetType = UNSET


class Members(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device_ids: Annotated[list[UUID], Meta(max_length=MEMBERS_AT_ONCE_MAX)]


@post("/groups", operation_id="createGroup", permission="group:write", idempotent=True,
      problems=(GroupInvalid, DeviceInvalid, FilterInvalid, Conflict, TenantQuotaReached))  # fmt: skip
async def create_group(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    data: JSONBody[NewGroup],
    groups: NamedDependency[GroupService],
    once: NamedDependency[Once],
) -> Response[Group]:
    """Make a group of devices."""

    async def create() -> Created:
        group = await groups.create(caller, data.name, query=data.query, description=data.description)
        return Created(group, location=f"/api/v1/groups/{group.id}", version=group.version)

    return await once.answer(request, caller, create)


@get("/groups", operation_id="listGroups", permission="group:read", group_scoped=True)
async def list_groups(
    caller: NamedDependency[TenantScope],
    groups: NamedDependency[GroupService],
    cursors: NamedDependency[Cursors],
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[Group]:
    """All groups, by name."""
    after = cursors.decode(_LIST, cursor, tuple[str])
    rows = await groups.list(caller, after=after[0] if after else None, limit=limit + 1)
    return cursors.page(_LIST, rows, limit, lambda group: (group.name,))


@get("/groups/{group_id:uuid}", operation_id="getGroup", permission="group:read", group_scoped=True, versioned=True,
     problems=(NotFound,))  # fmt: skip
async def get_group(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    group_id: GroupInPath,
    groups: NamedDependency[GroupService],
) -> Response[Group]:
    """One group."""
    group = await groups.get(caller, group_id)
    return etag.respond(request, group, group.version)


@patch("/groups/{group_id:uuid}", operation_id="updateGroup", permission="group:write", versioned=True,
       problems=(NotFound, GroupInvalid, DeviceInvalid, FilterInvalid, Conflict, VersionConflict))  # fmt: skip
async def update_group(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    group_id: GroupInPath,
    data: JSONBody[GroupPatch],
    groups: NamedDependency[GroupService],
) -> Response[Group]:
    """Change a group's name, description or query."""
    group = await groups.update(
        caller,
        group_id,
        name=None if data.name is UNSET else data.name,
        query=None if data.query is UNSET else data.query,
        description=None if data.description is UNSET else data.description,
        version=etag.expected_version(request),
    )
    return etag.respond(request, group, group.version)


@delete("/groups/{group_id:uuid}", operation_id="deleteGroup", permission="group:delete", versioned=True,
        problems=(NotFound, GroupInUse, VersionConflict))  # fmt: skip
async def delete_group(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    group_id: GroupInPath,
    groups: NamedDependency[GroupService],
) -> None:
    """Delete a group that no token is limited to. Its devices stay."""
    await groups.delete(caller, group_id, version=etag.expected_version(request))


@get("/groups/{group_id:uuid}/devices", operation_id="listGroupDevices", permission="device:read", group_scoped=True,
     problems=(NotFound, FilterInvalid, PositionInvalid, CursorInvalid))  # fmt: skip
async def list_group_devices(
    *,
    caller: NamedDependency[TenantScope],
    group_id: GroupInPath,
    devices: NamedDependency[DeviceService],
    cursors: NamedDependency[Cursors],
    q: DeviceFilter = "",
    sort: DeviceSort = "id",
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[Device]:
    """The devices of a group, which a filter narrows further."""
    of = f"group\0{q}\0{sort}\0{group_id}"
    after = cursors.decode(of, cursor, list)
    page = await devices.list(
        caller,
        q=q,
        sort=parse_sort(sort),
        after=after,
        limit=limit,
        group_id=group_id,
        known_group=True,
    )
    return page_of(cursors, of, page)


@post("/groups/{group_id:uuid}/devices/add", operation_id="addGroupDevices", permission="group:write", status_code=200,
      problems=(NotFound, Conflict))  # fmt: skip
async def add_group_devices(
    caller: NamedDependency[TenantScope],
    group_id: GroupInPath,
    data: JSONBody[Members],
    groups: NamedDependency[GroupService],
) -> MembersChanged:
    """Add devices to a static group. Those that are in it already stay; those that do not exist are named."""
    return await groups.add_members(caller, group_id, data.device_ids)


@post("/groups/{group_id:uuid}/devices/remove", operation_id="removeGroupDevices", permission="group:write",
      status_code=200, problems=(NotFound, Conflict))  # fmt: skip
async def remove_group_devices(
    caller: NamedDependency[TenantScope],
    group_id: GroupInPath,
    data: JSONBody[Members],
    groups: NamedDependency[GroupService],
) -> MembersChanged:
    """Take devices out of a static group."""
    return await groups.remove_members(caller, group_id, data.device_ids)


def _build(services: APIServices) -> Mapping[str, object]:
    events, audit = NATSRegistryEvents(services.nats), AuditTrail()
    return {
        "groups": GroupService(services.database, events, audit),
        "devices": DeviceService(services.database, events, audit),
    }


NOUN = Noun(
    tag="Groups",
    description="Devices taken together: listed one by one, or found by a query.",
    handlers=(
        create_group,
        list_groups,
        get_group,
        update_group,
        delete_group,
        list_group_devices,
        add_group_devices,
        remove_group_devices,
    ),
    build=_build,
)

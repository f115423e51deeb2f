"""Timelines of devices, and attempts to connect that came to nothing: why can my device not connect?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from headwater.api.pagination import LIMIT_DEFAULT, Cursors, CursorText, Limit, Page
from headwater.api.parameters import DeviceInPath, Since, Until
from headwater.api.services import APIServices, Noun
from headwater.errors import NotFound
from headwater.store.timeline_query import Attempt, DeviceAttempt, Place, TimelineFilter, Timelines
from headwater.tenancy.scope import TenantScope
from headwater.tenancy.text import NO_NUL

_Event = Annotated[
    str,
    QueryParameter(
        max_length=100,
        pattern=NO_NUL,
        description="Only events that begin with it: `authentication.`, `topic.denied`, `disconnected`.",
    ),
]
_Address = Annotated[str, QueryParameter(max_length=100, pattern=NO_NUL, description="Only from this address.")]


@get("/devices/{device_id:uuid}/timeline", operation_id="getDeviceTimeline", permission="device:read", group_scoped=True,
     problems=(NotFound,))  # fmt: skip
async def get_device_timeline(
    *,
    caller: NamedDependency[TenantScope],
    device_id: DeviceInPath,
    timelines: NamedDependency[Timelines],
    cursors: NamedDependency[Cursors],
    event: _Event = "",
    since: Since = None,
    until: Until = None,
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[DeviceAttempt]:
    """What happened to one device, newest first: attempts to connect, ends of connections, denied topics, rejected messages.
    What happens all the time becomes an entry with a count, once a minute. The newest 1,000 are kept, for 30 days unless the
    platform's operator has said otherwise."""
    wanted = TimelineFilter(event, since, until)
    of = f"timeline {device_id} {wanted}"
    rows = await timelines.of_device(caller, device_id, wanted, cursors.decode(of, cursor, Place), limit)
    return cursors.page(of, rows, limit, _place)


@get("/connection-attempts", operation_id="listConnectionAttempts", permission="device:read", group_scoped=True)
async def list_connection_attempts(
    *,
    caller: NamedDependency[TenantScope],
    timelines: NamedDependency[Timelines],
    cursors: NamedDependency[Cursors],
    event: _Event = "",
    address: _Address = "",
    since: Since = None,
    until: Until = None,
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[DeviceAttempt]:
    """Attempts to connect as one of your devices that came to nothing, newest first. One that names none of them, or is
    refused before it names anybody, is shown to the operator of the platform only."""
    wanted = TimelineFilter(event, since, until, address)
    of = f"attempts {wanted}"
    rows = await timelines.failed(caller, wanted, cursors.decode(of, cursor, Place), limit)
    return cursors.page(of, rows, limit, _place)


@get("/operator/connection-attempts", operation_id="listStrangersAttempts", operator=True)
async def list_strangers_attempts(
    *,
    timelines: NamedDependency[Timelines],
    cursors: NamedDependency[Cursors],
    event: _Event = "",
    address: _Address = "",
    since: Since = None,
    until: Until = None,
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[Attempt]:
    """Attempts to connect of whom nobody knows, newest first: refused before authentication (TLS, PROXY header, no CONNECT),
    or with a credential and names that are nobody's. Those that name a known device are in its tenant's list."""
    wanted = TimelineFilter(event, since, until, address)
    of = f"strangers {wanted}"
    rows = await timelines.of_strangers(wanted, cursors.decode(of, cursor, Place), limit)
    return cursors.page(of, rows, limit, _place)


def _place(entry: Attempt) -> Place:
    return Place(entry.at, entry.id)


def _build(services: APIServices) -> Mapping[str, object]:
    return {"timelines": Timelines(services.database, services.operator_pool)}


NOUN = Noun(
    tag="Timeline",
    description="What happened to a device at the door and on its connections.",
    handlers=(get_device_timeline, list_connection_attempts, list_strangers_attempts),
    build=_build,
)

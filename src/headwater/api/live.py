"""Watching live, over a WebSocket or as server-sent events. What both say: docs/reference/live.md."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, WebSocket, get, post, websocket
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from litestar.response import Stream

from headwater.api import auth, problems
from headwater.api.context import request_id
from headwater.api.live_access import CHECK_S, TICKET_LENGTH_MAX, Access, Ticket, Tickets
from headwater.api.live_devices import RegistryFinder, last_id_of, wanted_of
from headwater.api.live_socket import Conversation, Subscribed
from headwater.api.services import APIServices, Built, Noun
from headwater.device.errors import FilterInvalid
from headwater.device.filter import TEXT_CHARACTERS_MAX
from headwater.errors import DomainError, Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from headwater.live.errors import SelectionTooWide, TicketInvalid, TooManyWatchers
from headwater.live.event import EventKind
from headwater.live.hub import Hub
from headwater.live.selection import Subscriber
from headwater.tenancy.errors import NotAMember, PersonSuspended, TenantSuspended, TokenExpired, TokenRevoked
from headwater.tenancy.identification import Identification
from headwater.tenancy.scope import TenantScope

QUIET_S = 15.0
"""A comment so that a proxy does not take a quiet stream for a dead one; most wait a minute."""
RETRY_MS = 2_000
"""How long an EventSource waits before it connects again."""
NAMED_MAX = 100
"""Devices, kinds or metrics named in the URL, which servers and proxies bound."""
_UUID = "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"


def _names(what: str, pattern: str) -> Any:
    """A list in one parameter."""
    listed = f"^(?:{pattern}(?:,{pattern}){{0,{NAMED_MAX - 1}}})?$"
    return QueryParameter(pattern=listed, description=f"{what}, separated by commas, {NAMED_MAX} at most. Default: all.")


DeviceNames = Annotated[str | None, _names("Only these devices, by id", _UUID)]
KindNames = Annotated[str | None, _names("Only these kinds of events", f"(?:{'|'.join(EventKind)})")]
MetricNames = Annotated[str | None, _names("Of telemetry, only these metrics", r"[^,\x00]{1,200}")]


@dataclass(frozen=True, slots=True)
class LiveService:
    """hub: None where only the API's description is wanted"""

    hub: Hub | None
    tickets: Tickets

    @property
    def running_hub(self) -> Hub:
        if self.hub is None:
            raise Unavailable("there is no NATS here")
        return self.hub


@post("/live/tickets", operation_id="createLiveTicket", permission="telemetry:read", group_scoped=True)
async def create_ticket(
    request: Request[Any, Any, Any], caller: NamedDependency[TenantScope], live: NamedDependency[LiveService]
) -> Ticket:
    """A ticket for one connection to the event stream, for a browser's EventSource, which cannot send headers."""
    return live.tickets.issue(auth.credential_of(request))


@get("/live/events", operation_id="watchEvents", public=True, security=[{"bearer": []}, {}], media_type="text/event-stream",
     problems=(Unauthenticated, TicketInvalid, TokenExpired, TokenRevoked, PersonSuspended, TenantSuspended, Forbidden,
               NotAMember, NotFound, FilterInvalid, SelectionTooWide, TooManyWatchers))  # fmt: skip
async def watch_events(
    request: Request[Any, Any, Any],
    live: NamedDependency[LiveService],
    identification: NamedDependency[Identification],
    *,
    devices: DeviceNames = None,
    group: Annotated[UUID | None, QueryParameter(description="Only devices of this group.")] = None,
    q: Annotated[
        str | None,
        QueryParameter(
            max_length=TEXT_CHARACTERS_MAX,
            description="Only devices that this filter finds, as in the list of devices.",
            schema_extra={"format": "headwater-filter"},
        ),
    ] = None,
    kinds: KindNames = None,
    metrics: MetricNames = None,
    ticket: Annotated[
        str | None,
        QueryParameter(
            max_length=TICKET_LENGTH_MAX,
            pattern=r"^[A-Za-z0-9_.-]*$",
            description="From `createLiveTicket`, good once: in place of an Authorization header.",
        ),
    ] = None,
    last_event_id: Annotated[
        str | None,
        QueryParameter(
            pattern="^(?:[0-9]{1,19}-[0-9]{1,9})?$",
            description="The last event seen, to go on behind it: in place of a Last-Event-ID header.",
        ),
    ] = None,
) -> Stream:
    """Server-sent events, from now on or behind the last event seen. Needs `telemetry:read`, by header or ticket."""
    wanted = wanted_of(_each(devices, UUID, "devices"), group, q)
    wanted_kinds = _each(kinds, EventKind, "kinds") or list(EventKind)
    last_id = last_id_of(request.headers.get("last-event-id") or last_event_id)
    credential = await live.tickets.redeem(ticket) if ticket else auth.credential_of(request)
    access = Access(identification, auth.address_of(request), credential)
    identity = await access.admit(asyncio.get_running_loop().time())
    assert identity.scope is not None  # admitted
    assert identity.quotas is not None
    hub = live.running_hub
    subscriber = await hub.attach(
        identity.scope,
        wanted,
        wanted_kinds,
        frozenset(_each(metrics, str, "metrics")) or None,
        clients_max=identity.quotas.live_clients_max,
        last_id=last_id,
    )
    place = hub.position(identity.scope.tenant_id)
    first = msgspec.json.encode(Subscribed(None if place is None else str(place)))
    events = _events(hub, subscriber, access, first, str(request_id(request.scope)))
    return Stream(events, media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"})


async def _events(
    hub: Hub, subscriber: Subscriber, access: Access, first: bytes, instance: str
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    taking: asyncio.Task[list[bytes]] | None = None
    try:
        yield b"retry: %d\n" % RETRY_MS + _frame(first)
        while True:
            taking = taking or loop.create_task(subscriber.mailbox.take())
            await asyncio.wait((taking,), timeout=QUIET_S)
            if loop.time() > access.confirmed_at + CHECK_S:
                await access.check(loop.time())
            if taking.done():
                events, taking = taking.result(), None
                yield b"".join(_frame(event) for event in events)
            else:
                yield b": still here\n\n"
    except DomainError as error:
        # The status line has left long ago: what went wrong is the last event.
        problem = problems.problem_of(error, f"urn:uuid:{instance}")
        yield _frame(msgspec.json.encode({"type": "error", "problem": problem}))
    finally:
        if taking is not None:
            taking.cancel()
        await hub.detach(subscriber)


class _Id(msgspec.Struct):
    id: str | None = None


_id_decoder = msgspec.json.Decoder(_Id)


def _frame(event: bytes) -> bytes:
    event_id = _id_decoder.decode(event).id
    return b"data: %b\n\n" % event if event_id is None else b"id: %b\ndata: %b\n\n" % (event_id.encode(), event)


def _each(text: str | None, kind: Any, parameter: str) -> list[Any]:
    try:
        return [kind(part.strip()) for part in (text or "").split(",") if part.strip()]
    except ValueError as error:
        message = f"not a {getattr(kind, '__name__', '')}"
        raise Invalid(
            "a parameter cannot be read", errors=[{"in": "query", "name": parameter, "message": message}]
        ) from error


@websocket("/live", public=True)
async def watch_socket(
    socket: WebSocket[Any, Any, Any], live: NamedDependency[LiveService], identification: NamedDependency[Identification]
) -> None:
    """Needs `telemetry:read`, by header or with the first message."""
    await Conversation(socket, live.running_hub, identification).run()


def _build(services: APIServices) -> Mapping[str, object]:
    hub = None
    if services.nats is not None:
        hub = Hub(services.nats, RegistryFinder(services.database), services.topology)
    return {"live": LiveService(hub, Tickets(services.secret_key, services.jetstream, services.clock))}


@asynccontextmanager
async def _running(built: Built) -> AsyncIterator[None]:
    live: LiveService = built["live"]
    if live.hub is None:
        yield
        return
    await live.hub.open()
    try:
        yield
    finally:
        await live.hub.close()


NOUN = Noun(
    tag="Live",
    description="Telemetry, attributes, events and presence, within milliseconds.",
    handlers=(create_ticket, watch_events, watch_socket),
    build=_build,
    lifespan=_running,
)

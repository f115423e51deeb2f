"""Who works for the tenant: members, invitations, forgotten passwords."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import Meta

from headwater.api import etag
from headwater.api.auth import address_of
from headwater.api.idempotency import Created, Once
from headwater.api.pagination import LIMIT_DEFAULT, Cursors, CursorText, Limit, Page
from headwater.api.parameters import InvitationInPath, PersonInPath
from headwater.api.services import APIServices, Noun
from headwater.api.sessions import session_service
from headwater.errors import NotFound, VersionConflict
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.errors import (
    AlreadyMember,
    CredentialsWrong,
    LastOwner,
    OneTimeTokenInvalid,
    PermissionNotHeld,
    PersonShared,
    PersonSuspended,
    TenantQuotaReached,
    TenantSuspended,
    TooManyAttempts,
)
from headwater.tenancy.identity import Identity
from headwater.tenancy.people import (
    Acceptance,
    Invitation,
    Member,
    NewInvitation,
    NewPassword,
    NewRole,
    PasswordReset,
    PeopleService,
)
from headwater.tenancy.scope import TenantScope
from headwater.tenancy.sessions import Session

_PEOPLE = "people"
_INVITATIONS = "invitations"


class CreatedInvitation(Invitation, frozen=True):
    """token: to be handed over; shown now and never again; null with `secret_omitted` where an answer is repeated."""

    token: Annotated[str, Meta(examples=["hwi_0192f0c1b1e07d0a8f6f1c2d3e4f5a6b_..."])] | None
    secret_omitted: bool = False


@get("/people", operation_id="listPeople", permission="person:read")
async def list_people(
    caller: NamedDependency[TenantScope],
    people: NamedDependency[PeopleService],
    cursors: NamedDependency[Cursors],
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[Member]:
    """Everybody who works for the tenant."""
    after = cursors.decode(_PEOPLE, cursor, tuple[UUID])
    rows = await people.page(caller, after[0] if after else None, limit)
    return cursors.page(_PEOPLE, rows, limit, lambda member: (member.id,))


@get("/people/{person_id:uuid}", operation_id="getPerson", permission="person:read", versioned=True, problems=(NotFound,))
async def get_person(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    person_id: PersonInPath,
    people: NamedDependency[PeopleService],
) -> Response[Member]:
    """One of them."""
    member = await people.get(caller, person_id)
    return etag.respond(request, member, member.version)


@patch("/people/{person_id:uuid}", operation_id="changeRole", permission="person:write", versioned=True,
       problems=(NotFound, VersionConflict, PermissionNotHeld, LastOwner))  # fmt: skip
async def change_role(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    person_id: PersonInPath,
    data: JSONBody[NewRole],
    people: NamedDependency[PeopleService],
) -> Response[Member]:
    """Give a person another role, at once. Tokens that he or she made beyond the new role end."""
    member = await people.change_role(caller, person_id, data.role, etag.expected_version(request))
    return etag.respond(request, member, member.version)


@delete("/people/{person_id:uuid}", operation_id="removePerson", permission="person:write", versioned=True,
        problems=(NotFound, VersionConflict, PermissionNotHeld, LastOwner))  # fmt: skip
async def remove_person(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    person_id: PersonInPath,
    people: NamedDependency[PeopleService],
) -> None:
    """The person does not work for the tenant any more, at once; tokens that he or she made end."""
    await people.remove(caller, person_id, etag.expected_version(request))


@post("/people/{person_id:uuid}/password-reset", operation_id="createPasswordReset", permission="person:write",
      status_code=201, problems=(NotFound, PermissionNotHeld, PersonShared))  # fmt: skip
async def create_password_reset(
    caller: NamedDependency[TenantScope], person_id: PersonInPath, people: NamedDependency[PeopleService]
) -> PasswordReset:
    """A token, shown once, with which the person sets a new password. Replaces an earlier one."""
    return await people.reset_password(caller, person_id)


@post("/invitations", operation_id="createInvitation", permission="person:write", idempotent=True,
      problems=(PermissionNotHeld, AlreadyMember, TenantQuotaReached))  # fmt: skip
async def create_invitation(
    *,
    request: Request[Any, Any, Any],
    identity: NamedDependency[Identity],
    caller: NamedDependency[TenantScope],
    data: JSONBody[NewInvitation],
    people: NamedDependency[PeopleService],
    once: NamedDependency[Once],
) -> Response[CreatedInvitation]:
    """Invite somebody. Hand the token over yourself: whoever holds it joins under this address."""

    async def create() -> Created:
        assert identity.quotas is not None  # the gate lets nobody in here without a tenant
        invitation, secret = await people.invite(caller, identity.quotas, data)
        shown = msgspec.structs.asdict(invitation)
        return Created(
            CreatedInvitation(**shown, token=secret.text),
            location=f"/api/v1/invitations/{invitation.id}",
            secret_free=CreatedInvitation(**shown, token=None, secret_omitted=True),
        )

    return await once.answer(request, caller, create)


@get("/invitations", operation_id="listInvitations", permission="person:read")
async def list_invitations(
    caller: NamedDependency[TenantScope],
    people: NamedDependency[PeopleService],
    cursors: NamedDependency[Cursors],
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[Invitation]:
    """Invitations that nobody has accepted yet, newest first."""
    after = cursors.decode(_INVITATIONS, cursor, tuple[UUID])
    rows = await people.invitations(caller, after[0] if after else None, limit)
    return cursors.page(_INVITATIONS, rows, limit, lambda invitation: (invitation.id,))


@get("/invitations/{invitation_id:uuid}", operation_id="getInvitation", permission="person:read", problems=(NotFound,))
async def get_invitation(
    caller: NamedDependency[TenantScope], invitation_id: InvitationInPath, people: NamedDependency[PeopleService]
) -> Invitation:
    """One of them."""
    return await people.invitation(caller, invitation_id)


@delete("/invitations/{invitation_id:uuid}", operation_id="withdrawInvitation", permission="person:write",
        problems=(NotFound,))  # fmt: skip
async def withdraw_invitation(
    caller: NamedDependency[TenantScope], invitation_id: InvitationInPath, people: NamedDependency[PeopleService]
) -> None:
    """Its token is of no use any more."""
    await people.withdraw(caller, invitation_id)


@post("/auth/accept-invitation", operation_id="acceptInvitation", public=True, status_code=200,
      problems=(OneTimeTokenInvalid, CredentialsWrong, TooManyAttempts, PersonSuspended, TenantSuspended, AlreadyMember),
      )  # fmt: skip
async def accept_invitation(
    request: Request[Any, Any, Any], data: JSONBody[Acceptance], people: NamedDependency[PeopleService]
) -> Session:
    """Join a tenant and be logged in: with your own password, or, the first time, with the one that you choose now."""
    return await people.accept(data, address_of(request))


@post("/auth/set-password", operation_id="setPassword", public=True, status_code=204,
      problems=(OneTimeTokenInvalid, PersonShared))  # fmt: skip
async def set_password(
    request: Request[Any, Any, Any], data: JSONBody[NewPassword], people: NamedDependency[PeopleService]
) -> None:
    """A new password by a reset's token, once. Every session of the person ends."""
    await people.set_password(data, address_of(request))


def _build(services: APIServices) -> Mapping[str, object]:
    people = PeopleService(services.database, services.passwords, session_service(services), AuditTrail(), services.clock)
    return {"people": people}


NOUN = Noun(
    tag="People",
    description="Who works for the tenant, in which role. Joining goes by invitation.",
    handlers=(
        list_people, get_person, change_role, remove_person, create_password_reset, create_invitation, list_invitations,
        get_invitation, withdraw_invitation, accept_invitation, set_password,
    ),
    build=_build,
)  # fmt: skip

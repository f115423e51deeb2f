"""Device profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import UNSET, Meta, UnsetType

from headwater.api import etag
from headwater.api.idempotency import Created, Once
from headwater.api.pagination import LIMIT_DEFAULT, Cursors, CursorText, Limit, Page
from headwater.api.parameters import ProfileInPath
from headwater.api.services import APIServices, Noun
from headwater.device.errors import ProfileContradictory, ProfileInUse, ProfileInvalid
from headwater.device.profile import ProfileDefinition
from headwater.device.profiles import Profile, ProfileService
from headwater.errors import Conflict, NotFound, VersionConflict
from headwater.stream.registry_events import NATSRegistryEvents
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.errors import TenantQuotaReached
from headwater.tenancy.scope import TenantScope
from headwater.tenancy.text import TRIMMED

_LIST = "profiles"

ProfileName = Annotated[str, Meta(min_length=1, max_length=200, pattern=TRIMMED)]


class NewProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """name is unique in the tenant."""

    name: ProfileName
    definition: ProfileDefinition = ProfileDefinition()


class ProfilePatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is absent stays. A definition replaces the whole definition."""

    name: ProfileName | UnsetType = UNSET
    definition: ProfileDefinition | UnsetType = UNSET


@post("/profiles", operation_id="createProfile", permission="profile:write", idempotent=True,
      problems=(ProfileInvalid, ProfileContradictory, Conflict, TenantQuotaReached))  # fmt: skip
async def create_profile(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    data: JSONBody[NewProfile],
    profiles: NamedDependency[ProfileService],
    once: NamedDependency[Once],
) -> Response[Profile]:
    """Declare a model of device: its metrics, how its payloads are read, which topics it may use."""

    async def create() -> Created:
        profile = await profiles.create(caller, data.name, data.definition)
        return Created(profile, location=f"/api/v1/profiles/{profile.id}", version=profile.version)

    return await once.answer(request, caller, create)


@get("/profiles", operation_id="listProfiles", permission="profile:read", group_scoped=True)
async def list_profiles(
    caller: NamedDependency[TenantScope],
    profiles: NamedDependency[ProfileService],
    cursors: NamedDependency[Cursors],
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[Profile]:
    """All profiles, by name."""
    after = cursors.decode(_LIST, cursor, tuple[str])
    rows = await profiles.list(caller, after=after[0] if after else None, limit=limit + 1)
    return cursors.page(_LIST, rows, limit, lambda profile: (profile.name,))


@get("/profiles/{profile_id:uuid}", operation_id="getProfile", permission="profile:read", group_scoped=True, versioned=True,
     problems=(NotFound,))  # fmt: skip
async def get_profile(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    profile_id: ProfileInPath,
    profiles: NamedDependency[ProfileService],
) -> Response[Profile]:
    """One profile."""
    profile = await profiles.get(caller, profile_id)
    return etag.respond(request, profile, profile.version)


@patch("/profiles/{profile_id:uuid}", operation_id="updateProfile", permission="profile:write", versioned=True,
       problems=(NotFound, ProfileInvalid, ProfileContradictory, Conflict, VersionConflict))  # fmt: skip
async def update_profile(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    profile_id: ProfileInPath,
    data: JSONBody[ProfilePatch],
    profiles: NamedDependency[ProfileService],
) -> Response[Profile]:
    """Change a profile. Its devices follow at once; what they have sent stays as it was read."""
    profile = await profiles.update(
        caller,
        profile_id,
        name=None if data.name is UNSET else data.name,
        definition=None if data.definition is UNSET else data.definition,
        version=etag.expected_version(request),
    )
    return etag.respond(request, profile, profile.version)


@delete("/profiles/{profile_id:uuid}", operation_id="deleteProfile", permission="profile:delete", versioned=True,
        problems=(NotFound, Conflict, ProfileInUse, VersionConflict))  # fmt: skip
async def delete_profile(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    profile_id: ProfileInPath,
    profiles: NamedDependency[ProfileService],
) -> None:
    """Delete a profile that no device has."""
    await profiles.delete(caller, profile_id, version=etag.expected_version(request))


def _build(services: APIServices) -> Mapping[str, object]:
    return {"profiles": ProfileService(services.database, NATSRegistryEvents(services.nats), AuditTrail())}


NOUN = Noun(
    tag="Profiles",
    description="What each model of device can do.",
    handlers=(create_profile, list_profiles, get_profile, update_profile, delete_profile),
    build=_build,
)

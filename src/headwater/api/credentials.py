"""Credentials of devices."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import Meta

from headwater.api.idempotency import Created, Once
from headwater.api.parameters import CredentialInPath, DeviceInPath
from headwater.api.services import APIServices, Noun
from headwater.device.credentials import Credential, CredentialService
from headwater.device.errors import CredentialLimit, DeviceDecommissioned
from headwater.errors import Conflict, NotFound
from headwater.stream.registry_events import NATSRegistryEvents
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.scope import TenantScope


class NewCredential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """expires_at: RFC 3339; absent or null = works until it is revoked"""

    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class CredentialList(msgspec.Struct, frozen=True):
    """Newest first; all there are."""

    items: list[Credential]


class CreatedCredential(msgspec.Struct, frozen=True):
    """What to write into the device. password: shown now and never again; null with `secret_omitted` where an
    Idempotency-Key repeats the answer."""

    id: UUID
    kind: str
    created_at: datetime
    expires_at: datetime | None
    client_id: str
    username: str
    password: str | None
    secret_omitted: bool = False

    def __repr__(self) -> str:
        return f"CreatedCredential(id={self.id})"


@post("/devices/{device_id:uuid}/credentials", operation_id="createCredential", permission="credential:write",
      group_scoped=True, idempotent=True,
      problems=(NotFound, Conflict, DeviceDecommissioned, CredentialLimit))  # fmt: skip
async def create_credential(
    *,
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    device_id: DeviceInPath,
    data: JSONBody[NewCredential],
    credentials: NamedDependency[CredentialService],
    once: NamedDependency[Once],
) -> Response[CreatedCredential]:
    """Give the device a further token. Earlier ones go on working, so that it can be replaced without a gap."""

    async def create() -> Created:
        issued = await credentials.issue(caller, device_id, expires_at=data.expires_at)
        shown = CreatedCredential(**msgspec.structs.asdict(issued))
        return Created(
            shown,
            location=f"/api/v1/devices/{device_id}/credentials",
            secret_free=msgspec.structs.replace(shown, password=None, secret_omitted=True),
        )

    return await once.answer(request, caller, create)


@get("/devices/{device_id:uuid}/credentials", operation_id="listCredentials", permission="device:read", group_scoped=True,
     problems=(NotFound,))  # fmt: skip
async def list_credentials(
    caller: NamedDependency[TenantScope], device_id: DeviceInPath, credentials: NamedDependency[CredentialService]
) -> CredentialList:
    """The device's credentials, revoked and expired ones too, without their secrets."""
    return CredentialList(await credentials.list(caller, device_id))


@post("/devices/{device_id:uuid}/credentials/{credential_id:uuid}/revoke", operation_id="revokeCredential",
      permission="credential:write", group_scoped=True, status_code=200, problems=(NotFound,))  # fmt: skip
async def revoke_credential(
    caller: NamedDependency[TenantScope],
    device_id: DeviceInPath,
    credential_id: CredentialInPath,
    credentials: NamedDependency[CredentialService],
) -> Credential:
    """End a credential at once; a connection that it opened ends too."""
    return await credentials.revoke(caller, device_id, credential_id)


def _build(services: APIServices) -> Mapping[str, object]:
    events = NATSRegistryEvents(services.nats)
    return {"credentials": CredentialService(services.database, events, AuditTrail(), services.clock)}


NOUN = Noun(
    tag="Credentials",
    description="What a device shows at the door.",
    handlers=(create_credential, list_credentials, revoke_credential),
    build=_build,
)

"""Who is asking, once the credential has been checked."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from headwater.errors import Forbidden
from headwater.tenancy.quotas import Quotas
from headwater.tenancy.scope import Role, TenantScope


@dataclass(frozen=True, slots=True)
class Identity:
    """actor      "person:<uuid>", "token:<uuid>" or "operator:<uuid>"
    scope         what may be done inside one tenant; None = nothing inside any
    quotas        the tenant's, where there is one
    person_id     None for tokens
    session_id    the family of refresh tokens that a person's access token belongs to
    refusal       why there is no scope although the credential is for a tenant: left, or suspended. The person may still
                  switch to another tenant and log out
    operator      may use the platform operator's plane, which gives no right inside a tenant
    address       where the request came from
    """

    actor: str
    scope: TenantScope | None = None
    quotas: Quotas | None = None
    person_id: UUID | None = None
    session_id: UUID | None = None
    role: Role | None = None
    refusal: Forbidden | None = None
    operator: bool = False
    address: str = ""

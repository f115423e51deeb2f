"""The tenant itself, and its audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from litestar import Request, Response, get, patch
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from headwater.api import etag
from headwater.api.pagination import LIMIT_DEFAULT, Cursors, CursorText, Limit, Page
from headwater.api.parameters import Since, Until
from headwater.api.services import APIServices, Noun
from headwater.errors import VersionConflict
from headwater.tenancy.audit import AuditEntry, AuditTrail
from headwater.tenancy.scope import TenantScope
from headwater.tenancy.tenants import AuditFilter, Tenant, TenantChange, TenantService
from headwater.tenancy.text import NO_NUL


def _only(description: str) -> Any:
    """A text that an entry's member must be."""
    return QueryParameter(max_length=200, pattern=NO_NUL, description=description)


Actor = Annotated[str | None, _only("Only what this one did, as in `person:<uuid>` or `token:<uuid>`.")]
Action = Annotated[str | None, _only("Only this action, as in `device:create`.")]
Subject = Annotated[str | None, _only("Only what was done to this, as in `device:<uuid>`.")]


@get("/tenant", operation_id="getTenant", permission="tenant:read", versioned=True)
async def get_tenant(
    request: Request[Any, Any, Any], caller: NamedDependency[TenantScope], tenants: NamedDependency[TenantService]
) -> Response[Tenant]:
    """The tenant that your credential is for, with its quotas."""
    tenant = await tenants.get(caller)
    return etag.respond(request, tenant, tenant.version)


@patch("/tenant", operation_id="updateTenant", permission="tenant:write", versioned=True, problems=(VersionConflict,))
async def update_tenant(
    request: Request[Any, Any, Any],
    caller: NamedDependency[TenantScope],
    data: JSONBody[TenantChange],
    tenants: NamedDependency[TenantService],
) -> Response[Tenant]:
    """Change how the tenant is called. Its slug never changes; its quotas are the platform operator's."""
    tenant = await tenants.change(caller, data, etag.expected_version(request))
    return etag.respond(request, tenant, tenant.version)


@get("/audit", operation_id="listAuditEntries", permission="audit:read")
async def list_audit_entries(
    *,
    caller: NamedDependency[TenantScope],
    tenants: NamedDependency[TenantService],
    cursors: NamedDependency[Cursors],
    actor: Actor = None,
    action: Action = None,
    subject: Subject = None,
    since: Since = None,
    until: Until = None,
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[AuditEntry]:
    """Who did what, newest first."""
    wanted = AuditFilter(actor, action, subject, since, until)
    of = f"audit {wanted}"
    after = cursors.decode(of, cursor, tuple[UUID])
    rows = await tenants.audit_entries(caller, wanted, after[0] if after else None, limit)
    return cursors.page(of, rows, limit, lambda entry: (entry.id,))


def _build(services: APIServices) -> Mapping[str, object]:
    return {"tenants": TenantService(services.database, AuditTrail())}


NOUN = Noun(
    tag="Tenant",
    description="The tenant itself, and who did what in it.",
    handlers=(get_tenant, update_tenant, list_audit_entries),
    build=_build,
)

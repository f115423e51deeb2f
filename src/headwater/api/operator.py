"""The plane of the platform's operator: apart from the tenants' plane, with credentials of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import Request, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from headwater.api import etag
from headwater.api.idempotency import Created
from headwater.api.pagination import LIMIT_DEFAULT, Cursors, CursorText, Limit, Page
from headwater.api.parameters import OperatorTokenInPath, PersonInPath, TenantInPath
from headwater.api.services import APIServices, Noun
from headwater.errors import NotFound, VersionConflict
from headwater.stream.registry_events import NATSRegistryEvents
from headwater.tenancy.errors import SlugTaken, TokenInUse
from headwater.tenancy.identity import Identity
from headwater.tenancy.operation import NewTenant, OperatedTenant
from headwater.tenancy.operator_service import NewOperatorToken, OperatorEntry, OperatorService, OperatorToken
from headwater.tenancy.quotas import Quotas

_TOKENS = "operator tokens"
_ENTRIES = "operator audit"

Operator = NamedDependency[OperatorService]
Status = Annotated[
    Literal["active", "suspended"] | None, QueryParameter(description="Only tenants in this state. Default: all.")
]


class CreatedOperatorToken(OperatorToken, frozen=True):
    """secret: shown now and never again"""

    secret: Annotated[str, Meta(examples=["hwo_0192f0c1b1e07d0a8f6f1c2d3e4f5a6b_..."])]


@post("/operator/tenants", operation_id="createTenant", operator=True, problems=(SlugTaken,))
async def create_tenant(
    data: JSONBody[NewTenant], identity: NamedDependency[Identity], operator: Operator
) -> Response[OperatedTenant]:
    """A tenant with a first owner and a `default` profile. The slug is its name in topics and never changes."""
    tenant = await operator.create(identity, data)
    created = Created(tenant, location=f"/api/v1/operator/tenants/{tenant.id}", version=tenant.version)
    return Response(content=tenant, status_code=201, headers=created.all_headers())


@get("/operator/tenants", operation_id="listTenants", operator=True)
async def list_tenants(
    operator: Operator,
    cursors: NamedDependency[Cursors],
    status: Status = None,
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[OperatedTenant]:
    """All tenants with what they use, by slug."""
    of = f"tenants {status}"
    after = cursors.decode(of, cursor, tuple[str])
    rows = await operator.page(status, after[0] if after else None, limit)
    return cursors.page(of, rows, limit, lambda tenant: (tenant.slug,))


@get("/operator/tenants/{tenant_id:uuid}", operation_id="getOperatedTenant", operator=True, versioned=True,
     problems=(NotFound,))  # fmt: skip
async def get_operated_tenant(
    request: Request[Any, Any, Any], tenant_id: TenantInPath, operator: Operator
) -> Response[OperatedTenant]:
    """One tenant with what it uses."""
    tenant = await operator.get(tenant_id)
    return etag.respond(request, tenant, tenant.version)


@post("/operator/tenants/{tenant_id:uuid}/suspend", operation_id="suspendTenant", operator=True, status_code=200,
      problems=(NotFound,))  # fmt: skip
async def suspend_tenant(tenant_id: TenantInPath, identity: NamedDependency[Identity], operator: Operator) -> OperatedTenant:
    """Its people, tokens and devices are refused at once. Nothing is lost."""
    return await operator.set_status(identity, tenant_id, "suspended")


@post("/operator/tenants/{tenant_id:uuid}/resume", operation_id="resumeTenant", operator=True, status_code=200,
      problems=(NotFound,))  # fmt: skip
async def resume_tenant(tenant_id: TenantInPath, identity: NamedDependency[Identity], operator: Operator) -> OperatedTenant:
    """It works again."""
    return await operator.set_status(identity, tenant_id, "active")


@put("/operator/tenants/{tenant_id:uuid}/quotas", operation_id="setQuotas", operator=True, versioned=True,
     problems=(NotFound, VersionConflict))  # fmt: skip
async def set_quotas(
    request: Request[Any, Any, Any],
    tenant_id: TenantInPath,
    data: JSONBody[Quotas],
    identity: NamedDependency[Identity],
    operator: Operator,
) -> Response[OperatedTenant]:
    """Replace the quotas; what is left out gets its default."""
    tenant = await operator.set_quotas(identity, tenant_id, data, etag.expected_version(request))
    return etag.respond(request, tenant, tenant.version)


@delete("/operator/tenants/{tenant_id:uuid}", operation_id="deleteTenant", operator=True, versioned=True,
        problems=(NotFound, VersionConflict))  # fmt: skip
async def delete_tenant(
    request: Request[Any, Any, Any], tenant_id: TenantInPath, identity: NamedDependency[Identity], operator: Operator
) -> None:
    """For ever: its devices, people's memberships and tokens now, its telemetry within the next hours."""
    await operator.delete(identity, tenant_id, etag.expected_version(request))


@post("/operator/people/{person_id:uuid}/suspend", operation_id="suspendPerson", operator=True, status_code=204,
      problems=(NotFound,))  # fmt: skip
async def suspend_person(person_id: PersonInPath, identity: NamedDependency[Identity], operator: Operator) -> None:
    """In every tenant, at once."""
    await operator.suspend_person(identity, person_id, suspended=True)


@post("/operator/people/{person_id:uuid}/resume", operation_id="resumePerson", operator=True, status_code=204,
      problems=(NotFound,))  # fmt: skip
async def resume_person(person_id: PersonInPath, identity: NamedDependency[Identity], operator: Operator) -> None:
    """The person may log in again."""
    await operator.suspend_person(identity, person_id, suspended=False)


@post("/operator/tokens", operation_id="createOperatorToken", operator=True)
async def create_operator_token(
    data: JSONBody[NewOperatorToken], identity: NamedDependency[Identity], operator: Operator
) -> CreatedOperatorToken:
    """A token for programs that operate the platform; shown once."""
    token, secret = await operator.create_token(identity, data)
    return CreatedOperatorToken(**msgspec.structs.asdict(token), secret=secret.text)


@get("/operator/tokens", operation_id="listOperatorTokens", operator=True)
async def list_operator_tokens(
    operator: Operator, cursors: NamedDependency[Cursors], cursor: CursorText = None, limit: Limit = LIMIT_DEFAULT
) -> Page[OperatorToken]:
    """Newest first."""
    after = cursors.decode(_TOKENS, cursor, tuple[UUID])
    rows = await operator.list_tokens(after[0] if after else None, limit)
    return cursors.page(_TOKENS, rows, limit, lambda token: (token.id,))


@post("/operator/tokens/{token_id:uuid}/revoke", operation_id="revokeOperatorToken", operator=True, status_code=200,
      problems=(NotFound, TokenInUse))  # fmt: skip
async def revoke_operator_token(
    token_id: OperatorTokenInPath, identity: NamedDependency[Identity], operator: Operator
) -> OperatorToken:
    """It stops working at once. Not the one that you use."""
    return await operator.revoke_token(identity, token_id)


@get("/operator/audit", operation_id="listOperatorAuditEntries", operator=True)
async def list_operator_audit_entries(
    operator: Operator, cursors: NamedDependency[Cursors], cursor: CursorText = None, limit: Limit = LIMIT_DEFAULT
) -> Page[OperatorEntry]:
    """What operators did, newest first. It outlives the tenants."""
    after = cursors.decode(_ENTRIES, cursor, tuple[UUID])
    rows = await operator.entries(after[0] if after else None, limit)
    return cursors.page(_ENTRIES, rows, limit, lambda entry: (entry.id,))


def _build(services: APIServices) -> Mapping[str, object]:
    return {
        "operator": OperatorService(
            services.operator_pool, services.passwords, NATSRegistryEvents(services.nats), services.clock
        )
    }


NOUN = Noun(
    tag="Operator",
    description="For the operator of the platform: tenants and their quotas. It gives no right inside a tenant.",
    handlers=(
        create_tenant, list_tenants, get_operated_tenant, suspend_tenant, resume_tenant, set_quotas, delete_tenant,
        suspend_person, resume_person, create_operator_token, list_operator_tokens, revoke_operator_token,
        list_operator_audit_entries,
    ),
    build=_build,
)  # fmt: skip

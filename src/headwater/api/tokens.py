"""API tokens. The smallest complete noun: copy this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import Meta

from headwater.api.idempotency import Created, Once
from headwater.api.pagination import LIMIT_DEFAULT, Cursors, CursorText, Limit, Page
from headwater.api.parameters import TokenInPath
from headwater.api.services import APIServices, Noun
from headwater.errors import NotFound
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.errors import PermissionNotHeld, TenantQuotaReached, TokenInUse
from headwater.tenancy.identity import Identity
from headwater.tenancy.scope import TenantScope
from headwater.tenancy.tokens import APIToken, NewToken, TokenService

_LIST = "tokens"


class CreatedToken(APIToken, frozen=True):
    """secret: shown now and never again; null with `secret_omitted` where an Idempotency-Key repeats the answer."""

    secret: Annotated[str, Meta(examples=["hwt_0192f0c1b1e07d0a8f6f1c2d3e4f5a6b_..."])] | None
    secret_omitted: bool = False


@post("/tokens", operation_id="createToken", permission="token:write", idempotent=True,
      problems=(PermissionNotHeld, NotFound, TenantQuotaReached))  # fmt: skip
async def create_token(
    *,
    request: Request[Any, Any, Any],
    identity: NamedDependency[Identity],
    caller: NamedDependency[TenantScope],
    data: JSONBody[NewToken],
    tokens: NamedDependency[TokenService],
    once: NamedDependency[Once],
) -> Response[CreatedToken]:
    """Make a token: a subset of your own permissions, perhaps only for one device group."""

    async def create() -> Created:
        assert identity.quotas is not None  # the gate lets nobody in here without a tenant
        token, secret = await tokens.create(caller, identity.quotas, data)
        shown = msgspec.structs.asdict(token)
        return Created(
            CreatedToken(**shown, secret=secret.text),
            location=f"/api/v1/tokens/{token.id}",
            secret_free=CreatedToken(**shown, secret=None, secret_omitted=True),
        )

    return await once.answer(request, caller, create)


@get("/tokens", operation_id="listTokens", permission="token:read")
async def list_tokens(
    caller: NamedDependency[TenantScope],
    tokens: NamedDependency[TokenService],
    cursors: NamedDependency[Cursors],
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[APIToken]:
    """All tokens of the tenant, newest first."""
    after = cursors.decode(_LIST, cursor, tuple[UUID])
    rows = await tokens.page(caller, after[0] if after else None, limit)
    return cursors.page(_LIST, rows, limit, lambda token: (token.id,))


@get("/tokens/{token_id:uuid}", operation_id="getToken", permission="token:read", problems=(NotFound,))
async def get_token(
    caller: NamedDependency[TenantScope], token_id: TokenInPath, tokens: NamedDependency[TokenService]
) -> APIToken:
    """One token; its secret was shown once and is not known here."""
    return await tokens.get(caller, token_id)


@post("/tokens/{token_id:uuid}/revoke", operation_id="revokeToken", permission="token:write", status_code=200,
      problems=(NotFound, TokenInUse))  # fmt: skip
async def revoke_token(
    caller: NamedDependency[TenantScope], token_id: TokenInPath, tokens: NamedDependency[TokenService]
) -> APIToken:
    """End a token, and every token made with it, at once. It stays listed. Not the one that you use."""
    return await tokens.revoke(caller, token_id)


@delete("/tokens/{token_id:uuid}", operation_id="deleteToken", permission="token:write",
        problems=(NotFound, TokenInUse))  # fmt: skip
async def delete_token(
    caller: NamedDependency[TenantScope], token_id: TokenInPath, tokens: NamedDependency[TokenService]
) -> None:
    """End a token, and every token made with it, and list it no more. Not the one that you use."""
    await tokens.delete(caller, token_id)


def _build(services: APIServices) -> Mapping[str, object]:
    return {"tokens": TokenService(services.database, AuditTrail(), services.clock)}


NOUN = Noun(
    tag="Tokens",
    description="What programs hold instead of a password.",
    handlers=(create_token, list_tokens, get_token, revoke_token, delete_token),
    build=_build,
)

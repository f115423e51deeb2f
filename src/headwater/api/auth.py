"""The door: which credential a route needs, and who came in.

Every route says one thing about itself, as an option of its decorator, and the app does not start otherwise:

    permission="device:read"   somebody who holds this permission in a tenant
    member=True                anybody in a tenant, person or token, whatever the permissions
    person=True                a person who has logged in, also without a tenant
    anyone=True                whoever shows a credential that is good, of whatever kind
    operator=True              the platform operator; no right inside any tenant comes with it
    public=True                everybody

A token that is limited to a device group is refused everywhere except where the route says `group_scoped=True`, which
promises that its noun looks at `TenantScope.group_id`.
"""

from __future__ import annotations

from typing import Any, cast

from litestar.connection import ASGIConnection, WebSocket
from litestar.handlers.base import BaseRouteHandler

from headwater.api.context import identity_of, set_identity
from headwater.api.errors import RouteUndeclared
from headwater.api.limits import RequestLimits
from headwater.errors import Forbidden, Unauthenticated
from headwater.tenancy.errors import GroupScoped
from headwater.tenancy.identification import Identification
from headwater.tenancy.identity import Identity
from headwater.tenancy.scope import ALL_PERMISSIONS, TenantScope

ACCESS = ("permission", "member", "person", "anyone", "operator", "public")
WEBSOCKET_PROTOCOL = "headwater.bearer."
"""A browser cannot set headers on a WebSocket: it offers the subprotocol `headwater.bearer.<token>` instead, next to the
one that it wants to speak. A query parameter would end up in logs."""


class Gate:
    """The guard of every route."""

    def __init__(self, identification: Identification, limits: RequestLimits) -> None:
        self._identification = identification
        self._limits = limits

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        opt = handler.opt
        if opt.get("public") or connection.scope.get("method") == "OPTIONS":
            return
        identity = await self._identification.identify(credential_of(connection), address_of(connection))
        self._limits.check(identity)
        admit(identity, opt)
        set_identity(connection.scope, identity)


def admit(identity: Identity, opt: dict[str, Any]) -> None:
    """Raises Forbidden, NotAMember, TenantSuspended or GroupScoped."""
    if opt.get("anyone"):
        return
    if opt.get("operator"):
        if not identity.operator:
            raise Forbidden("this is for the operator of the platform")
        return
    if opt.get("person"):
        if identity.person_id is None:
            raise Forbidden("this is for people, not for tokens")
        return
    scope = identity.scope
    if scope is None:
        raise identity.refusal or Forbidden("this needs a tenant; log in to one or switch to it")
    if "permission" in opt:
        scope.require(opt["permission"])
    elif not opt.get("member"):
        raise Forbidden("nobody may do this")
    if scope.group_id is not None and not opt.get("group_scoped"):
        raise GroupScoped("the token is limited to the devices of one group")


def credential_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The bearer credential. Raises Unauthenticated where there is none."""
    scheme, _, credential = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credential.strip():
        return credential.strip()
    if isinstance(connection, WebSocket):
        for offered in connection.headers.get("sec-websocket-protocol", "").split(","):
            if offered.strip().startswith(WEBSOCKET_PROTOCOL):
                return offered.strip().removeprefix(WEBSOCKET_PROTOCOL)
    raise Unauthenticated("send `Authorization: Bearer <token>`")


def address_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Where it came from; uvicorn has already resolved what trusted proxies say."""
    return connection.client.host if connection.client else ""


def check_declared(handler: BaseRouteHandler, paths: set[str]) -> None:
    """Raises RouteUndeclared."""
    said = [name for name in ACCESS if handler.opt.get(name)]
    if len(said) != 1:
        raise RouteUndeclared(f"{sorted(paths)} must say exactly one of {', '.join(ACCESS)}; it says {said or 'none'}")
    permission = handler.opt.get("permission")
    if permission is not None and permission not in ALL_PERMISSIONS:
        raise RouteUndeclared(f"{sorted(paths)} needs {permission!r}, which is no permission of tenancy/scope.py")


# --- what handlers ask for ---------------------------------------------------------------------------------------------


def provide_identity(request: ASGIConnection[Any, Any, Any, Any]) -> Identity:
    """Handler parameter `identity`."""
    return cast(Identity, identity_of(request.scope))


def provide_caller(request: ASGIConnection[Any, Any, Any, Any]) -> TenantScope:
    """Handler parameter `caller`: routes with `permission=` or `member=`."""
    return cast(TenantScope, cast(Identity, identity_of(request.scope)).scope)

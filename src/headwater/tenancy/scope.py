"""Who acts, for which tenant, and what they may do.

A scope is authorisation: empty means nothing. It is an argument of every call that touches a tenant's rows, never a
context variable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from headwater.errors import Forbidden


class Role(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"


_READ = frozenset(f"{noun}:read" for noun in ("tenant", "profile", "device", "group", "telemetry", "dead_letter", "person"))
_OPERATE = frozenset({"device:write", "group:write", "telemetry:write", "dead_letter:replay"})
_ADMINISTER = frozenset(
    {
        "tenant:write", "person:write", "token:read", "token:write", "profile:write", "credential:write",
        "device:delete", "group:delete", "profile:delete", "dead_letter:delete", "audit:read",
    }
)  # fmt: skip
_OWN = frozenset({"owner:write"})
"""Making and unmaking owners, which an administrator may not."""

PERMISSIONS: dict[Role, frozenset[str]] = {
    Role.VIEWER: _READ,
    Role.OPERATOR: _READ | _OPERATE,
    Role.ADMIN: _READ | _OPERATE | _ADMINISTER,
    Role.OWNER: _READ | _OPERATE | _ADMINISTER | _OWN,
}
ALL_PERMISSIONS = PERMISSIONS[Role.OWNER]


@dataclass(frozen=True, slots=True)
class TenantScope:
    """tenant_id    whose rows
    actor        "person:<uuid>", "token:<uuid>" or "system:<name>": who, for the audit trail
    permissions  `noun:verb`; empty = nothing
    group_id     where not None, only the devices of this group exist for the actor
    """

    tenant_id: UUID
    actor: str
    permissions: frozenset[str]
    group_id: UUID | None = None

    def require(self, permission: str) -> None:
        if permission not in self.permissions:
            raise Forbidden(f"this needs the permission {permission}", permission=permission)


def system_scope(tenant_id: UUID, name: str) -> TenantScope:
    """What the platform does by itself for a tenant."""
    return TenantScope(tenant_id, f"system:{name}", ALL_PERMISSIONS)

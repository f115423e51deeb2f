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


class Permission(StrEnum):
    """`noun:verb`. The fixed set; whoever adds one adds it to a role below."""

    TENANT_READ = "tenant:read"
    TENANT_WRITE = "tenant:write"
    PERSON_READ = "person:read"
    PERSON_WRITE = "person:write"
    OWNER_WRITE = "owner:write"
    """Making and unmaking owners, which an administrator may not."""
    TOKEN_READ = "token:read"
    TOKEN_WRITE = "token:write"
    PROFILE_READ = "profile:read"
    PROFILE_WRITE = "profile:write"
    PROFILE_DELETE = "profile:delete"
    DEVICE_READ = "device:read"
    DEVICE_WRITE = "device:write"
    DEVICE_DELETE = "device:delete"
    CREDENTIAL_WRITE = "credential:write"
    GROUP_READ = "group:read"
    GROUP_WRITE = "group:write"
    GROUP_DELETE = "group:delete"
    TELEMETRY_READ = "telemetry:read"
    TELEMETRY_WRITE = "telemetry:write"
    DEAD_LETTER_READ = "dead_letter:read"
    DEAD_LETTER_REPLAY = "dead_letter:replay"
    DEAD_LETTER_DELETE = "dead_letter:delete"
    AUDIT_READ = "audit:read"


_READ: frozenset[str] = frozenset(
    {
        Permission.TENANT_READ, Permission.PROFILE_READ, Permission.DEVICE_READ, Permission.GROUP_READ,
        Permission.TELEMETRY_READ, Permission.DEAD_LETTER_READ, Permission.PERSON_READ,
    }
)  # fmt: skip
_OPERATE: frozenset[str] = frozenset(
    {Permission.DEVICE_WRITE, Permission.GROUP_WRITE, Permission.TELEMETRY_WRITE, Permission.DEAD_LETTER_REPLAY}
)
_ADMINISTER: frozenset[str] = frozenset(
    {
        Permission.TENANT_WRITE, Permission.PERSON_WRITE, Permission.TOKEN_READ, Permission.TOKEN_WRITE,
        Permission.PROFILE_WRITE, Permission.CREDENTIAL_WRITE, Permission.DEVICE_DELETE, Permission.GROUP_DELETE,
        Permission.PROFILE_DELETE, Permission.DEAD_LETTER_DELETE, Permission.AUDIT_READ,
    }
)  # fmt: skip
_OWN: frozenset[str] = frozenset({Permission.OWNER_WRITE})

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
    address      where the request came from, for the audit trail
    """

    tenant_id: UUID
    actor: str
    permissions: frozenset[str]
    group_id: UUID | None = None
    address: str = ""

    def require(self, permission: str) -> None:
        if permission not in self.permissions:
            raise Forbidden(f"this needs the permission {permission}", permission=permission)


def system_scope(tenant_id: UUID, name: str) -> TenantScope:
    """What the platform does by itself for a tenant."""
    return TenantScope(tenant_id, f"system:{name}", ALL_PERMISSIONS)

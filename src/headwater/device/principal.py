"""Who a device is, once its credential has been checked. The tenant comes from here and from nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from headwater.device.profile import ProfileDefinition
from headwater.tenancy.quotas import Quotas


@dataclass(frozen=True, slots=True)
class ProfileVersion:
    """One version of a profile; shared by all of its devices, so whatever is compiled from it is compiled once."""

    profile_id: UUID
    version: int
    definition: ProfileDefinition


@dataclass(frozen=True, slots=True)
class Principal:
    tenant_id: UUID
    tenant_slug: str
    quotas: Quotas
    device_id: UUID
    external_id: str
    profile: ProfileVersion
    credential_id: UUID
    anonymous: bool = False
    """Nobody in particular, on a machine where that is allowed: every topic is open to it, and an ordinary one."""

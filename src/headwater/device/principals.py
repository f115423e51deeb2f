"""Devices as ingest sees them, found by their ids: for what is read again long after its connection has ended."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

import msgspec

from headwater.device.principal import Principal, ProfileVersion
from headwater.device.profile import ProfileDefinition
from headwater.tenancy.quotas import quotas_of

NO_CREDENTIAL = UUID(int=0)

_PRINCIPALS = """
    SELECT t.id AS tenant_id, t.slug, t.quotas, d.id, d.external_id, p.id AS profile_id, p.version, p.definition
    FROM device d JOIN tenant t ON t.id = d.tenant_id JOIN profile p ON p.id = d.profile_id
    WHERE d.id = ANY($1::uuid[])
"""


async def principals_of(connection: Any, device_ids: Collection[UUID]) -> dict[UUID, Principal]:
    """With the profile as it is now. The connection carries the tenant; a device that it does not see is absent."""
    profiles: dict[UUID, ProfileVersion] = {}
    found: dict[UUID, Principal] = {}
    for row in await connection.fetch(_PRINCIPALS, list(device_ids)):
        profile = profiles.get(row["profile_id"])
        if profile is None:
            definition = msgspec.convert(row["definition"], ProfileDefinition)
            profile = profiles[row["profile_id"]] = ProfileVersion(row["profile_id"], row["version"], definition)
        found[row["id"]] = Principal(
            tenant_id=row["tenant_id"],
            tenant_slug=row["slug"],
            quotas=quotas_of(row["quotas"]),
            device_id=row["id"],
            external_id=row["external_id"],
            profile=profile,
            credential_id=NO_CREDENTIAL,
        )
    return found

"""Finding credentials across tenants, many in one query.

Whoever asks while a query is under way shares the next one, so a storm of reconnecting devices costs PostgreSQL some
hundred devices a query and us one connection of the pool, and a device alone waits for nobody. The same goes for somebody
who tries wrong tokens. Invariant: the definition of a profile travels once a query, however many devices have it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from headwater.database.session import Database
from headwater.device.principal import ProfileVersion
from headwater.device.profile import ProfileDefinition
from headwater.errors import Unavailable
from headwater.tenancy.quotas import Quotas, quotas_of

ANONYMOUS = "anonymous"
"""The kind of credential that has no secret (device/anonymous.py)."""
TOGETHER_MAX = 500
"""Credentials a query: some 5 ms of PostgreSQL, so nobody waits long behind others."""
WAITING_MAX = 50_000
"""As many as connections that one process is meant to hold; more are refused instead of piled up."""
PROFILES_MAX = 4096
"""Compiled things hang on a profile version, so old ones must go once nobody connects with them."""


@dataclass(frozen=True, slots=True)
class FoundCredential:
    """What is known of a credential, good or not: the authenticator judges."""

    tenant_id: UUID
    tenant_slug: str
    tenant_status: str
    quotas: Quotas
    device_id: UUID
    external_id: str
    device_status: str
    profile: ProfileVersion
    kind: str
    secret_hash: bytes
    expires_at: datetime | None
    revoked_at: datetime | None

    def __repr__(self) -> str:
        return f"FoundCredential(device_id={self.device_id})"


class CredentialLookup:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[UUID, list[asyncio.Future[FoundCredential | None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._profiles: dict[tuple[UUID, int], ProfileVersion] = {}

    async def find(self, credential_id: UUID) -> FoundCredential | None:
        """Raises Unavailable, or what the database raises."""
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable("too many devices connect at once")
        answer: asyncio.Future[FoundCredential | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(credential_id, []).append(answer)
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return await answer

    async def find_all(self, credential_ids: Collection[UUID]) -> dict[UUID, FoundCredential]:
        """Those that exist. Raises what the database raises."""
        async with self._database.lookup_session() as connection:
            rows = await connection.fetch("SELECT * FROM lookup_devices($1)", list(credential_ids))
        profiles = {row["profile_id"]: self._profile(row) for row in rows if row["profile_definition"] is not None}
        return {row["credential_id"]: _found(row, profiles[row["profile_id"]]) for row in rows}

    async def _work(self) -> None:
        """Until nobody waits."""
        while self._waiting:
            batch = {credential: self._waiting.pop(credential) for credential in list(self._waiting)[:TOGETHER_MAX]}
            try:
                found = await self.find_all(batch)
            except Exception as error:  # whoever asked for these hears it; the others are asked for anew
                for answer in _open(batch):
                    answer.set_exception(error)
            else:
                for credential, answers in batch.items():
                    for answer in answers:
                        if not answer.done():
                            answer.set_result(found.get(credential))
        self._task = None

    def _profile(self, row: Any) -> ProfileVersion:
        """The same object for the same version, so that what is compiled from it is compiled once."""
        key = (row["profile_id"], row["profile_version"])
        known = self._profiles.get(key)
        if known is None:
            if len(self._profiles) >= PROFILES_MAX:
                self._profiles.clear()
            known = ProfileVersion(*key, msgspec.convert(row["profile_definition"], ProfileDefinition))
            self._profiles[key] = known
        return known


def _open(batch: dict[UUID, list[asyncio.Future[FoundCredential | None]]]) -> list[asyncio.Future[FoundCredential | None]]:
    return [answer for answers in batch.values() for answer in answers if not answer.done()]


def _found(row: Any, profile: ProfileVersion) -> FoundCredential:
    return FoundCredential(
        tenant_id=row["tenant_id"],
        tenant_slug=row["tenant_slug"],
        tenant_status=row["tenant_status"],
        quotas=quotas_of(row["tenant_quotas"]),
        device_id=row["device_id"],
        external_id=row["external_id"],
        device_status=row["device_status"],
        profile=profile,
        kind=row["kind"],
        secret_hash=row["secret_hash"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )

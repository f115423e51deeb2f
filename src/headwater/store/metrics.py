"""Names of metrics and their numbers.

Owns `metric`: a row for each (tenant, name, type) that was ever sent, made at the first sight of it. A name sent once as a
string and once as a number is two metrics, because a string never becomes a number.

What a session found out is kept in a bounded memory and forgotten with the session.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Collection
from typing import Any, NamedTuple
from uuid import UUID

from headwater.tenancy.quotas import quotas_of

KNOWN_MAX = 200_000
"""Metrics kept in memory by one lane, about 40 MB; beyond it those that were wanted longest ago are looked up again. One
round of the store may want more (3 MiB, and a name takes three bytes); then what it wants is kept until the next."""
NAME_LENGTH_MAX = 200
REFUSED_S = 30.0
"""How long a refusal is remembered: a flood of new names must not become a flood of queries."""


class MetricKey(NamedTuple):
    tenant: bytes
    name: str
    type: str


class Refusal(NamedTuple):
    code: str
    detail: str


class MetricCatalog:
    """Known metrics, and why the others are none. `resolve` first, then look into `ids` and `refused`."""

    def __init__(self, connection: Any) -> None:
        self.ids: dict[MetricKey, int] = {}
        self._refused: dict[MetricKey, tuple[float, Refusal]] = {}
        self._connection = connection

    def refusal(self, key: MetricKey) -> Refusal | None:
        known = self._refused.get(key)
        return known[1] if known is not None and known[0] > time.monotonic() else None

    async def resolve(self, wanted: Collection[MetricKey]) -> None:
        """Find or make them, tenant by tenant. Outside of the caller's transaction: a metric may be there without rows.

        Afterwards each of them is known or refused, whatever had to be forgotten for it.
        """
        if len(self._refused) > KNOWN_MAX:
            self._refused.clear()
        by_tenant: dict[bytes, list[MetricKey]] = {}
        for key in wanted:
            known = self.ids.pop(key, None)
            if known is not None:
                self.ids[key] = known  # as the one wanted last
                continue
            if self.refusal(key):
                continue
            if not 0 < len(key.name) <= NAME_LENGTH_MAX or "\0" in key.name:
                self._refuse(key, "metric.name_invalid", f"a metric's name has 1 to {NAME_LENGTH_MAX} characters and no NUL")
            else:
                by_tenant.setdefault(key.tenant, []).append(key)
        for tenant, keys in by_tenant.items():
            await self._resolve(UUID(bytes=tenant), keys)
        while len(self.ids) > max(KNOWN_MAX, len(wanted)):
            del self.ids[next(iter(self.ids))]

    async def _resolve(self, tenant_id: UUID, keys: list[MetricKey]) -> None:
        missing = await self._find(tenant_id, keys)
        if missing:
            async with self._connection.transaction():
                # Rows will name these numbers: they must outlive a crash that this transaction's commit survived.
                await self._connection.execute("SET LOCAL synchronous_commit = on")
                # Lanes that meet new names of one tenant queue up, so that no race passes the quota.
                await self._connection.execute(
                    "SELECT pg_advisory_xact_lock($1::int, $2::int)",
                    zlib.crc32(b"headwater.metric") >> 1, zlib.crc32(tenant_id.bytes) >> 1,
                )  # fmt: skip
                stored = await self._connection.fetchval("SELECT quotas FROM tenant WHERE id = $1", tenant_id)
                room = 0
                if stored is not None:
                    count = await self._connection.fetchval("SELECT count(*) FROM metric WHERE tenant_id = $1", tenant_id)
                    room = max(0, quotas_of(stored).metrics_max - count)
                await self._connection.execute(
                    """
                    INSERT INTO metric (tenant_id, name, type) SELECT $1, * FROM unnest($2::text[], $3::text[])
                    ON CONFLICT DO NOTHING
                    """,
                    tenant_id, [key.name for key in missing[:room]], [key.type for key in missing[:room]],
                )  # fmt: skip
            for key in await self._find(tenant_id, missing):
                self._refuse(key, "metric.quota_exceeded", f"the tenant may have no more metrics: {key.name}")

    async def _find(self, tenant_id: UUID, keys: list[MetricKey]) -> list[MetricKey]:
        """Remember those that exist, return the others."""
        rows = await self._connection.fetch(
            """
            SELECT id, name, type FROM metric
            WHERE tenant_id = $1 AND (name, type) IN (SELECT * FROM unnest($2::text[], $3::text[]))
            """,
            tenant_id, [key.name for key in keys], [key.type for key in keys],
        )  # fmt: skip
        for row in rows:
            self.ids[MetricKey(tenant_id.bytes, row["name"], row["type"])] = row["id"]
        return [key for key in keys if key not in self.ids]

    def _refuse(self, key: MetricKey, code: str, detail: str) -> None:
        self._refused[key] = (time.monotonic() + REFUSED_S, Refusal(code, detail))

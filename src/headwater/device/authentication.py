"""From what a device presents to who it is. One authenticator a kind of credential; X.509 and JWT stand beside tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import msgspec

from headwater.clock import Clock, to_us
from headwater.database.session import Database
from headwater.device.principal import Principal, ProfileVersion
from headwater.device.profile import ProfileDefinition
from headwater.errors import Unauthenticated
from headwater.tenancy import secrets
from headwater.tenancy.quotas import quotas_of


class DeviceRefused(Unauthenticated):
    code = "device.refused"


class DeviceSuspended(Unauthenticated):
    code = "device.suspended"


@dataclass(frozen=True, slots=True)
class Presented:
    """What the peer showed at the door. `repr` is never logged: it holds the secret."""

    username: str | None = None
    password: bytes | None = None
    certificate_der: bytes | None = None


class Authenticator(Protocol):
    async def authenticate(self, presented: Presented) -> Principal | None:
        """None = not my kind of credential; raises DeviceRefused or DeviceSuspended."""


class TokenAuthenticator:
    """Username = device id and password = token; or the token alone, as username (ThingsBoard firmware) or as password."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._profiles: dict[tuple[UUID, int], ProfileVersion] = {}

    async def authenticate(self, presented: Presented) -> Principal | None:
        text = presented.password.decode("utf-8", "replace") if presented.password else presented.username or ""
        secret = secrets.parse(text, secrets.DEVICE)
        if secret is None:
            return None
        async with self._database.lookup_session() as connection:
            row = await connection.fetchrow("SELECT * FROM lookup_device_credential($1)", secret.row_id)
        if row is None or not secret.matches(row["secret_hash"]):
            raise DeviceRefused("unknown or wrong token")
        if presented.password and presented.username and presented.username != str(row["device_id"]):
            raise DeviceRefused("the token belongs to another device than the user name says")
        return self.principal(row, secret.row_id)

    def principal(self, row: Any, credential_id: UUID) -> Principal:
        """row: of `lookup_device_credential`."""
        expired = row["expires_at"] is not None and to_us(row["expires_at"]) <= self._clock.now_us()
        if row["revoked_at"] is not None or expired:
            raise DeviceRefused("the token is revoked" if row["revoked_at"] is not None else "the token has expired")
        if row["tenant_status"] != "active":
            raise DeviceSuspended("the tenant is suspended")
        if row["device_status"] not in {"registered", "active"}:
            raise DeviceSuspended(f"the device is {row['device_status']}")
        return Principal(
            tenant_id=row["tenant_id"],
            tenant_slug=row["tenant_slug"],
            quotas=quotas_of(row["tenant_quotas"]),
            device_id=row["device_id"],
            external_id=row["external_id"],
            profile=self._profile(row),
            credential_id=credential_id,
        )

    def _profile(self, row: Any) -> ProfileVersion:
        key = (row["profile_id"], row["profile_version"])
        known = self._profiles.get(key)
        if known is None:
            # Old versions go once nobody connects with them; the bound keeps a churn of profiles from growing us.
            if len(self._profiles) >= 4096:
                self._profiles.clear()
            known = ProfileVersion(*key, msgspec.convert(row["profile_definition"], ProfileDefinition))
            self._profiles[key] = known
        return known


class Authentication:
    """Asks each authenticator in turn; the first that knows the kind of credential decides."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = authenticators

    async def authenticate(self, presented: Presented) -> Principal:
        """Raises DeviceRefused or DeviceSuspended."""
        for authenticator in self._authenticators:
            principal = await authenticator.authenticate(presented)
            if principal is not None:
                return principal
        raise DeviceRefused("no credential that this platform knows")

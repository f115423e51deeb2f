"""From what a device presents to who it is. One authenticator a kind of credential; X.509 and JWT stand beside tokens."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import UUID

from headwater.clock import Clock, to_us
from headwater.database.session import Database
from headwater.device.credential_lookup import ANONYMOUS, CredentialLookup, FoundCredential
from headwater.device.principal import Principal
from headwater.errors import Unauthenticated
from headwater.tenancy import secrets


class DeviceRefused(Unauthenticated):
    code = "device.refused"


class WrongToken(DeviceRefused):
    """Of a token that there is. secret_hash: by which the right one is known while others fail in its name."""

    def __init__(self, detail: str, secret_hash: bytes) -> None:
        super().__init__(detail)
        self.secret_hash = secret_hash


class DeviceSuspended(Unauthenticated):
    code = "device.suspended"


class MethodUnknown(Unauthenticated):
    """An enhanced authentication that this gateway does not have."""

    code = "auth.method_unknown"


class Claim(NamedTuple):
    """Whom a peer says it is, without what would prove it.

    credential_id  of the token that it showed, right or wrong
    name           its user name; "" where that may be a secret
    """

    credential_id: UUID | None = None
    name: str = ""


NO_CLAIM = Claim()
UNKNOWN = "unknown or wrong token"
"""One answer for both: nobody learns here which tokens there are."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Presented:
    """What the peer showed at the door. `repr` is never logged: it holds the secret."""

    username: str | None = None
    password: bytes | None = None
    certificate_der: bytes | None = None

    def claim(self) -> Claim:
        """A user name without a password may be a token itself, of ours or of another platform: then it is no name."""
        secret = secrets.parse(self.token, secrets.DEVICE)
        name = self.name
        if secrets.looks_like_one(name) or not (self.password or _UUID.fullmatch(name)):
            name = ""
        return Claim(None if secret is None else secret.row_id, name)

    @property
    def name(self) -> str:
        """The user name, without what AWS's device SDKs append to it (`?SDK=...`)."""
        return (self.username or "").partition("?")[0]

    @property
    def token(self) -> str:
        return self.password.decode("utf-8", "replace") if self.password else self.name


class Authenticator(Protocol):
    async def authenticate(self, presented: Presented) -> Principal | None:
        """None = not my kind of credential; raises DeviceRefused or DeviceSuspended."""


class TokenAuthenticator:
    """Username = device id and password = token; or the token alone, as username (ThingsBoard firmware) or as password."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._lookup = CredentialLookup(database)
        self._clock = clock

    async def authenticate(self, presented: Presented) -> Principal | None:
        secret = secrets.parse(presented.token, secrets.DEVICE)
        if secret is None:
            return None
        found = await self.find(secret.row_id)
        if found is None:
            raise DeviceRefused(UNKNOWN)
        if not secret.matches(found.secret_hash):
            raise WrongToken(UNKNOWN, found.secret_hash)
        if presented.password and presented.name and presented.name != str(found.device_id):
            raise DeviceRefused("the token belongs to another device than the user name says")
        return self.principal(found, secret.row_id)

    async def find(self, credential_id: UUID) -> FoundCredential | None:
        """Together with whoever else asks at the moment."""
        return await self._lookup.find(credential_id)

    async def lookup(self, credential_ids: Collection[UUID]) -> dict[UUID, FoundCredential]:
        """For asking again, in one query, about devices that are connected. What is absent has been deleted."""
        return await self._lookup.find_all(credential_ids)

    def principal(self, found: FoundCredential, credential_id: UUID) -> Principal:
        """Raises DeviceRefused or DeviceSuspended."""
        if found.revoked_at is not None:
            raise DeviceRefused("the token is revoked")
        if found.expires_at is not None and to_us(found.expires_at) <= self._clock.now_us():
            raise DeviceRefused("the token has expired")
        if found.tenant_status != "active":
            raise DeviceSuspended("the tenant is suspended")
        if found.device_status not in {"registered", "active"}:
            raise DeviceSuspended(f"the device is {found.device_status}")
        return Principal(
            tenant_id=found.tenant_id,
            tenant_slug=found.tenant_slug,
            quotas=found.quotas,
            device_id=found.device_id,
            external_id=found.external_id,
            profile=found.profile,
            credential_id=credential_id,
            anonymous=found.kind == ANONYMOUS,
        )


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


@dataclass(frozen=True, slots=True)
class Challenge:
    """The peer has to answer first. `repr` is never logged."""

    data: bytes | None


@dataclass(frozen=True, slots=True)
class Proven:
    """Who it is, and the last word of the method, where it has one."""

    principal: Principal
    data: bytes | None = None


class Exchange(Protocol):
    """One peer on its way through a method of several steps (MQTT 5, section 4.12)."""

    async def answer(self, data: bytes | None) -> Challenge | Proven:
        """Raises DeviceRefused or DeviceSuspended."""


class EnhancedMethod(Protocol):
    """The hook for enhanced authentication: a name that MQTT 5 clients ask for, and how it begins."""

    name: str

    def begin(self, presented: Presented) -> Exchange: ...

"""Who sends, from the Authorization header; asked of the registry once in ten seconds per device, not once per request.

Holds digests of headers, never a secret. Only successes are remembered. A change in the registry ends them at once
(`forget`), so the ten seconds matter only where that message was lost. While the registry is away, whoever was known goes
on, as connected MQTT devices do: what they send is safe in the stream.
"""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import time
from base64 import b64decode
from collections.abc import Callable
from uuid import UUID

from headwater.database.away import AWAY
from headwater.device.authentication import NO_CLAIM, Authentication, Claim, DeviceRefused, Presented
from headwater.device.principal import Principal
from headwater.errors import DomainError, Unavailable
from headwater.gateway.metering import Meters, TenantMeter

REMEMBERED_S = 10.0
STALE_S = 3_600.0
"""How long after its ten seconds a device may go on while the registry is away"""
LOOKUP_S = 3.0
"""A registry that hangs is as good as away."""
ENTRIES_MAX = 20_000
"""About 20 MB; beyond it the oldest go first"""
LOOKUPS_MAX = 32
"""Look-ups at once: a storm queues here instead of in PostgreSQL."""
HEADER_BYTES_MAX = 1_024


class Sender:
    """A device that was let in, for as long as it is remembered."""

    __slots__ = ("expires", "meter", "principal")

    def __init__(self, principal: Principal, meter: TenantMeter | None, expires: float) -> None:
        self.principal = principal
        self.meter = meter
        self.expires = expires


class Credentials:
    def __init__(
        self, authentication: Authentication, meters: Meters | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._authentication = authentication
        self._meters = meters
        self._now = now
        self._senders: dict[bytes, Sender] = {}
        self._digests: dict[UUID, set[bytes]] = {}
        self._held: dict[UUID, int] = {}
        self._slots = asyncio.Semaphore(LOOKUPS_MAX)
        self._generation = 0

    async def identify(self, authorization: bytes | None) -> Sender:
        """Raises DeviceRefused, DeviceSuspended, Unavailable."""
        if not authorization or len(authorization) > HEADER_BYTES_MAX:
            raise DeviceRefused("send a device's token: Authorization: Bearer hwd_...")
        digest = hashlib.sha256(authorization).digest()
        sender = self._senders.get(digest)
        if sender is not None and sender.expires > self._now():
            return sender
        try:
            return await self._look_up(digest, presented(authorization))
        except Unavailable:
            sender = self._senders.get(digest)
            if sender is None or self._now() > sender.expires + STALE_S:
                raise
            sender.expires = self._now() + REMEMBERED_S
            return sender

    def forget(self, identifier: UUID) -> None:
        """A device, credential, profile or tenant has changed: whoever has to do with it is asked for again."""
        self._generation += 1
        for digest in tuple(self._digests.get(identifier, ())):
            self._drop(digest)

    async def _look_up(self, digest: bytes, shown: Presented) -> Sender:
        generation = self._generation
        try:
            async with asyncio.timeout(LOOKUP_S), self._slots:
                principal = await self._authentication.authenticate(shown)
        except AWAY as error:
            raise Unavailable("the registry does not answer; try again") from error
        except DomainError:
            if digest in self._senders:
                self._drop(digest)
            raise
        known = self._senders.get(digest)
        if known is not None and known.expires > self._now():  # a request of the same device was quicker
            return known
        sender = Sender(principal, self._hold(principal), self._now() + REMEMBERED_S)
        if generation == self._generation:
            self._remember(digest, sender)
        else:  # something changed while we asked: good for this request, but not to be remembered
            self._release(principal.tenant_id)
        return sender

    def _remember(self, digest: bytes, sender: Sender) -> None:
        # The older entry goes only now: it kept the tenant's meter, and with it what the tenant owes.
        if digest in self._senders:
            self._drop(digest)
        while len(self._senders) >= ENTRIES_MAX:
            self._drop(next(iter(self._senders)))
        self._senders[digest] = sender
        for identifier in _identifiers(sender.principal):
            self._digests.setdefault(identifier, set()).add(digest)

    def _drop(self, digest: bytes) -> None:
        sender = self._senders.pop(digest)
        for identifier in _identifiers(sender.principal):
            digests = self._digests[identifier]
            digests.discard(digest)
            if not digests:
                del self._digests[identifier]
        self._release(sender.principal.tenant_id)

    def _hold(self, principal: Principal) -> TenantMeter | None:
        """The tenant's meter lives while one of its senders is remembered: one for all, so HTTP counts as one connection."""
        if self._meters is None:
            return None
        tenant_id = principal.tenant_id
        held = self._held.get(tenant_id, 0)
        self._held[tenant_id] = held + 1
        meter = self._meters.enter(tenant_id, principal.quotas)
        if held:
            self._meters.leave(tenant_id)
        return meter

    def _release(self, tenant_id: UUID) -> None:
        if self._meters is None:
            return
        self._held[tenant_id] -= 1
        if not self._held[tenant_id]:
            del self._held[tenant_id]
            self._meters.leave(tenant_id)


def claim_of(authorization: bytes | None) -> Claim:
    """Whom a request that was refused says it comes from."""
    if not authorization or len(authorization) > HEADER_BYTES_MAX:
        return NO_CLAIM
    try:
        return presented(authorization).claim()
    except DeviceRefused:
        return NO_CLAIM


def presented(authorization: bytes) -> Presented:
    """`Bearer <token>`, or `Basic` with device id and token, or with the token alone. Raises DeviceRefused."""
    scheme, _, rest = authorization.strip().partition(b" ")
    rest = rest.strip()
    if scheme.lower() == b"bearer" and rest:
        return Presented(password=rest)
    if scheme.lower() == b"basic":
        try:
            user, _, password = b64decode(rest, validate=True).partition(b":")
            return Presented(username=user.decode() or None, password=password or None)
        except (binascii.Error, UnicodeDecodeError) as error:
            raise DeviceRefused("the Basic credentials are not base64 of user:password") from error
    raise DeviceRefused("send a device's token: Authorization: Bearer hwd_...")


def _identifiers(principal: Principal) -> set[UUID]:
    return {principal.device_id, principal.credential_id, principal.profile.profile_id, principal.tenant_id}

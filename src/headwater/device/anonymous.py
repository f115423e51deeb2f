"""Anonymous access, for test suites and first tries: the device that everybody without a credential is.

It is a row like any other, so presence, quotas and suspending it work as for any device (`headwater devices suspend
anonymous` closes the door at once). Its credential has no secret, so no token opens it: only a gateway that was told to
does. `headwater up` makes it (app/anonymous.py); where a gateway may be told so is decided in app/settings.py.
"""

from __future__ import annotations

from uuid import UUID

from headwater.database.session import Database
from headwater.device.authentication import DeviceRefused, Presented, TokenAuthenticator
from headwater.device.principal import Principal


class AnonymousAuthenticator:
    """Stands last: whoever shows something that looks like a token has been let in, or refused, before."""

    def __init__(self, database: Database, tokens: TokenAuthenticator, tenant_slug: str) -> None:
        self._database = database
        self._tokens = tokens
        self._tenant_slug = tenant_slug
        self._credential_id: UUID | None = None

    async def authenticate(self, presented: Presented) -> Principal:
        """Whatever user name and password say. Raises DeviceRefused or DeviceSuspended."""
        credential_id = await self._door()
        found = await self._tokens.find(credential_id)
        if found is None:
            self._credential_id = None  # deleted meanwhile; perhaps there is another by the next time
            raise DeviceRefused("the device for anonymous access was deleted")
        return self._tokens.principal(found, credential_id)

    async def _door(self) -> UUID:
        if self._credential_id is None:
            async with self._database.lookup_session() as connection:
                self._credential_id = await connection.fetchval("SELECT lookup_anonymous($1)", self._tenant_slug)
        if self._credential_id is None:
            raise DeviceRefused(
                f"the tenant {self._tenant_slug} has no device for anonymous access: `headwater up --dev-anonymous` makes it"
            )
        return self._credential_id

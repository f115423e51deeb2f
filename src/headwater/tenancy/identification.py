"""From a bearer credential to who asks: an access token of a person, an API token, or an operator token.

Everything that can change is asked of the database each time: membership, role, suspension, revocation. So a right that
was taken away is gone with the next request, on every API server.
"""

from __future__ import annotations

from dataclasses import dataclass

from headwater.clock import Clock, to_us
from headwater.database.session import Database
from headwater.errors import Forbidden, Unauthenticated
from headwater.tenancy import secrets
from headwater.tenancy.access_tokens import AccessTokens
from headwater.tenancy.errors import NotAMember, PersonSuspended, TenantSuspended, TokenExpired, TokenRevoked
from headwater.tenancy.identity import Identity
from headwater.tenancy.quotas import quotas_of
from headwater.tenancy.scope import ALL_PERMISSIONS, PERMISSIONS, Role, TenantScope

CREDENTIAL_LENGTH_MAX = 2048
"""Ours are shorter; a longer one costs us nothing but this comparison."""


@dataclass(frozen=True, slots=True)
class Identification:
    database: Database
    access_tokens: AccessTokens
    clock: Clock

    async def identify(self, credential: str, address: str) -> Identity:
        """Raises Unauthenticated, TokenExpired, TokenRevoked, PersonSuspended, TenantSuspended (of a token)."""
        if len(credential) > CREDENTIAL_LENGTH_MAX:
            raise Unauthenticated("not a credential that this platform gave out")
        if (secret := secrets.parse(credential, secrets.API)) is not None:
            return await self._by_api_token(secret, address)
        if (secret := secrets.parse(credential, secrets.OPERATOR)) is not None:
            return await self._by_operator_token(secret, address)
        return await self._by_access_token(credential, address)

    async def _by_access_token(self, credential: str, address: str) -> Identity:
        claims = self.access_tokens.read(credential)
        async with self.database.lookup_session() as connection:
            row = await connection.fetchrow(
                "SELECT * FROM lookup_session($1, $2, $3)", claims.person_id, claims.session_id, claims.tenant_id
            )
        if row is None or not row["live"]:
            raise TokenRevoked("the session has ended")
        if row["person_status"] != "active":
            raise PersonSuspended("the person is suspended")
        actor = f"person:{claims.person_id}"
        scope = quotas = role = None
        refusal: Forbidden | None = None
        if claims.tenant_id is None:
            pass
        elif row["role"] is None:
            refusal = NotAMember("the person does not work for this tenant")
        elif row["tenant_status"] != "active":
            refusal = TenantSuspended("the tenant is suspended")
        else:
            role = Role(row["role"])
            quotas = quotas_of(row["tenant_quotas"])
            scope = TenantScope(claims.tenant_id, actor, PERMISSIONS[role], address=address)
        return Identity(
            actor=actor,
            scope=scope,
            quotas=quotas,
            person_id=claims.person_id,
            session_id=claims.session_id,
            role=role,
            refusal=refusal,
            operator=row["operator"],
            address=address,
        )

    async def _by_api_token(self, secret: secrets.Secret, address: str) -> Identity:
        async with self.database.lookup_session() as connection:
            row = await connection.fetchrow("SELECT * FROM lookup_api_token($1)", secret.row_id)
            if row is None or not secret.matches(row["secret_hash"]):
                raise Unauthenticated("not a credential that this platform gave out")
            self._check_life(row["revoked_at"], row["expires_at"])
            if row["tenant_status"] != "active":
                raise TenantSuspended("the tenant is suspended")
            if row["stale"]:
                await connection.execute("SELECT touch_api_token($1)", secret.row_id)
        actor = f"token:{row['id']}"
        permissions = ALL_PERMISSIONS.intersection(row["permissions"])
        return Identity(
            actor=actor,
            scope=TenantScope(row["tenant_id"], actor, permissions, row["group_id"], address),
            quotas=quotas_of(row["tenant_quotas"]),
            address=address,
        )

    async def _by_operator_token(self, secret: secrets.Secret, address: str) -> Identity:
        async with self.database.lookup_session() as connection:
            row = await connection.fetchrow(
                "SELECT secret_hash, expires_at, revoked_at FROM operator_token WHERE id = $1", secret.row_id
            )
        if row is None or not secret.matches(row["secret_hash"]):
            raise Unauthenticated("not a credential that this platform gave out")
        self._check_life(row["revoked_at"], row["expires_at"])
        return Identity(actor=f"operator:{secret.row_id}", operator=True, address=address)

    def _check_life(self, revoked_at: object, expires_at: object) -> None:
        if revoked_at is not None:
            raise TokenRevoked("the token is revoked")
        if expires_at is not None and to_us(expires_at) <= self.clock.now_us():  # type: ignore[arg-type]  # a timestamptz
            raise TokenExpired("the token has expired")

"""Access tokens: short-lived JWTs that say which person acts, in which session, for which tenant.

They carry no rights. What the person may do is looked up with every request, so that a change works at once; the token
only saves the password and the refresh token from travelling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import OctKey

from headwater.clock import Clock
from headwater.errors import Unauthenticated
from headwater.tenancy.errors import TokenExpired

LIFETIME_S = 15 * 60
SECRET_BYTES_MIN = 32
"""RFC 7518, 3.2: an HS256 key is at least as long as its hash."""

_ISSUER = "headwater"
_ALGORITHM = "HS256"
_TYPE = "at+jwt"


class SecretTooShort(Exception):
    """The signing secret has fewer than 32 bytes."""


@dataclass(frozen=True, slots=True)
class AccessClaims:
    person_id: UUID
    session_id: UUID
    tenant_id: UUID | None


class AccessTokens:
    """Signs and reads them. `repr` holds no key."""

    def __init__(self, secret: str, clock: Clock) -> None:
        if len(secret.encode()) < SECRET_BYTES_MIN:
            raise SecretTooShort(f"the signing secret needs at least {SECRET_BYTES_MIN} bytes")
        self._key = OctKey.import_key(secret)
        self._clock = clock

    def sign(self, claims: AccessClaims) -> str:
        now_s = self._clock.now_us() // 1_000_000
        body: dict[str, Any] = {
            "iss": _ISSUER,
            "sub": claims.person_id.hex,
            "sid": claims.session_id.hex,
            "iat": now_s,
            "exp": now_s + LIFETIME_S,
        }
        if claims.tenant_id is not None:
            body["tid"] = claims.tenant_id.hex
        return jwt.encode({"alg": _ALGORITHM, "typ": _TYPE}, body, self._key, algorithms=[_ALGORITHM])

    def read(self, text: str) -> AccessClaims:
        """Raises TokenExpired, or Unauthenticated for anything else that is wrong with it."""
        try:
            token = jwt.decode(text, self._key, algorithms=[_ALGORITHM])
            if token.header.get("typ") != _TYPE:
                raise Unauthenticated("not an access token")
            registry = jwt.JWTClaimsRegistry(
                now=self._clock.now_us() // 1_000_000,
                iss={"essential": True, "value": _ISSUER},
                exp={"essential": True},
            )
            registry.validate(token.claims)
            tenant = token.claims.get("tid")
            return AccessClaims(
                UUID(token.claims["sub"]),
                UUID(token.claims["sid"]),
                UUID(tenant) if tenant is not None else None,
            )
        except ExpiredTokenError as error:
            raise TokenExpired("the access token has expired") from error
        except (JoseError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Unauthenticated("not a credential that this platform gave out") from error

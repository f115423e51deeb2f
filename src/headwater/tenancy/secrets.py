"""Secrets that machines hold: made here, shown once, kept only as a hash.

Form: `<prefix>_<32 hexadecimal digits of the row's UUID>_<43 characters, 256 random bits>`. The id finds the row; the
secret is compared in constant time. Plain SHA-256 is enough for 256 random bits (Argon2 is for what people choose).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from uuid import UUID

DEVICE = "hwd"
API = "hwt"
REFRESH = "hwr"
OPERATOR = "hwo"
INVITATION = "hwi"
PASSWORD_RESET = "hwp"

_BEGINNING = re.compile(r"hw[a-z]_", re.ASCII | re.IGNORECASE)
_FORM = re.compile(r"(hw[dtroip])_([0-9a-f]{32})_([A-Za-z0-9_-]{43})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Secret:
    """A parsed token. `repr` never shows the secret part."""

    prefix: str
    row_id: UUID
    _secret: str

    def __repr__(self) -> str:
        return f"Secret({self.prefix}_{self.row_id.hex}_***)"

    @property
    def text(self) -> str:
        return f"{self.prefix}_{self.row_id.hex}_{self._secret}"

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self._secret.encode()).digest()

    def matches(self, digest: bytes) -> bool:
        return hmac.compare_digest(self.digest, digest)


def mint(prefix: str, row_id: UUID) -> Secret:
    return Secret(prefix, row_id, secrets.token_urlsafe(32))


def looks_like_one(text: str) -> bool:
    """Whole or damaged: what may be one is not to be kept as a text."""
    return _BEGINNING.match(text) is not None


def parse(text: str, prefix: str) -> Secret | None:
    """None where the text is not a token of this prefix."""
    match = _FORM.fullmatch(text)
    if match is None or match[1] != prefix:
        return None
    return Secret(prefix, UUID(match[2]), match[3])

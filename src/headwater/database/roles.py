"""Passwords of the roles that migrations make. PostgreSQL gets a SCRAM verifier, so no password stands in its log."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping

import asyncpg

APP = "headwater_app"
WRITER = "headwater_writer"
OPERATOR = "headwater_operator"
ROLES = (APP, WRITER, OPERATOR)

_ITERATIONS = 4096
"""PostgreSQL's own number. Our passwords are random; more would only make each connection slower."""


async def set_passwords(connection: asyncpg.Connection, passwords: Mapping[str, str]) -> None:
    """The connection is the owner's. Role names come from `ROLES`, nothing else."""
    for role, password in passwords.items():
        if role not in ROLES:
            raise ValueError(f"not a role of ours: {role}")
        await connection.execute(f"ALTER ROLE {role} PASSWORD '{scram_verifier(password)}'")


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """What PostgreSQL keeps. Source: RFC 5803, RFC 7677. ASCII passwords only: others would need SASLprep."""
    if not password.isascii():
        raise ValueError("the password of a database role must be ASCII")
    salt = salt or secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(_ITERATIONS, *encoded)

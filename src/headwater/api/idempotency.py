"""Idempotency-Key on creates: a request that was repeated is answered again, not done again.

The answer is remembered in the transaction of the change that it reports, so there is no moment between the two in which
a crash could leave one without the other. Only successes are remembered, and none is told any more once what it made has
been deleted. A key belongs to the actor (token or person)
and means one request: method, path and body. Kept for a day; the worker's maintenance forgets older ones. A secret that
is shown once is not kept: the repeated answer leaves it out and says so (`secret_omitted`).

A route that does this says `idempotent=True` and lets `Once.answer` call its service.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, Response
from litestar.serialization import default_serializer

from headwater.api.errors import (
    IdempotencyGone,
    IdempotencyInProgress,
    IdempotencyKeyInvalid,
    IdempotencyMismatch,
)
from headwater.database.session import Database
from headwater.tenancy.scope import TenantScope

HEADER = "idempotency-key"
REPLAYED = "Idempotency-Replayed"
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_THERE = {
    noun: f"SELECT EXISTS (SELECT FROM {table} WHERE id = $1)"  # noqa: S608  # names of this file
    for noun, table in {
        "devices": "device",
        "groups": "device_group",
        "invitations": "invitation",
        "profiles": "profile",
        "tokens": "api_token",
    }.items()
}
"""noun in a Location -> whether that one still exists"""


@dataclass(frozen=True, slots=True)
class Created:
    """What a create answers.

    body         JSON-encodable
    location     path of the new resource, or of the list below one that it belongs to
    version      for the ETag, where the resource has one
    secret_free  what to remember in place of `body`, where that shows a secret
    """

    body: Any
    location: str = ""
    version: int | None = None
    secret_free: Any = None
    status: int = 201
    headers: Mapping[str, str] = field(default_factory=dict)

    def all_headers(self) -> dict[str, str]:
        headers = dict(self.headers)
        if self.location:
            headers["Location"] = self.location
        if self.version is not None:
            headers["ETag"] = f'"{self.version}"'
        return headers


@dataclass(frozen=True, slots=True)
class Once:
    database: Database

    async def answer(
        self, request: Request[Any, Any, Any], caller: TenantScope, create: Callable[[], Awaitable[Created]]
    ) -> Response[Any]:
        """Call `create`, or repeat what it answered before.

        Raises IdempotencyKeyInvalid, IdempotencyMismatch, IdempotencyInProgress, IdempotencyGone, and what `create` raises.
        """
        key = request.headers.get(HEADER)
        if key is None:
            return _fresh(await create())
        if not _KEY.fullmatch(key):
            raise IdempotencyKeyInvalid("an Idempotency-Key has 1 to 200 printable ASCII characters and no space")
        request_hash = await _hash(request)
        async with self.database.joined(caller.tenant_id) as connection:
            if not await connection.fetchval(
                "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))", f"{caller.tenant_id}/{caller.actor}/{key}"
            ):
                raise IdempotencyInProgress("the first request with this Idempotency-Key is still running")
            known = await connection.fetchrow(
                "SELECT request_hash, status, headers, body FROM idempotency_key"
                " WHERE tenant_id = $1 AND actor = $2 AND key = $3",
                caller.tenant_id, caller.actor, key,
            )  # fmt: skip
            if known is not None:
                if known["request_hash"] == request_hash and not await _is_there(connection, known["headers"]["Location"]):
                    raise IdempotencyGone("what this Idempotency-Key made has been deleted")
                return _again(known, request_hash)
            created = await create()
            await connection.execute(
                "INSERT INTO idempotency_key (tenant_id, actor, key, request_hash, status, headers, body)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7)",
                caller.tenant_id, caller.actor, key, request_hash, created.status, created.all_headers(),
                _encode(created.body if created.secret_free is None else created.secret_free),
            )  # fmt: skip
        return _fresh(created)


async def _is_there(connection: Any, location: str) -> bool:
    """location: `/api/v1/<noun>/<id>`, perhaps with more behind it"""
    noun, identifier = location.split("/")[3:5]
    return bool(await connection.fetchval(_THERE[noun], UUID(identifier)))


async def _hash(request: Request[Any, Any, Any]) -> bytes:
    hasher = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    hasher.update(await request.body())
    return hasher.digest()


def _encode(body: Any) -> bytes:
    return msgspec.json.encode(body, enc_hook=default_serializer)


def _fresh(created: Created) -> Response[Any]:
    return Response(content=created.body, status_code=created.status, headers=created.all_headers())


def _again(known: Mapping[str, Any], request_hash: bytes) -> Response[Any]:
    if known["request_hash"] != request_hash:
        raise IdempotencyMismatch("this Idempotency-Key was already used for another request")
    return Response(
        content=known["body"],
        status_code=known["status"],
        headers={**known["headers"], REPLAYED: "true"},
        media_type="application/json",
    )

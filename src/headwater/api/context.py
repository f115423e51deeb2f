"""What a request carries from the outermost layer to the innermost: its id, and who asks."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, cast
from uuid import UUID

from headwater.ids import uuid7
from headwater.tenancy.identity import Identity

_REQUEST_ID = "headwater.request_id"
_IDENTITY = "headwater.identity"


def request_id(scope: MutableMapping[str, Any] | Any) -> UUID:
    """Made here, never taken from the client: it goes into logs and into the problem's `instance`."""
    known = scope.get(_REQUEST_ID)
    if known is None:
        known = scope[_REQUEST_ID] = uuid7()
    return cast(UUID, known)


def set_identity(scope: Any, identity: Identity) -> None:
    scope[_IDENTITY] = identity


def identity_of(scope: Any) -> Identity | None:
    """None on a public route."""
    return cast("Identity | None", scope.get(_IDENTITY))

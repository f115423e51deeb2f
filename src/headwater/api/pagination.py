"""Lists: a page of items and an opaque cursor to the next.

A cursor holds the sort key of the last item, and a signature over it and over the list that it belongs to (noun, filter,
order): it cannot be made up, nor carried to another list. It holds nothing that the caller has not seen, gives no right
(rows are still read under the caller's own tenant), and never expires.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter

from headwater.api.errors import CursorInvalid

T = TypeVar("T")

LIMIT_DEFAULT = 50
LIMIT_MAX = 1000
CURSOR_LENGTH_MAX = 1500
_SIGNATURE_BYTES = 12

Limit = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX, description="How many items at most.")]
"""`limit: Limit = LIMIT_DEFAULT` in a handler's parameters."""
CursorText = Annotated[
    str | None,
    QueryParameter(
        name="cursor",
        max_length=CURSOR_LENGTH_MAX,
        description="`next_cursor` of the page before; absent = from the start.",
        schema_extra={"format": "headwater-cursor"},
    ),
]
"""`cursor: CursorText = None` in a handler's parameters."""


class Page(msgspec.Struct, Generic[T]):
    """next_cursor: where the next page starts; null = this was the last."""

    items: Sequence[T]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Cursors:
    secret: str = field(repr=False)

    def encode(self, of: str, key: Sequence[Any]) -> str:
        """of: which list this is, filter and order included. key: what MessagePack can hold, datetimes and UUIDs too."""
        body = msgspec.msgpack.encode(list(key))
        return base64.urlsafe_b64encode(self._sign(of, body) + body).rstrip(b"=").decode()

    def decode(self, of: str, text: str | None, types: type[T]) -> T | None:
        """types: a tuple type, `tuple[datetime, UUID]`. None stays None. Raises CursorInvalid."""
        if text is None:
            return None
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            signature, body = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
            if not hmac.compare_digest(signature, self._sign(of, body)):
                raise CursorInvalid("this cursor does not belong to this list, filter and order")
            return msgspec.msgpack.decode(body, type=types)
        except (binascii.Error, ValueError) as error:
            raise CursorInvalid("this is not a cursor that was given out here") from error

    def page(self, of: str, rows: Sequence[T], limit: int, key: Any) -> Page[T]:
        """rows: up to limit + 1 of them, as the query found them. key: item -> its sort key."""
        items = rows[:limit]
        more = len(rows) > limit
        return Page(items, self.encode(of, key(items[-1])) if more else None)

    def _sign(self, of: str, body: bytes) -> bytes:
        secret = b"headwater.cursor\0" + self.secret.encode()
        return hmac.new(secret, of.encode() + b"\0" + body, hashlib.sha256).digest()[:_SIGNATURE_BYTES]

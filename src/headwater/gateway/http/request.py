"""One request: its headers, and its body in bounded time and size, inflated where it came compressed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from headwater.gateway.http.errors import EncodingUnsupported, QueryInvalid, RequestTimeout
from headwater.ingest.errors import PayloadMalformed, PayloadTooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_S = 30.0
"""A message body of the largest size over a 64 kbit/s link, and a little"""
BULK_BODY_S = 300.0
_INFLATE_STEP = 65_536
_DISCARD_BYTES_MAX = 1 << 20


class Disconnected(Exception):
    """The client went away; nobody is left to answer."""


class Request:
    __slots__ = ("_more", "_receive", "address", "headers", "instance", "method", "path", "query")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        client = scope.get("client")
        self.address: str = client[0] if client else ""
        self.instance = self.path
        self._more = True

    @property
    def content_type(self) -> str:
        return self.headers.get(b"content-type", b"").decode("latin-1")

    def flag(self, name: str) -> bool:
        """`?name=true`. Raises QueryInvalid for a value that is neither true nor false."""
        for pair in self.query.split(b"&") if self.query else ():
            key, _, value = pair.partition(b"=")
            if key == name.encode():
                if value in {b"true", b"false", b""}:
                    return value != b"false"
                raise QueryInvalid(f"{name} is true or false")
        return False

    async def body(self, bytes_max: int) -> bytes:
        """Raises PayloadTooLarge, PayloadMalformed (compression), RequestTimeout, EncodingUnsupported, Disconnected."""
        parts = [part async for part in self.chunks(bytes_max, BODY_S)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def chunks(self, bytes_max: int, seconds_max: float) -> AsyncIterator[bytes]:
        """The body as it comes; bytes_max holds for what was sent as for what it inflates to."""
        inflate = self._inflater()
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > bytes_max:
            raise _too_large(bytes_max)
        deadline = asyncio.get_running_loop().time() + seconds_max
        received = inflated = 0
        async for data in self._received(deadline):
            received += len(data)
            for part in inflate.feed(data) if inflate else (data,):
                inflated += len(part)
                if received > bytes_max or inflated > bytes_max:
                    raise _too_large(bytes_max)
                if part:
                    yield part
        if inflate is not None:
            inflate.finish()

    @property
    def complete(self) -> bool:
        """The whole body has been read."""
        return not self._more

    async def discard(self) -> None:
        """Read a little more of what nobody wants, so that the answer is not lost in a reset of the connection."""
        deadline = asyncio.get_running_loop().time() + 1.0
        discarded = 0
        try:
            async for data in self._received(deadline):
                discarded += len(data)
                if discarded > _DISCARD_BYTES_MAX:
                    return
        except (RequestTimeout, Disconnected):
            return

    async def _received(self, deadline: float) -> AsyncIterator[bytes]:
        while self._more:
            try:
                async with asyncio.timeout_at(deadline):
                    message = await self._receive()
            except TimeoutError:
                raise RequestTimeout("the body did not arrive in time") from None
            if message["type"] == "http.disconnect":
                raise Disconnected
            self._more = message.get("more_body", False)
            yield message.get("body", b"")

    def _inflater(self) -> _Inflater | None:
        encoding = self.headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding in {b"", b"identity"}:
            return None
        if encoding not in {b"gzip", b"x-gzip"}:
            raise EncodingUnsupported("Content-Encoding is gzip or identity")
        return _Inflater()


class _Inflater:
    """gzip, in steps that bound the memory whatever the ratio; several members follow each other as one."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._empty = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._member.eof:
                    self._member = zlib.decompressobj(wbits=31)
                self._empty = False
                yield self._member.decompress(data, _INFLATE_STEP)
                data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        except zlib.error as error:
            raise PayloadMalformed(f"not gzip: {error}") from error

    def finish(self) -> None:
        if not self._empty and not self._member.eof:
            raise PayloadMalformed("the gzip stream ends in its middle")


def _too_large(bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body has more than {bytes_max} bytes", bytes_max=bytes_max)

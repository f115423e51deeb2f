"""The bad records of a request: what the device is told, and what is kept as dead letters."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import cbor2
import msgspec
import structlog

from headwater.device.principal import Principal
from headwater.device.profile import Decoder
from headwater.ingest.errors import Rejected
from headwater.ingest.ports import Uplink
from headwater.stream.envelope import DeadLetter

log = structlog.get_logger(__name__)

NAMED_MAX = 100
"""Bad records that an answer names and dead letters that a request leaves; the rest is only counted."""


class Rejections:
    """Collected while a request is read."""

    def __init__(self, uplink: Uplink, principal: Principal, path: str, received_us: int) -> None:
        self._uplink = uplink
        self._principal = principal
        self._path = path
        self._received_us = received_us
        self._letters: list[DeadLetter] = []
        self.first: Rejected | None = None
        self.named: list[dict[str, Any]] = []
        self.count = 0

    def add(self, rejected: Rejected, payload: bytes, content_type: str, *, line: int | None = None) -> None:
        """line: of NDJSON, counted from 1."""
        self.count += 1
        if line is not None:
            rejected.fields["line"] = line
        self.first = self.first or rejected
        if len(self.named) < NAMED_MAX:
            self.named.append({**rejected.fields, "code": rejected.code, "detail": rejected.detail})
            self._letters.append(self._letter(rejected, payload, content_type))

    def keep_whole(self, payload: bytes, content_type: str) -> None:
        """One letter for the whole request instead of one a record: nothing of it was stored."""
        assert self.first is not None
        self._letters = [self._letter(self.first, payload, content_type)]

    async def settle(self) -> None:
        """Dead letters are for the operator: that they cannot be stored now is no answer to the device."""
        if not self._letters:
            return
        tenant_id = self._principal.tenant_id
        futures = [self._uplink.reject(tenant_id, letter) for letter in self._letters]
        results = await asyncio.gather(*futures, return_exceptions=True)
        lost = sum(isinstance(result, BaseException) for result in results)
        if lost:
            log.warning("dead_letters_lost", tenant_id=str(tenant_id), count=lost)

    def _letter(self, rejected: Rejected, payload: bytes, content_type: str) -> DeadLetter:
        return DeadLetter(
            device=self._principal.device_id.bytes,
            source="http",
            topic=self._path,
            code=rejected.code,
            detail=rejected.detail,
            received_at=self._received_us,
            payload=payload,
            content_type=content_type,
        )


def encoded(source: Any, decoder: Decoder) -> tuple[bytes, str]:
    """(payload, content type) of one record of a list, such that reading it again gives the same record."""
    try:
        if decoder is Decoder.CBOR:
            return cbor2.dumps(source), content_type_of(decoder)
        if decoder is Decoder.MSGPACK:
            return msgspec.msgpack.encode(source), content_type_of(decoder)
        # Not msgspec: an integer beyond 64 bits may be what is wrong with the record. A resolved SenML record is JSON too.
        return json.dumps(source, separators=(",", ":"), ensure_ascii=False).encode(), content_type_of(Decoder.JSON)
    except (ValueError, TypeError, OverflowError, RecursionError, cbor2.CBORError):
        return b"", ""  # what cannot be written again was nothing that a replay could mend


def content_type_of(decoder: Decoder) -> str:
    return _CONTENT_TYPES[decoder]


_CONTENT_TYPES = {
    Decoder.AUTO: "application/json",
    Decoder.JSON: "application/json",
    Decoder.SENML_JSON: "application/senml+json",
    Decoder.SENML_CBOR: "application/senml+cbor",
    Decoder.CBOR: "application/cbor",
    Decoder.MSGPACK: "application/msgpack",
}


def summary(rejections: Rejections) -> dict[str, Any]:
    """The members of an answer that tell of bad records."""
    return {"rejected": rejections.count, "errors": rejections.named}

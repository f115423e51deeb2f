"""How an error is said over HTTP: a status per code, and RFC 9457 problem+json."""

from __future__ import annotations

from math import ceil
from typing import Any

import msgspec

from headwater.errors import DomainError, QuotaExceeded

STATUS: dict[str, int] = {
    "auth.unauthenticated": 401,
    "auth.method_unknown": 401,
    "device.refused": 401,
    "device.suspended": 403,
    "payload.malformed": 400,
    "payload.empty": 400,
    "payload.too_large": 413,
    "payload.too_many_records": 413,
    "payload.too_many_values": 422,
    "payload.path_missing": 422,
    "metric.unknown": 422,
    "metric.name_invalid": 422,
    "metric.type_mismatch": 422,
    "metric.out_of_bounds": 422,
    "metric.too_large": 422,
    "timestamp.malformed": 422,
    "timestamp.implausible": 422,
    "event.name_invalid": 400,
    "http.path_unknown": 404,
    "http.method_not_allowed": 405,
    "http.timeout": 408,
    "http.media_type_unsupported": 415,
    "http.encoding_unsupported": 415,
    "http.query_invalid": 400,
    "http.busy": 503,
    "quota.exceeded": 429,
    "stream.full": 503,
    "stream.unavailable": 503,
    "stream.read_failed": 503,
    "stream.overtaken": 503,
    "service.unavailable": 503,
}
"""Every code that the ingest may answer; a test holds it against the errors' classes."""

_UNAVAILABLE_RETRY_S = 2
"""Where the error does not know better: about as long as a process takes to come back"""

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""status, headers, body"""


def problem(error: DomainError, *, instance: str, close: bool = False, **more: Any) -> Answer:
    """close: the rest of the request was not read, so the connection cannot go on."""
    status = STATUS.get(error.code, 400)
    document = {**error.fields, **_document(error.code, status, error.detail, instance), **more}
    headers = [(b"content-type", b"application/problem+json")]
    if status in {429, 503}:
        retry_s = error.retry_after_s if isinstance(error, QuotaExceeded) else _UNAVAILABLE_RETRY_S
        headers.append((b"retry-after", str(max(1, ceil(retry_s))).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="headwater"'))
    if status == 405:
        headers.append((b"allow", str(error.fields.get("allow", "POST")).encode()))
    if close:
        headers.append((b"connection", b"close"))
    return status, headers, msgspec.json.encode(document)


def internal_error(instance: str) -> Answer:
    """Our own fault; the log knows more."""
    document = _document("server.error", 500, "the request failed on our side and may be repeated", instance)
    headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
    return 500, headers, msgspec.json.encode(document)


def _document(code: str, status: int, detail: str, instance: str) -> dict[str, Any]:
    """The same members as the API's problems."""
    title = code.replace(".", " ").replace("_", " ").capitalize()
    return {
        "type": f"/docs/problems/{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "instance": instance,
    }

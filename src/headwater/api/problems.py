"""Errors as HTTP says them: RFC 9457 `application/problem+json`, for every answer that is not a success.

STATUS is the whole edge: one row a code. 400 is for what the API's description already excludes; what
contradicts itself, or what there is, is 409. A code without a row is a defect, found by a test that walks every leaf of
DomainError. Nothing of our insides is told: an unexpected exception becomes `server.error` with the request's id.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import asyncpg
import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, SerializationException, ValidationException
from nats.errors import Error as NATSError

from headwater.api.context import request_id
from headwater.api.errors import (
    BodyTooLarge,
    MediaTypeUnsupported,
    MethodNotAllowed,
    PathUnknown,
    Unexpected,
)
from headwater.errors import DomainError, Invalid, QuotaExceeded, Unauthenticated, Unavailable
from headwater.ids import uuid7

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
DOCS_PATH = "/docs/problems"
RETRY_AFTER_S = 2
"""How soon to ask again after 503: an engine's restart takes about that long."""

STATUS: dict[str, int] = {
    # any noun
    "request.invalid": 400,
    "auth.unauthenticated": 401,
    "auth.method_unknown": 401,
    "auth.forbidden": 403,
    "resource.not_found": 404,
    "resource.conflict": 409,
    "resource.version_conflict": 412,
    "reference.unknown": 409,
    "quota.exceeded": 429,
    "service.unavailable": 503,
    # between HTTP and the nouns
    "request.path_unknown": 404,
    "request.method_not_allowed": 405,
    "request.too_large": 413,
    "request.media_type_unsupported": 415,
    "request.rate_limited": 429,
    "cursor.invalid": 409,
    "idempotency.key_invalid": 400,
    "idempotency.mismatch": 409,
    "idempotency.in_progress": 409,
    "idempotency.gone": 409,
    "server.error": 500,
    # tenancy
    "auth.credentials_wrong": 401,
    "auth.token_expired": 401,
    "auth.token_revoked": 401,
    "auth.one_time_token_invalid": 401,
    "auth.too_many_attempts": 429,
    "auth.not_a_member": 403,
    "auth.group_scoped": 403,
    "person.suspended": 403,
    "person.last_owner": 409,
    "person.shared": 409,
    "person.already_member": 409,
    "tenant.suspended": 403,
    "tenant.slug_taken": 409,
    "tenant.quota_reached": 429,
    "token.permission_not_held": 403,
    "token.in_use": 409,
    # the registry
    "filter.invalid": 400,
    "sort.position_invalid": 409,
    "profile.invalid": 400,
    "profile.contradictory": 409,
    "profile.in_use": 409,
    "device.invalid": 400,
    "device.decommissioned": 409,
    "credential.limit": 409,
    "group.invalid": 400,
    "group.in_use": 409,
    "import.invalid": 400,
    "export.too_wide": 409,
    # telemetry
    "telemetry.query_invalid": 400,
    "telemetry.query_contradictory": 409,
    "telemetry.query_too_large": 409,
    "telemetry.query_too_slow": 503,
    "telemetry.format_unknown": 406,
    "telemetry.format_not_installed": 501,
    # dead letters
    "dead_letter.not_found": 404,
    "dead_letter.device_gone": 409,
    "dead_letter.topic_not_ingested": 409,
    "stream.read_failed": 503,
    # what a device sent, told when a dead letter is replayed
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
    # requests to the HTTP ingest
    "http.path_unknown": 404,
    "http.method_not_allowed": 405,
    "http.timeout": 408,
    "http.media_type_unsupported": 415,
    "http.encoding_unsupported": 415,
    "http.query_invalid": 400,
    "http.busy": 503,
    # devices at the HTTP and MQTT doors
    "device.refused": 401,
    "device.suspended": 403,
    "connection.rate_exceeded": 429,
    "gateway.full": 503,
    "gateway.use_another_server": 503,
    "stream.full": 429,
    "stream.unavailable": 503,
    "stream.overtaken": 503,
    # watching live
    "live.too_many_watchers": 429,
    "live.selection_too_wide": 409,
    "live.server_closing": 503,
    "live.replay_failed": 503,
    "live.ticket_invalid": 401,
    "live.not_understood": 400,
}


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457, with our members. Further members depend on the code."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str


def title_of(code: str) -> str:
    """`quota.exceeded` -> "Quota exceeded"."""
    return code.replace(".", " ").replace("_", " ").capitalize()


def known_errors() -> Iterator[type[DomainError]]:
    """Every class with a code of its own that has been imported so far."""
    waiting: list[type[DomainError]] = [DomainError]
    while waiting:
        error = waiting.pop()
        waiting.extend(error.__subclasses__())
        if "code" in vars(error):
            yield error


def meaning_of(code: str) -> str:
    """For the docs page of a code: what its class says about itself."""
    for error in known_errors():
        if error.code == code and error.__doc__ and error.__doc__ != DomainError.__doc__:
            return inspect.cleandoc(error.__doc__)
    return title_of(code) + "."


def problem_of(error: DomainError, instance: str) -> dict[str, Any]:
    members: dict[str, Any] = {
        "type": f"{DOCS_PATH}/{error.code}",
        "title": title_of(error.code),
        "status": STATUS.get(error.code, 500),
        "code": error.code,
        "detail": error.detail,
        "instance": instance,
    }
    for name, value in error.fields.items():
        members.setdefault(name, value)
    return members


def unreadable() -> bytes:
    """For what the server could not even read as a request of HTTP."""
    error = Invalid(
        "this cannot be read as a request of HTTP", errors=[{"in": "request", "name": "", "message": "not HTTP"}]
    )
    return msgspec.json.encode(problem_of(error, f"urn:uuid:{uuid7()}"))


def respond(request: Request[Any, Any, Any], error: DomainError) -> Response[bytes]:
    identifier = request_id(request.scope)
    if error.code not in STATUS:
        log.error("error_without_status", code=error.code, request_id=str(identifier))
    problem = problem_of(error, f"urn:uuid:{identifier}")
    return Response(
        content=msgspec.json.encode(problem),
        status_code=problem["status"],
        media_type=MEDIA_TYPE,
        headers=_headers_of(error, problem["status"]),
    )


def _headers_of(error: DomainError, status: int) -> dict[str, str]:
    if status == 401 and isinstance(error, Unauthenticated):
        # RFC 6750, 3: error only where a credential was presented; we cannot say more without helping a guesser.
        return {"WWW-Authenticate": 'Bearer realm="headwater"'}
    if isinstance(error, QuotaExceeded):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if status == 503:
        return {"Retry-After": str(RETRY_AFTER_S)}
    if isinstance(error, MethodNotAllowed):
        return {"Allow": str(error.fields.get("allow", ""))}
    return {}


# --- where exceptions come from --------------------------------------------------------------------------------------


def on_domain_error(request: Request[Any, Any, Any], error: DomainError) -> Response[bytes]:
    return respond(request, error)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The framework's own: routing, parameters, body size."""
    return respond(request, _translate(request, error))


def _translate(request: Request[Any, Any, Any], error: HTTPException) -> DomainError:
    match error.status_code:
        case 404:
            return PathUnknown("nothing is here")
        case 405:
            allow = sorted(m.strip() for m in (error.headers or {}).get("allow", "").split(",") if m.strip())
            return MethodNotAllowed(f"{request.method} is not possible here", allow=", ".join(allow))
        case 413:
            return BodyTooLarge("the body is larger than this operation takes")
        case 415:
            return MediaTypeUnsupported("this operation does not read that Content-Type")
        case status if 400 <= status < 500:
            return Invalid("the request does not say what the API description asks for", errors=_fields_of(error))
        case _:
            return _unexpected(request, error)


def _fields_of(error: HTTPException) -> list[dict[str, str]]:
    """[{"in": "query", "name": "limit", "message": "Expected `int` >= 1"}]"""
    extra = error.extra if isinstance(error, ValidationException) and isinstance(error.extra, list) else []
    return [
        {
            "in": str(getattr(one.get("source"), "value", one.get("source") or "request")),
            "name": str(one.get("key", "")),
            "message": str(one.get("message", "")),
        }
        for one in extra
        if isinstance(one, dict)
    ] or [{"in": "request", "name": "", "message": error.detail}]


def on_serialization_error(request: Request[Any, Any, Any], error: SerializationException) -> Response[bytes]:
    return respond(request, Invalid("the body cannot be read", errors=[{"in": "body", "name": "", "message": str(error)}]))


def on_engine_away(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """PostgreSQL or NATS does not answer."""
    log.warning("engine_away", error=repr(error), request_id=str(request_id(request.scope)))
    return respond(request, Unavailable("an engine behind the API does not answer now"))


def on_text_refused(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """PostgreSQL keeps no U+0000, neither in text nor in JSON."""
    return respond(request, Invalid("text may not hold the character U+0000"))


def on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return respond(request, _unexpected(request, error))


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Unexpected:
    log.error(
        "request_failed",
        request_id=str(request_id(request.scope)),
        method=request.scope.get("method"),
        path=request.scope["path"],
        exc_info=error,
    )
    return Unexpected("a defect of ours; the instance finds it in the logs")


HANDLERS: dict[int | type[Exception], Any] = {
    DomainError: on_domain_error,
    HTTPException: on_http_exception,
    SerializationException: on_serialization_error,
    asyncpg.PostgresConnectionError: on_engine_away,
    asyncpg.CannotConnectNowError: on_engine_away,
    asyncpg.AdminShutdownError: on_engine_away,
    asyncpg.CrashShutdownError: on_engine_away,
    asyncpg.TooManyConnectionsError: on_engine_away,
    asyncpg.InterfaceError: on_engine_away,
    asyncpg.InternalClientError: on_engine_away,
    asyncpg.DataError: on_unexpected,  # an InterfaceError too, but it means that we let a bad value through
    asyncpg.CharacterNotInRepertoireError: on_text_refused,
    asyncpg.UntranslatableCharacterError: on_text_refused,
    NATSError: on_engine_away,
    OSError: on_engine_away,
    TimeoutError: on_engine_away,
    Exception: on_unexpected,
}

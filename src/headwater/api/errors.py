"""What goes wrong between HTTP and a noun's service."""

from __future__ import annotations

from headwater.errors import Conflict, DomainError, Invalid, NotFound, QuotaExceeded


class PathUnknown(NotFound):
    """No operation has this path."""

    code = "request.path_unknown"


class MethodNotAllowed(DomainError):
    """The path exists, but not for this method; the Allow header names those it has."""

    code = "request.method_not_allowed"


class BodyTooLarge(DomainError):
    """The body is larger than this operation takes."""

    code = "request.too_large"


class MediaTypeUnsupported(DomainError):
    """The body's Content-Type is not one that this operation reads."""

    code = "request.media_type_unsupported"


class CursorInvalid(Conflict):
    """The cursor was not given out for this list, filter and order, or is damaged. Start again without one."""

    code = "cursor.invalid"


class RateLimited(QuotaExceeded):
    """Too many requests of this token, person or tenant."""

    code = "request.rate_limited"


class IdempotencyKeyInvalid(Invalid):
    """An Idempotency-Key has 1 to 200 printable ASCII characters."""

    code = "idempotency.key_invalid"


class IdempotencyMismatch(Conflict):
    """This Idempotency-Key was already used for another request."""

    code = "idempotency.mismatch"


class IdempotencyInProgress(Conflict):
    """The first request with this Idempotency-Key is still running; ask again."""

    code = "idempotency.in_progress"


class IdempotencyGone(Conflict):
    """What the first request with this Idempotency-Key made has been deleted since."""

    code = "idempotency.gone"


class Unexpected(DomainError):
    """A defect of ours. The request id finds it in the logs."""

    code = "server.error"


class RouteUndeclared(Exception):
    """A route says neither which permission it needs nor that it is public: the API does not start."""

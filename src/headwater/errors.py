"""Errors that a device, a person or a program may be told about.

Owns the base class and the errors that no single stage owns. A stage adds its own in its `errors.py`. A code is a promise:
public, lower-case words joined by dots, never reused. How an edge says it (HTTP status, MQTT reason code) stands at that
edge: `api/problems.py`, `gateway/mqtt/reasons.py`.
"""

from __future__ import annotations

from typing import ClassVar


class DomainError(Exception):
    """A fact that the caller can act on. Knows nothing of HTTP or MQTT."""

    code: ClassVar[str]

    def __init__(self, detail: str, **fields: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields
        """Machine-readable members that an edge adds to its answer; JSON values only, nothing secret."""


class NotFound(DomainError):
    """There is no such thing, or not for you."""

    code = "resource.not_found"


class Conflict(DomainError):
    """It does not fit with what is there."""

    code = "resource.conflict"


class ReferenceUnknown(Conflict):
    """Something that the request names does not exist (now); `field` says where it is named."""

    code = "reference.unknown"

    def __init__(self, detail: str, field: str, **fields: object) -> None:
        super().__init__(detail, field=field, **fields)
        self.field = field


class VersionConflict(DomainError):
    """It has changed since you looked: read it again, and decide again."""

    code = "resource.version_conflict"


class Invalid(DomainError):
    """The request is not what the API's description asks for; `errors` names each member and parameter."""

    code = "request.invalid"


class Unauthenticated(DomainError):
    """No credential, or none that is known here."""

    code = "auth.unauthenticated"


class Forbidden(DomainError):
    """The credential is good, but not for this."""

    code = "auth.forbidden"


class QuotaExceeded(DomainError):
    """More than the quotas allow; Retry-After says when it may go again."""

    code = "quota.exceeded"

    def __init__(self, detail: str, *, retry_after_s: float, **fields: object) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, **fields)
        self.retry_after_s = retry_after_s


class Unavailable(DomainError):
    """An engine behind us cannot answer now; the same call may succeed later."""

    code = "service.unavailable"

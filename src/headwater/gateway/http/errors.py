"""What can be wrong with a request before anybody looks at its payload."""

from __future__ import annotations

from headwater.errors import DomainError, QuotaExceeded


class PathUnknown(DomainError):
    code = "http.path_unknown"


class MethodNotAllowed(DomainError):
    code = "http.method_not_allowed"


class MediaTypeUnsupported(DomainError):
    code = "http.media_type_unsupported"


class EncodingUnsupported(DomainError):
    code = "http.encoding_unsupported"


class QueryInvalid(DomainError):
    code = "http.query_invalid"


class RequestTimeout(DomainError):
    """The body did not arrive in time."""

    code = "http.timeout"


class IngestBusy(QuotaExceeded):
    """Too many large requests at once: this device's, or all of them."""

    code = "http.busy"

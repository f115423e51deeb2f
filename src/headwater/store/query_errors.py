"""How a telemetry query fails. Each says what to narrow, because the caller is the one who can."""

from __future__ import annotations

from headwater.errors import Conflict, DomainError, Invalid, Unavailable


class QueryInvalid(Invalid):
    """A part of the query is not what the API's description says."""

    code = "telemetry.query_invalid"


class QueryContradictory(Conflict):
    """Parts of the query contradict each other."""

    code = "telemetry.query_contradictory"


class QueryTooLarge(Conflict):
    """With as much as there is now, the answer would be larger than one answer may be."""

    code = "telemetry.query_too_large"


class QueryTooSlow(Unavailable):
    """The database was stopped at the time that one query may take."""

    code = "telemetry.query_too_slow"


class FormatUnknown(DomainError):
    """None of the formats that the caller accepts exists here."""

    code = "telemetry.format_unknown"


class FormatNotInstalled(DomainError):
    """The format exists, and this server was installed without it."""

    code = "telemetry.format_not_installed"

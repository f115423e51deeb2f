"""Why a payload did not become records. Every leaf is one stable code; the fields name the record and the metric."""

from __future__ import annotations

from headwater.errors import DomainError


class Rejected(DomainError):
    """The device's fault: the same bytes will be refused again, unless the profile changes.

    fields: `index` of the record in the message (0 = first), `metric`, where they are known.
    """

    def at(self, index: int) -> Rejected:
        """This error, naming the record; an index that is already there stays."""
        self.fields.setdefault("index", index)
        return self


class PayloadMalformed(Rejected):
    code = "payload.malformed"


class PayloadEmpty(Rejected):
    code = "payload.empty"


class PayloadTooLarge(Rejected):
    code = "payload.too_large"


class PayloadTooManyRecords(Rejected):
    code = "payload.too_many_records"


class PayloadTooManyValues(Rejected):
    code = "payload.too_many_values"


class PayloadPathMissing(Rejected):
    """The topic rule's path does not exist in this payload."""

    code = "payload.path_missing"


class MetricUnknown(Rejected):
    code = "metric.unknown"


class MetricNameInvalid(Rejected):
    code = "metric.name_invalid"


class MetricTypeMismatch(Rejected):
    code = "metric.type_mismatch"


class MetricOutOfBounds(Rejected):
    code = "metric.out_of_bounds"


class MetricTooLarge(Rejected):
    """A string or JSON value beyond its bound in length, depth or members."""

    code = "metric.too_large"


class TimestampMalformed(Rejected):
    code = "timestamp.malformed"


class TimestampImplausible(Rejected):
    code = "timestamp.implausible"


class EventNameInvalid(Rejected):
    code = "event.name_invalid"

"""What a model of device can do: its metrics, how its payloads are read, which topics it may use, how long data is kept."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from headwater.tenancy.text import NO_NUL

_IN_LEVEL = r"(?:[^/+#{}\x00]|\{(?:device|external_id)\})"
_FIRST_LEVEL = rf"(?:\+|(?:[^/+#{{}}$\x00]|\{{(?:device|external_id)\}}){_IN_LEVEL}*)?"
TOPIC_FILTER = rf"^(?:#|{_FIRST_LEVEL}(?:/(?:\+|{_IN_LEVEL}*))*(?:/#)?)$"
"""MQTT 5.0, 4.7: `+` is a level and `#` the last one. Topics that start with `$` belong to the broker."""
SUBSCRIPTION_FILTER = rf"^(?:#|(?:\$SYS|{_FIRST_LEVEL})(?:/(?:\+|{_IN_LEVEL}*))*(?:/#)?)$"
"""The same, and what the broker says of itself."""
JSON_POINTER = r"^(?:/(?:[^/~\x00]|~[01])*)*$"
"""RFC 6901"""
_PATTERNS = {
    "text": NO_NUL,
    "topic filter": TOPIC_FILTER,
    "subscription filter": SUBSCRIPTION_FILTER,
    "pointer": JSON_POINTER,
}
_TOLD = {name: {"pattern": pattern} for name, pattern in _PATTERNS.items()}
"""For the API's description only: what is wrong is said by profile_rules.py, in words."""

Name = Annotated[str, Meta(min_length=1, max_length=200, extra_json_schema=_TOLD["text"])]
TopicFilter = Annotated[str, Meta(min_length=1, max_length=500, extra_json_schema=_TOLD["topic filter"])]
SubscriptionFilter = Annotated[str, Meta(min_length=1, max_length=500, extra_json_schema=_TOLD["subscription filter"])]
DATA_FRESH_S = 3_600
"""Most devices report more often than once an hour, and one that has been silent for so long deserves a look."""
Days = Annotated[int, Meta(ge=1, le=36_500)]


class MetricType(StrEnum):
    FLOAT = "float"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    STRING = "string"
    JSON = "json"
    LOCATION = "location"


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """unit is SenML or UCUM; bounds are inclusive and only for numbers. retention_days: null = the profile's."""

    name: Name
    type: MetricType = MetricType.FLOAT
    unit: Annotated[str, Meta(max_length=50, extra_json_schema=_TOLD["text"])] = ""
    min: float | None = None
    max: float | None = None
    retention_days: Days | None = None
    description: Annotated[str, Meta(max_length=500, extra_json_schema=_TOLD["text"])] = ""


class Decoder(StrEnum):
    """How a payload becomes values. AUTO: JSON in all its shapes, or what the HTTP content type or MQTT 5 says."""

    AUTO = "auto"
    JSON = "json"
    SENML_JSON = "senml-json"
    SENML_CBOR = "senml-cbor"
    CBOR = "cbor"
    MSGPACK = "msgpack"


class UnknownMetrics(StrEnum):
    """What happens to a metric that the profile does not declare."""

    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"


class TopicKind(StrEnum):
    TELEMETRY = "telemetry"
    ATTRIBUTES = "attributes"
    EVENT = "event"


class TopicRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A topic that firmware already uses, and what it means here.

    filter    an MQTT topic filter; `{device}` and `{external_id}` stand for the connected device
    path      JSON pointer to the part of the payload that holds the values ("" = all of it)
    flatten   nested objects become metrics with dotted names (`AM2301.Temperature`), as Tasmota and Zigbee2MQTT send
    time_key  the member that holds the device's time, where it is not `ts` or `time`
    """

    filter: TopicFilter
    kind: TopicKind = TopicKind.TELEMETRY
    decoder: Decoder = Decoder.AUTO
    path: Annotated[str, Meta(max_length=200, extra_json_schema=_TOLD["pointer"])] = ""
    flatten: bool = False
    time_key: Annotated[str, Meta(max_length=200, extra_json_schema=_TOLD["text"])] = ""


class ProfileDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known of a model of device.

    publish         ordinary topics that the device may publish to, besides its contracts
    subscribe       ordinary topics that the device may subscribe to; `$SYS/#` shows it the tenant's figures
    retention_days  for how long telemetry is kept; a metric may say otherwise
    future_s_max    how far ahead of ours a device's clock may be
    data_fresh_s    how old the newest telemetry of a device may be and still count as fresh: some of its reporting intervals
    """

    metrics: Annotated[tuple[Metric, ...], Meta(max_length=1000)] = ()
    unknown_metrics: UnknownMetrics = UnknownMetrics.ACCEPT
    decoder: Decoder = Decoder.AUTO
    topics: Annotated[tuple[TopicRule, ...], Meta(max_length=100)] = ()
    publish: Annotated[tuple[TopicFilter, ...], Meta(max_length=100)] = ()
    subscribe: Annotated[tuple[SubscriptionFilter, ...], Meta(max_length=100)] = ()
    retention_days: Days = 365
    future_s_max: Annotated[int, Meta(ge=0, le=86_400)] = 300
    data_fresh_s: Annotated[int, Meta(ge=1, le=31_536_000)] = DATA_FRESH_S

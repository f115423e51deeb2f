"""From a topic name to what a message on it means. Resolved once per connection and topic, then looked up.

The contracts that every device has: the native topics below its prefix, and ThingsBoard's. Then its profile's topic map,
then the ordinary topics that its profile allows. Anything else is denied. The anonymous principal has no contracts: each
of its topics is ordinary.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from headwater.device.principal import Principal
from headwater.device.profile import Decoder
from headwater.gateway.mqtt.authorisation import expand, prefix_of
from headwater.ingest.decoders import decoder_of
from headwater.ingest.profile_compiled import CompiledProfile, PayloadReader
from headwater.protocols.mqtt.properties import Properties
from headwater.protocols.mqtt.topics import match as topic_matches
from headwater.stream.envelope import Kind

Samples = list[tuple[int, dict[str, Any]]]
"""[(observed_us, body)]"""


class Reader(Protocol):
    """Raises ingest's Rejected. `decoder` is what MQTT 5's content type says, None = the profile's."""

    def __call__(self, payload: bytes, received_us: int, decoder: Decoder | None = None, /) -> Samples: ...


class Route:
    """A topic whose messages become records."""

    __slots__ = ("device", "kind", "read", "tenant")

    def __init__(self, principal: Principal, kind: Kind, read: Reader) -> None:
        self.kind = int(kind)
        self.read = read
        self.tenant = principal.tenant_id.bytes
        self.device = principal.device_id.bytes


class Ordinary:
    """A topic whose messages go to its subscribers."""

    __slots__ = ()


ORDINARY = Ordinary()


def resolve(principal: Principal, profile: CompiledProfile, topic: str) -> Route | Ordinary | None:
    """None = denied."""
    if principal.anonymous:
        return None if topic == _SYS or topic.startswith(f"{_SYS}/") else ORDINARY
    prefix = prefix_of(principal)
    contract = topic.removeprefix(prefix) if topic.startswith(prefix) else _THINGSBOARD.get(topic, "")
    if contract == "telemetry":
        return Route(principal, Kind.TELEMETRY, profile.telemetry)
    if contract == "attributes":
        return Route(principal, Kind.ATTRIBUTES, profile.attributes)
    head, slash, name = contract.partition("/")
    if head == "events" and slash and "/" not in name:
        return Route(principal, Kind.EVENT, partial(profile.event, name))
    for rule in profile.topic_rules:
        for topic_filter in expand((rule.filter,), principal):
            if topic_matches(topic_filter, topic):
                return Route(principal, rule.kind, _as_ruled(rule.reader(topic)))
    if any(topic_matches(f, topic) for f in expand(principal.profile.definition.publish, principal)):
        return ORDINARY
    return None


def decoder_named(properties: Properties) -> Decoder | None:
    """What an MQTT 5 publisher says its payload is; None = nothing that we know, so the profile decides."""
    return decoder_of(properties.content_type) if properties.content_type else None


def _as_ruled(read: PayloadReader) -> Reader:
    """A topic rule names its decoder itself, whatever the publisher says."""

    def reader(payload: bytes, received_us: int, _decoder: Decoder | None = None, /) -> Samples:
        return read(payload, received_us)

    return reader


_SYS = "$SYS"
"""What the broker says of itself: to be read only (section 4.7.2)."""
_THINGSBOARD = {"v1/devices/me/telemetry": "telemetry", "v1/devices/me/attributes": "attributes"}

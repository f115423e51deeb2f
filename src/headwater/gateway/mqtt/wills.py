"""What a client's will means, so that somebody else can publish it should this gateway die."""

from __future__ import annotations

import msgspec

from headwater.device.principal import Principal
from headwater.errors import DomainError
from headwater.gateway.mqtt.messages import kept_properties, now_us
from headwater.gateway.mqtt.routes import Route, decoder_named, resolve
from headwater.ingest.errors import PayloadTooLarge
from headwater.ingest.profile_compiled import CompiledProfile
from headwater.protocols.mqtt.packets import Publish, Will
from headwater.protocols.mqtt.properties import EMPTY
from headwater.stream.envelope import DeadLetter, Message, Record
from headwater.stream.session_store import StoredWill


def stored_will(will: Will, sender: bytes, principal: Principal, profile: CompiledProfile) -> StoredWill | None:
    """Read now, by the profile as it is now: whoever publishes it reads no payloads. None = its topic is denied.

    sender  the client's key
    """
    try:
        route = resolve(principal, profile, will.topic)
    except DomainError:  # an event topic whose name is none
        return None
    if route is None:
        return None
    properties = will.properties
    kept = None if properties is EMPTY else kept_properties(properties, None)
    message = Message(will.topic, will.payload, will.qos, will.retain, sender, 0, kept)
    stored = StoredWill(message, properties.will_delay_s or 0, properties.message_expiry_s)
    if not isinstance(route, Route):
        return stored
    try:
        return msgspec.structs.replace(stored, records=_records_of(will, route, principal))
    except DomainError as error:
        letter = DeadLetter(
            device=principal.device_id.bytes, source="mqtt", topic=will.topic, code=error.code, detail=error.detail,
            received_at=0, payload=will.payload, content_type=properties.content_type or "",
        )  # fmt: skip
        return msgspec.structs.replace(stored, letter=letter)


def _records_of(will: Will, route: Route, principal: Principal) -> list[Record]:
    """Raises PayloadTooLarge, and ingest's Rejected."""
    bytes_max = principal.quotas.message_bytes_max
    if len(will.payload) > bytes_max:
        raise PayloadTooLarge(f"the message is larger than {bytes_max} bytes")
    read_at = now_us()
    samples = route.read(will.payload, read_at, decoder_named(will.properties))
    return [
        Record(route.tenant, route.device, route.kind, 0 if at == read_at else at, 0, 0, place, body)
        for place, (at, body) in enumerate(samples)
    ]


def as_publish(will: Will) -> Publish:
    """Without the property that says when to publish it."""
    properties = msgspec.structs.replace(will.properties, will_delay_s=None) if will.properties is not EMPTY else None
    return Publish(topic=will.topic, payload=will.payload, qos=will.qos, retain=will.retain, properties=properties)

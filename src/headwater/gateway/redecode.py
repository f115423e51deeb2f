"""A dead letter, read again by the device's profile as it is now.

Pure. The records are the same whenever this is done: their time is the device's own or that of the first receipt, their
epoch and place come from the letter. That, and `Flag.RESENT`, is what makes a repeated replay harmless
(stream/dead_letter_replay.py).
"""

from __future__ import annotations

import msgspec

from headwater.device.principal import Principal
from headwater.gateway.mqtt.routes import Route, resolve
from headwater.ingest.decoders import decoder_of
from headwater.ingest.errors import PayloadMalformed
from headwater.ingest.profile_compiled import CompiledProfile, CompiledProfiles, Observed
from headwater.stream.dead_letters import NotReplayable
from headwater.stream.envelope import DeadLetter, Flag, Kind, Record, UnknownEnvelope, decode_batch

RECORDS = "application/vnd.headwater.records+msgpack"
"""The payload is a record batch that the store could not keep."""
_EVENTS = "/v1/events/"


class TopicNotIngested(NotReplayable):
    """The topic or path means no records for this device, or not any more."""

    code = "dead_letter.topic_not_ingested"


class Redecoder:
    def __init__(self, profiles: CompiledProfiles) -> None:
        self._profiles = profiles

    def __call__(self, principal: Principal, letter: DeadLetter) -> list[Record]:
        """Raises Rejected, NotReplayable."""
        if letter.content_type == RECORDS:
            return _records(principal, letter)
        profile = self._profiles.get(principal.profile)
        read = _read_http if letter.source == "http" else _read_mqtt
        kind, observed = read(principal, profile, letter)
        return [
            Record(
                principal.tenant_id.bytes, principal.device_id.bytes, kind, observed_at, letter.received_at,
                letter.received_at, place, body, Flag.RESENT,
            )
            for place, (observed_at, body) in enumerate(observed)
        ]  # fmt: skip


def _read_mqtt(principal: Principal, profile: CompiledProfile, letter: DeadLetter) -> tuple[int, list[Observed]]:
    route = resolve(principal, profile, letter.topic)
    if not isinstance(route, Route):
        raise TopicNotIngested(f"the topic {letter.topic[:200]} holds no telemetry, attributes or events of this device")
    decoder = decoder_of(letter.content_type) if letter.content_type else None
    return route.kind, route.read(letter.payload, letter.received_at, decoder)


def _read_http(_: Principal, profile: CompiledProfile, letter: DeadLetter) -> tuple[int, list[Observed]]:
    decoder = decoder_of(letter.content_type) if letter.content_type else None
    if letter.topic == "/v1/telemetry":
        return Kind.TELEMETRY, profile.telemetry(letter.payload, letter.received_at, decoder)
    if letter.topic == "/v1/attributes":
        return Kind.ATTRIBUTES, profile.attributes(letter.payload, letter.received_at, decoder)
    if letter.topic.startswith(_EVENTS):
        name = letter.topic.removeprefix(_EVENTS)
        return Kind.EVENT, profile.event(name, letter.payload, letter.received_at, decoder)
    raise TopicNotIngested(f"the path {letter.topic[:200]} holds no telemetry, attributes or events")


def _records(principal: Principal, letter: DeadLetter) -> list[Record]:
    try:
        records = decode_batch(letter.payload)
    except (msgspec.DecodeError, UnknownEnvelope) as error:
        raise PayloadMalformed("the record batch cannot be read") from error
    owner = (principal.tenant_id.bytes, principal.device_id.bytes)
    if any((record.tenant, record.device) != owner for record in records):
        raise PayloadMalformed("the record batch is not of this device")
    for record in records:
        record.flags |= Flag.RESENT
    return records

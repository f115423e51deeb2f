"""A record as a watcher sees it: one JSON object.

An event's id is `<stream sequence>-<place in the batch>`; ids rise within a tenant, and a watcher resumes behind one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from headwater.clock import to_datetime
from headwater.stream.envelope import EXT_JSON, EXT_LOCATION, Kind, Record


class EventKind(StrEnum):
    """What a watcher may ask for."""

    TELEMETRY = "telemetry"
    ATTRIBUTES = "attributes"
    PRESENCE = "presence"
    EVENTS = "events"


RECORD_KINDS: Mapping[EventKind, frozenset[int]] = {
    EventKind.TELEMETRY: frozenset({Kind.TELEMETRY}),
    EventKind.ATTRIBUTES: frozenset({Kind.ATTRIBUTES}),
    EventKind.PRESENCE: frozenset({Kind.CONNECTED, Kind.DISCONNECTED}),
    EventKind.EVENTS: frozenset({Kind.EVENT}),
}


class EventId(NamedTuple):
    """Stream sequence of the batch, and the place in it."""

    sequence: int
    place: int

    def __str__(self) -> str:
        return f"{self.sequence}-{self.place}"


_ID = re.compile(r"([0-9]{1,19})-([0-9]{1,9})", re.ASCII)


def parse_id(text: str) -> EventId | None:
    match = _ID.fullmatch(text)
    return EventId(int(match[1]), int(match[2])) if match else None


class _Event(msgspec.Struct, tag_field="type", gc=False):
    id: str
    device_id: UUID
    observed_at: datetime
    received_at: datetime


class TelemetryEvent(_Event, tag="telemetry"):
    values: dict[str, Any]


class AttributesEvent(_Event, tag="attributes"):
    """A value of null means that the device has forgotten the attribute."""

    values: dict[str, Any]


class DeviceEvent(_Event, tag="event"):
    name: str
    data: Any


class PresenceEvent(_Event, tag="presence"):
    """epoch rises with every connection of the device: what an older one says about itself is of no interest any more.
    reason: why it ended, as in a device's presence; detail: the same, for people.
    """

    connected: bool
    epoch: int
    reason: str
    detail: str
    protocol: str


class Missed(msgspec.Struct, tag="missed", tag_field="type"):
    """Events that this watcher did not get and will not get. count is None where nobody knows how many."""

    count: int | None


def _encode_extension(value: object) -> object:
    if isinstance(value, msgspec.msgpack.Ext):
        if value.code == EXT_JSON:
            return msgspec.Raw(bytes(value.data))
        if value.code == EXT_LOCATION:
            return location(bytes(value.data))
    # What msgspec asks an enc_hook to raise for a type that it does not know.
    raise NotImplementedError(f"a live event cannot hold {type(value).__name__}")


def location(data: bytes) -> dict[str, float]:
    latitude, longitude, *altitude = msgspec.msgpack.decode(data)
    shown = {"latitude": latitude, "longitude": longitude}
    return shown | {"altitude_m": altitude[0]} if altitude else shown


_encoder = msgspec.json.Encoder(enc_hook=_encode_extension)


def encode_missed(count: int | None) -> bytes:
    return _encoder.encode(Missed(count))


def encode(record: Record, event_id: EventId, metrics: frozenset[str] | None = None) -> bytes | None:
    """The record as JSON. metrics: only these; None where none of them is in the record."""
    head = (
        str(event_id),
        UUID(bytes=record.device),
        to_datetime(record.observed_at),
        to_datetime(record.received_at),
    )
    body = record.body
    match record.kind:
        case Kind.TELEMETRY:
            if metrics is not None:
                body = {name: value for name, value in body.items() if name in metrics}
                if not body:
                    return None
            return _encoder.encode(TelemetryEvent(*head, body))
        case Kind.ATTRIBUTES:
            return _encoder.encode(AttributesEvent(*head, body))
        case Kind.EVENT:
            return _encoder.encode(DeviceEvent(*head, body.get("name", ""), body.get("data")))
        case Kind.CONNECTED | Kind.DISCONNECTED:
            connected = record.kind == Kind.CONNECTED
            reason, detail, protocol = (body.get(name, "") for name in ("reason", "detail", "protocol"))
            return _encoder.encode(PresenceEvent(*head, connected, record.epoch, reason, detail, protocol))
    # A kind that a newer gateway knows and this program does not is nobody's to see here.
    return None

"""The device as people and programs see it, and the bounds of what they may write on it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from headwater.device.errors import DeviceInvalid
from headwater.tenancy.text import SPACES

EXTERNAL_ID = rf"^[^{SPACES}/+#\x00-\x1f\x7f]([^/+#\x00-\x1f\x7f]{{0,198}}[^{SPACES}/+#\x00-\x1f\x7f])?$"
"""It stands in the topics of a profile, where `/`, `+` and `#` would reach into topics of other devices."""
LABELS_MAX = 64
LABEL_CHARACTERS_MAX = 200
ATTRIBUTES_MAX = 256
ATTRIBUTES_BYTES_MAX = 16_384
"""As JSON. A list of 1,000 devices is answered from memory, so this bounds an answer to 16 MiB."""
ATTRIBUTES_DEPTH_MAX = 32
"""Nobody means more. It keeps what merges and checks recursively far from Python's limit; a schema cannot say it."""
NAME_CHARACTERS_MAX = 200

TEXT = r"^[^\x00]*$"
"""PostgreSQL keeps no NUL."""

_EXTERNAL_ID = re.compile(EXTERNAL_ID)

ExternalID = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=EXTERNAL_ID, description="Your own name for it, unique in the tenant.")
]
DeviceName = Annotated[str, Meta(max_length=NAME_CHARACTERS_MAX, pattern=TEXT)]
ProfileName = Annotated[str, Meta(max_length=200, description="The name of a profile.", extra_json_schema={"pattern": TEXT})]
LabelName = Annotated[str, Meta(min_length=1, max_length=LABEL_CHARACTERS_MAX, pattern=TEXT)]
LabelText = Annotated[str, Meta(min_length=1, max_length=LABEL_CHARACTERS_MAX, pattern=TEXT)]
JSONValue = Annotated[Any, Meta(extra_json_schema={"format": "headwater-json"})]
Attributes = Annotated[dict[LabelName, JSONValue], Meta(max_length=ATTRIBUTES_MAX)]


class Status(StrEnum):
    """registered -> active at the first contact; either <-> suspended; any -> decommissioned, for good."""

    REGISTERED = "registered"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DECOMMISSIONED = "decommissioned"


class ReportedValue(msgspec.Struct, frozen=True):
    value: Any
    observed_at: datetime | None


class Presence(msgspec.Struct, frozen=True):
    """Three different things: `connected`, a connection is open; `last_seen_at`, when anything was heard of the device last;
    `data_fresh`, its telemetry is no older than its profile expects (`data_fresh_s`). An open connection may be silent, and
    a device that sends over HTTP is never connected.

    connection_version  only rises: with every newer word about the connection
    changed_at          when `connected` last changed
    reason              why the last connection ended, a stable code: client_disconnect, connection_lost,
                        keep_alive_timeout, taken_over, protocol_error, topic_denied, not_stored,
                        authentication_failed, quota_exceeded, administrative, server_busy, server_shutdown,
                        gateway_lost; "" while connected
    detail              the same, for people
    last_seen_at        the last message of any kind
    data_at             when the last telemetry that is stored was received
    client_id, protocol, address: of the connection there is, or was last
    """

    connected: bool
    connection_version: int
    changed_at: datetime | None
    reason: str
    detail: str
    last_seen_at: datetime | None
    data_at: datetime | None
    data_fresh: bool
    client_id: str
    protocol: str
    address: str


class Device(msgspec.Struct, frozen=True):
    """attributes are set by people and programs, reported ones by the device."""

    id: UUID
    external_id: str
    name: str
    profile_id: UUID
    profile: str
    status: Status
    labels: dict[str, str]
    attributes: dict[str, Any]
    reported: dict[str, ReportedValue]
    presence: Presence
    version: int
    created_at: datetime
    updated_at: datetime


class NewDevice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device to be. Labels are for selecting, attributes are facts of any JSON form."""

    external_id: ExternalID
    name: DeviceName = ""
    profile: ProfileName = "default"
    labels: Annotated[dict[LabelName, LabelText], Meta(max_length=LABELS_MAX)] = {}
    attributes: Attributes = {}

    def check(self) -> None:
        """Raises DeviceInvalid."""
        check_external_id(self.external_id)
        check_name(self.name)
        check_labels(self.labels)
        check_attributes(self.attributes)


class DevicePatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is absent stays. Labels and attributes are merged (RFC 7396): null removes a member."""

    external_id: ExternalID | msgspec.UnsetType = msgspec.UNSET
    name: DeviceName | msgspec.UnsetType = msgspec.UNSET
    profile: ProfileName | msgspec.UnsetType = msgspec.UNSET
    labels: Annotated[dict[LabelName, LabelText | None], Meta(max_length=LABELS_MAX)] | msgspec.UnsetType = msgspec.UNSET
    attributes: Attributes | msgspec.UnsetType = msgspec.UNSET


def check_text(text: str, field: str) -> None:
    """What PostgreSQL cannot keep as text."""
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise DeviceInvalid(f"{field} holds a character that is no text", field)


def check_external_id(external_id: str) -> None:
    if not _EXTERNAL_ID.match(external_id) or external_id.endswith("\n"):
        raise DeviceInvalid(
            "external_id has 1 to 200 characters, without /, + and #, control characters and outer spaces", "external_id"
        )
    check_text(external_id, "external_id")


def check_name(name: str) -> None:
    if len(name) > NAME_CHARACTERS_MAX:
        raise DeviceInvalid(f"name has at most {NAME_CHARACTERS_MAX} characters", "name")
    check_text(name, "name")


def check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > LABELS_MAX:
        raise DeviceInvalid(f"a device has at most {LABELS_MAX} labels", "labels")
    for name, value in labels.items():
        field = f"labels.{name}"
        if not 1 <= len(name) <= LABEL_CHARACTERS_MAX or not 1 <= len(value) <= LABEL_CHARACTERS_MAX:
            raise DeviceInvalid(f"a label and its text have 1 to {LABEL_CHARACTERS_MAX} characters", field[:250])
        check_text(name, "labels")
        check_text(value, field)


def check_attributes(attributes: Mapping[str, Any]) -> None:
    if len(attributes) > ATTRIBUTES_MAX:
        raise DeviceInvalid(f"a device has at most {ATTRIBUTES_MAX} attributes", "attributes")
    for name, value in attributes.items():
        if not 1 <= len(name) <= LABEL_CHARACTERS_MAX:
            raise DeviceInvalid(f"an attribute's name has 1 to {LABEL_CHARACTERS_MAX} characters", "attributes")
        check_text(name, "attributes")
        _check_json(value, f"attributes.{name}", 1)
    if attributes and len(msgspec.json.encode(attributes)) > ATTRIBUTES_BYTES_MAX:
        raise DeviceInvalid(f"all attributes together have at most {ATTRIBUTES_BYTES_MAX} bytes as JSON", "attributes")


def _check_json(value: object, field: str, depth: int) -> None:
    if depth > ATTRIBUTES_DEPTH_MAX:
        raise DeviceInvalid(f"an attribute is at most {ATTRIBUTES_DEPTH_MAX} levels deep", field)
    if isinstance(value, str):
        check_text(value, field)
    elif isinstance(value, dict):
        for name, member in value.items():
            check_text(name, field)
            _check_json(member, field, depth + 1)
    elif isinstance(value, list):
        for member in value:
            _check_json(member, field, depth + 1)


def merge_attributes(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the patch first: the merge is recursive, so it must not be deep."""
    check_attributes(patch)
    merged: dict[str, Any] = merge_patch(target, patch)
    check_attributes(merged)
    return merged


def merge_labels(target: Mapping[str, str], patch: Mapping[str, str | None]) -> dict[str, str]:
    merged = {**target, **{name: value for name, value in patch.items() if value is not None}}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
    check_labels(merged)
    return merged


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: null removes, an object merges, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged

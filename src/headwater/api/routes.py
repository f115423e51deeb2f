"""Every noun of the API, in the order of its documentation. A new one appends a line."""

from __future__ import annotations

from headwater.api import (
    credentials,
    dead_letters,
    device_files,
    devices,
    docs,
    groups,
    health,
    live,
    operator,
    people,
    profiles,
    sessions,
    telemetry,
    tenant,
    timeline,
    tokens,
)
from headwater.api.services import Noun
from headwater.console import pages as console

NOUNS: tuple[Noun, ...] = (
    health.NOUN,
    sessions.NOUN,
    tenant.NOUN,
    people.NOUN,
    tokens.NOUN,
    profiles.NOUN,
    devices.NOUN,
    device_files.NOUN,
    credentials.NOUN,
    groups.NOUN,
    telemetry.NOUN,
    timeline.NOUN,
    dead_letters.NOUN,
    live.NOUN,
    operator.NOUN,
    docs.NOUN,
    console.NOUN,
)

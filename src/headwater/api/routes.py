"""Every noun of the API, in the order of its documentation. A new one appends a line."""

from __future__ import annotations

from headwater.api import credentials, device_files, devices, groups, health, live, profiles, telemetry, tokens
from headwater.api.services import Noun

NOUNS: tuple[Noun, ...] = (
    health.NOUN,
    tokens.NOUN,
    profiles.NOUN,
    devices.NOUN,
    device_files.NOUN,
    credentials.NOUN,
    groups.NOUN,
    telemetry.NOUN,
    live.NOUN,
)

"""Which topics a device may use: filters compiled once per profile version and device, never evaluated per message.

Everything that is not granted is denied. The device's own identity is part of each granted filter, so no topic, whatever
it says, reaches another device or another tenant. One principal has no such bounds, and says so itself: the anonymous one of
`headwater up --dev-anonymous`.
"""

from __future__ import annotations

from collections.abc import Iterable

from headwater.device.principal import Principal

EVERYTHING = "\0"
"""Grants every topic filter, `$...` too. No profile can say it: U+0000 stands in no filter [MQTT-4.7.3-2]."""


def prefix_of(principal: Principal) -> str:
    """The native topics of a device: `d/<tenant>/<device>/`."""
    return f"d/{principal.tenant_slug}/{principal.device_id}/"


def subscribable(principal: Principal) -> tuple[str, ...]:
    """The filters that the device may subscribe to, or to any part of."""
    if principal.anonymous:
        return (EVERYTHING,)
    own = prefix_of(principal)
    return (
        f"{own}commands/#",
        f"{own}errors",
        "v1/devices/me/attributes",
        "v1/devices/me/attributes/response/+",
        "v1/devices/me/rpc/request/+",
        *expand(principal.profile.definition.subscribe, principal),
    )


def expand(filters: Iterable[str], principal: Principal) -> tuple[str, ...]:
    """Profile filters, filled in with `{device}` and `{external_id}`. An external id that would add a level is left out."""
    external_id = principal.external_id
    plain = not any(c in external_id for c in "+#/\0")
    return tuple(
        f.replace("{device}", str(principal.device_id)).replace("{external_id}", external_id)
        for f in filters
        if plain or "{external_id}" not in f
    )


def covers(granted: str, requested: str) -> bool:
    """True where every topic that matches `requested` also matches `granted`: a valid topic filter, or EVERYTHING."""
    if granted == EVERYTHING:
        return True
    grants, requests = granted.split("/"), requested.split("/")
    for position, grant in enumerate(grants):
        if grant == "#":
            # A leading wildcard never grants `$` topics, which it would not match [MQTT-4.7.2-1].
            return position > 0 or not requests[0].startswith("$")
        if position == len(requests):
            return False
        request = requests[position]
        if request == "#" or grant not in {"+", request}:
            return False
        if grant == "+" and position == 0 and request.startswith("$"):
            return False
    return len(grants) == len(requests)


def may_subscribe(granted: Iterable[str], requested: str) -> bool:
    return any(covers(grant, requested) for grant in granted)

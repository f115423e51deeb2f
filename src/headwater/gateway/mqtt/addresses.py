"""Under what an address is counted, and which network it is in. No socket, no time."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def host_of(address: str) -> str:
    """Of `192.0.2.1:5000` or `[2001:db8::1]:5000`."""
    return address.rpartition(":")[0].strip("[]")


def judged_host(address: str, exempt: Sequence[Network]) -> str | None:
    """Under what an address is counted: IPv4 as it is, of IPv6 the /64 that one subscriber has. None = not judged."""
    try:
        ip = ipaddress.ip_address(host_of(address).partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if within(ip, exempt):
        return None
    return str(ip) if ip.version == 4 else str(ipaddress.IPv6Address(int(ip) >> 64 << 64))


def within(ip: Any, networks: Sequence[Network]) -> bool:
    return any(ip in network for network in networks)

"""PROXY headers, version 2, as a load balancer writes them."""

from __future__ import annotations

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def ipv4_header(source: str, port: int, tlvs: bytes = b"") -> bytes:
    addresses = ipaddress.IPv4Address(source).packed + bytes((127, 0, 0, 1)) + struct.pack("!HH", port, 1883)
    return SIGNATURE + b"\x21\x11" + struct.pack("!H", len(addresses) + len(tlvs)) + addresses + tlvs


def ipv6_header(source: str, port: int) -> bytes:
    addresses = ipaddress.IPv6Address(source).packed + bytes(16) + struct.pack("!HH", port, 1883)
    return SIGNATURE + b"\x21\x21" + struct.pack("!H", len(addresses)) + addresses


def local_header(tlvs: bytes = b"") -> bytes:
    """A health check of the load balancer's own."""
    return SIGNATURE + b"\x20\x00" + struct.pack("!H", len(tlvs)) + tlvs

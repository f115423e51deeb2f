"""PROXY protocol, version 2: a load balancer says in front of everything else whose connection it hands on.

Only where it is configured, and then always: a connection without the header is refused, because what it says decides whose
address is limited and shown. Only from networks that are trusted, because anybody can write one. Version 1 is a line of text
without a length; refused, with words.

Source: haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.2.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Final

from headwater.gateway.mqtt.addresses import Network, host_of, within
from headwater.gateway.mqtt.visitor import Refusal

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
FIXED_BYTES: Final = 16
REST_BYTES_MAX: Final = 4_096
"""Addresses are 36 bytes; the rest are TLVs, of which the largest in use is a certificate's name."""
_LOCAL, _PROXY = 0x20, 0x21
_IPV4, _IPV6 = 0x11, 0x21  # over TCP


class ProxyRefused(Exception):
    """What came is no header that we take."""

    def __init__(self, detail: str, code: str = "proxy.malformed") -> None:
        super().__init__(detail)
        self.refusal = Refusal("proxy", code, detail)


async def read(listener_side: socket.socket, peer: str, trusted: Sequence[Network]) -> str:
    """The client's address, `peer` for the proxy's own (health checks). Takes the header from the socket, and no byte more.

    Raises ProxyRefused; OSError where nothing came at all. The time limit is the caller's.
    """
    check_trusted(peer, trusted)
    head = await _exactly(listener_side, FIXED_BYTES)
    length = rest_bytes(head)
    return decode(head, await _exactly(listener_side, length)) or peer


def check_trusted(peer: str, trusted: Sequence[Network]) -> None:
    try:
        ip = ipaddress.ip_address(host_of(peer).partition("%")[0])
    except ValueError as error:
        raise ProxyRefused(f"{peer} is no address", "proxy.untrusted") from error
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not within(ip, trusted):
        raise ProxyRefused(f"{ip} is not in HEADWATER_GATEWAY_PROXY_NETWORKS", "proxy.untrusted")


def judge_start(head: bytes) -> None:
    """Raises ProxyRefused as soon as the first bytes cannot become a header."""
    if SIGNATURE.startswith(head[: len(SIGNATURE)]):
        return
    if b"PROXY ".startswith(head[:6]):
        raise ProxyRefused("PROXY protocol version 1: let the load balancer send version 2", "proxy.version")
    raise ProxyRefused("no PROXY header: HEADWATER_GATEWAY_PROXY_PROTOCOL is set, so the load balancer must send one")


def rest_bytes(head: bytes) -> int:
    """How many bytes follow the first FIXED_BYTES."""
    judge_start(head)
    command, length = head[12], struct.unpack_from("!H", head, 14)[0]
    if command not in (_LOCAL, _PROXY):
        raise ProxyRefused(f"version and command 0x{command:02X} are unknown", "proxy.version")
    if length > REST_BYTES_MAX:
        raise ProxyRefused(f"the header has {length} bytes, {REST_BYTES_MAX} are allowed")
    return int(length)


def decode(head: bytes, rest: bytes) -> str | None:
    """The client's address; None where the header names none."""
    if head[12] == _LOCAL:
        return None
    family = head[13]
    if family == _IPV4 and len(rest) >= 12:
        return f"{socket.inet_ntop(socket.AF_INET, rest[:4])}:{struct.unpack_from('!H', rest, 8)[0]}"
    if family == _IPV6 and len(rest) >= 36:
        return f"[{socket.inet_ntop(socket.AF_INET6, rest[:16])}]:{struct.unpack_from('!H', rest, 32)[0]}"
    if family in (_IPV4, _IPV6):
        raise ProxyRefused(f"{len(rest)} bytes are too few for the addresses")
    return None  # unspecified, or a family that is none of a network's: "must be accepted and ignored"


async def _exactly(source: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    got = b""
    while len(got) < count:
        more = await loop.sock_recv(source, count - len(got))
        if not more and not got and count == FIXED_BYTES:
            raise ConnectionResetError("closed before the header")
        if not more:
            raise ProxyRefused("the connection ended within the PROXY header")
        got += more
        if count == FIXED_BYTES:
            judge_start(got)
    return got

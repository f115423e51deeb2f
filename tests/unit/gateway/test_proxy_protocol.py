"""The PROXY header, version 2: bytes in, an address or a refusal out."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import pytest
from tests.support.proxy import ipv4_header, ipv6_header, local_header

from headwater.gateway.mqtt.proxy_protocol import FIXED_BYTES, REST_BYTES_MAX, SIGNATURE, ProxyRefused, read

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
PEER = "127.0.0.1:4000"


async def hear(sent: bytes, *, peer: str = PEER, piece: int = 1 << 20) -> tuple[str, bytes]:
    """What `read` says, and what it leaves for the protocol behind."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()

        async def send() -> None:
            for start in range(0, len(sent), piece):
                await loop.sock_sendall(theirs, sent[start : start + piece])
                await asyncio.sleep(0)
            theirs.shutdown(socket.SHUT_WR)

        sending = asyncio.create_task(send())
        address = await read(ours, peer, LOOPBACK)
        await sending
        return address, await loop.sock_recv(ours, 100)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("header", "address"),
    [
        (ipv4_header("192.0.2.7", 40_000), "192.0.2.7:40000"),
        (ipv6_header("2001:db8::7", 40_000), "[2001:db8::7]:40000"),
        (ipv4_header("192.0.2.7", 40_000, tlvs=b"\x04\x00\x03abc"), "192.0.2.7:40000"),
        (local_header(), PEER),
        (local_header(tlvs=b"\x04\x00\x01x"), PEER),
        (SIGNATURE + b"\x21\x00\x00\x00", PEER),  # unspecified: "must be accepted"
        (SIGNATURE + b"\x21\x31\x00\x04abcd", PEER),  # a UNIX socket
    ],
)
async def test_the_address_is_the_clients_and_nothing_behind_is_taken(header: bytes, address: str, piece: int) -> None:
    assert await hear(header + b"\x10MQTT", piece=piece) == (address, b"\x10MQTT")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 1883\r\n", "proxy.version"),
        (b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04abcd", "proxy.malformed"),
        (b"\x16\x03\x01", "proxy.malformed"),
        (b"\r\n\r\n\0", "proxy.malformed"),  # cut off
        (ipv4_header("192.0.2.7", 1)[:-1], "proxy.malformed"),
        (SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12), "proxy.version"),
        (SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12), "proxy.version"),
        (SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11), "proxy.malformed"),
        (SIGNATURE + b"\x21\x21\x00\x0c" + bytes(12), "proxy.malformed"),
        (SIGNATURE + b"\x21\x11" + (REST_BYTES_MAX + 1).to_bytes(2, "big"), "proxy.malformed"),
    ],
)
async def test_what_is_no_such_header_is_refused_in_words(sent: bytes, code: str) -> None:
    with pytest.raises(ProxyRefused) as refused:
        await hear(sent)
    assert refused.value.refusal.code == code
    assert refused.value.refusal.stage == "proxy"


async def test_only_a_trusted_network_is_believed() -> None:
    header = ipv4_header("192.0.2.7", 1)
    assert len(header) > FIXED_BYTES
    with pytest.raises(ProxyRefused) as refused:
        await hear(header, peer="203.0.113.1:4000")
    assert refused.value.refusal.code == "proxy.untrusted"
    assert (await hear(header, peer="[::ffff:127.0.0.1]:4000"))[0] == "192.0.2.7:1"

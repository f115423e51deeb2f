"""The MQTT ports as a device meets them: TLS, WebSocket, a load balancer's header, and what comes to the wrong one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.support.certificates import Authority
from tests.support.engines import DatabaseURLs
from tests.support.gateways import Device, Gateway, add_device, eventually, running_gateway
from tests.support.proxy import ipv4_header, local_header
from tests.support.tenants import TenantFactory
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from headwater.app import gateway as gateway_role
from headwater.app.engines.ports import free_port
from headwater.gateway.mqtt import door
from headwater.gateway.mqtt.visitor import LoggedRefusals, Refusal, Visitor
from headwater.protocols.mqtt import (
    ConnAck,
    Connect,
    Packet,
    PacketReader,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    encode_packet,
)
from headwater.testing.mqtt_client import ConnectionRefused, MQTTClient

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy.", "ignore:.*TLSv1_1 is deprecated")

MQTT = Subprotocol("mqtt")


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The gateway's own: sockets, TLS and their failures are the loop's business."""
    return uvloop.EventLoopPolicy()


@dataclass
class Ports:
    """A gateway with all four, and what it refused."""

    gateway: Gateway
    mqtts: int
    ws: int
    wss: int
    refused: list[tuple[str, str, str, str]]
    """address, stage, code, detail"""

    def codes(self) -> list[str]:
        return [code for _, _, code, _ in self.refused]

    async def refuses(self, code: str) -> str:
        """The detail of a refusal with this code, once there is one."""
        await eventually(lambda: code in self.codes(), f"{code}; there were {self.refused}")
        return next(detail for _, _, said, detail in self.refused if said == code)


Start = Callable[..., AbstractAsyncContextManager[Ports]]


@pytest.fixture
def start(database_urls: DatabaseURLs, nats_url: str, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`start(SETTING="value")`, without HEADWATER_GATEWAY_; a certificate for localhost unless one is given."""
    refused: list[tuple[str, str, str, str]] = []

    class Noted(LoggedRefusals):
        def refused(self, visitor: Visitor, refusal: Refusal) -> None:
            refused.append((visitor.address, refusal.stage, refusal.code, refusal.detail))

    monkeypatch.setattr(gateway_role, "LoggedRefusals", Noted)

    @asynccontextmanager
    async def started(**settings: str) -> AsyncIterator[Ports]:
        ports = {scheme: free_port() for scheme in ("MQTTS", "WS", "WSS")}
        if "TLS_CERT_FILE" not in settings and "MQTTS_CERT_FILE" not in settings:
            chain, key = authority.issue("gateway")
            settings |= {"MQTTS_CERT_FILE": str(chain), "MQTTS_KEY_FILE": str(key)}
        settings = {f"{scheme}_PORT": str(port) for scheme, port in ports.items()} | settings
        environ = {f"HEADWATER_GATEWAY_{name}": value for name, value in settings.items()}
        async with running_gateway(database_urls, nats_url, **environ) as running:
            yield Ports(running, ports["MQTTS"], ports["WS"], ports["WSS"], refused)

    return started


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def device(database_urls: DatabaseURLs, tenant_factory: TenantFactory) -> Device:
    return await add_device(database_urls.owner, await tenant_factory("acme"))


def secure(device: Device, ports: Ports, context: ssl.SSLContext, **options: Any) -> MQTTClient:
    options = {"client_id": "tls", "username": str(device.id), "password": device.token, "reconnect": False} | options
    return MQTTClient("127.0.0.1", ports.mqtts, ssl=context, **options)


Shaken = tuple[ssl.SSLSession | None, bool]
"""the session, and whether it was resumed"""


async def shake_hands(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Shaken:
    """And a CONNECT, whose answer brings the tickets. A client in a thread: asyncio's keeps its alerts to itself."""

    def speak() -> Shaken:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as wrapped,
        ):
            wrapped.sendall(encode_packet(Connect(client_id="a", protocol_level=4), 4))
            if not wrapped.recv(4):
                raise ConnectionResetError("it was closed")
            return wrapped.session, bool(wrapped.session_reused)

    return await asyncio.to_thread(speak)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


# -- TLS ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_mqtt_over_tls(start: Start, authority: Authority, device: Device, version: ssl.TLSVersion) -> None:
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    async with start() as ports, secure(device, ports, context) as client:
        await client.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)
        large = b'{"text":"' + b"x" * 200_000 + b'"}'  # many records of TLS
        await asyncio.gather(*(client.publish(f"{device.prefix}telemetry", large, qos=1) for _ in range(5)))
    assert ports.refused == []


async def test_sessions_are_resumed(start: Start, authority: Authority, device: Device) -> None:
    context = trusting(authority)
    async with start() as ports:
        session, is_reused = await shake_hands(ports.mqtts, context)
        assert not is_reused
        _, is_reused = await shake_hands(ports.mqtts, context, session)
        assert is_reused


async def test_an_old_tls_version_is_refused_in_words(start: Start, authority: Authority) -> None:
    context = ssl._create_unverified_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with start() as ports:
        with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):  # it hears it, too
            await shake_hands(ports.mqtts, context)
        assert "below 1.2" in await ports.refuses("tls.version")


async def test_a_device_that_does_not_trust_us_says_so_and_we_hear_it(start: Start) -> None:
    async with start() as ports:
        with pytest.raises(ssl.SSLCertVerificationError):
            await shake_hands(ports.mqtts, ssl.create_default_context())
        assert "does not trust our certificate" in await ports.refuses("tls.alert_unknown_ca")


async def test_a_client_certificate_is_asked_for_and_checked(
    start: Start, authority: Authority, device: Device, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    good, bad = authority.issue("pump-1"), stranger.issue("pump-2")
    old = authority.issue("pump-3", valid_s=-60)
    async with start(TLS_CLIENT_CA_FILE=str(authority.file)) as ports:
        context = trusting(authority)
        with pytest.raises(ssl.SSLError, match="ALERT_CERTIFICATE_REQUIRED"):
            await shake_hands(ports.mqtts, context)
        assert await ports.refuses("tls.no_certificate") == "the device showed no certificate"
        for shown, alert in ((bad, "UNKNOWN_CA"), (old, "CERTIFICATE_EXPIRED")):
            context = trusting(authority)
            context.load_cert_chain(*shown)
            with pytest.raises(ssl.SSLError, match=f"ALERT_{alert}"):
                await shake_hands(ports.mqtts, context)
        assert "not accepted" in await ports.refuses("tls.certificate_refused")
        context = trusting(authority)
        context.load_cert_chain(*good)
        async with secure(device, ports, context) as client:
            await client.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)


async def test_a_renewed_certificate_is_taken_while_it_serves(start: Start, authority: Authority, device: Device) -> None:
    chain, key = authority.issue("gateway", valid_s=-60)
    async with start(MQTTS_CERT_FILE=str(chain), MQTTS_KEY_FILE=str(key)) as ports:
        lenient = ssl._create_unverified_context()
        async with secure(device, ports, lenient, client_id="before") as earlier:
            with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
                await asyncio.open_connection("127.0.0.1", ports.mqtts, ssl=trusting(authority))
            key.write_text("half of a pair")
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)  # the signal is handled, and the pair in use stays
            async with secure(device, ports, lenient, client_id="meanwhile") as client:
                await client.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)
            authority.issue("gateway")
            os.kill(os.getpid(), signal.SIGHUP)

            async def accepted() -> bool:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", ports.mqtts, ssl=trusting(authority))
                except ssl.SSLError:
                    return False
                writer.close()
                return True

            await eventually(accepted, "the new certificate is shown")
            await earlier.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)  # and nobody was cut off


# -- WebSocket ----------------------------------------------------------------------------------------------------------


class WebSocketClient:
    """MQTT over the `websockets` library, packet by packet."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._reader = PacketReader(4)
        self._packets: list[Packet] = []

    async def receive(self) -> Packet:
        while not self._packets:
            data = await self.socket.recv()
            assert isinstance(data, bytes)  # [MQTT-6.0.0-4]
            self._packets += self._reader.feed(data)
        return self._packets.pop(0)

    async def connect(self, device: Device) -> None:
        packet = Connect(client_id="browser", protocol_level=4, username=str(device.id), password=device.token.encode())
        await self.socket.send(encode_packet(packet, 4))
        connack = await self.receive()
        assert isinstance(connack, ConnAck)
        assert connack.reason == 0


@pytest.mark.parametrize("subprotocol", ["mqtt", "mqttv3.1"])
@pytest.mark.parametrize("is_secure", [False, True])
async def test_mqtt_over_websocket(
    start: Start, authority: Authority, device: Device, is_secure: bool, subprotocol: str
) -> None:
    async with start() as ports:
        url = f"wss://localhost:{ports.wss}/mqtt" if is_secure else f"ws://127.0.0.1:{ports.ws}/mqtt"
        context = trusting(authority) if is_secure else None
        async with connect(url, subprotocols=[Subprotocol(subprotocol)], ssl=context, proxy=None) as websocket:
            assert websocket.subprotocol == subprotocol
            client = WebSocketClient(websocket)
            await client.connect(device)
            publish = Publish(f"{device.prefix}telemetry", b'{"text":"' + b"x" * 100_000 + b'"}', 1, packet_id=7)
            packet = encode_packet(publish, 4)
            # In one frame, in many frames of many messages, in the fragments of one message. [MQTT-6.0.0-2]
            await websocket.send(packet)
            for start_at in range(0, len(packet), 10_000):
                await websocket.send(packet[start_at : start_at + 10_000])
            await websocket.send([packet[:1], packet[1:3], packet[3:]])
            for _ in range(3):
                answer = await client.receive()
                assert isinstance(answer, PubAck)
                assert answer.packet_id == 7
            await (await websocket.ping())  # a pong comes
        assert ports.refused == []


async def test_what_is_no_mqtt_over_websocket_is_told_why(start: Start, device: Device) -> None:
    async with start() as ports:
        url = f"ws://127.0.0.1:{ports.ws}"
        for path, subprotocols, status in (("/mqtt", None, 400), ("/mqtt", [Subprotocol("soap")], 400), ("/", [MQTT], 404)):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url + path, subprotocols=subprotocols, proxy=None):
                    raise AssertionError("it was accepted")
            assert refused.value.response.status_code == status
        assert "subprotocol" in await ports.refuses("websocket.refused")
        async with connect(url + "/mqtt", subprotocols=[MQTT], proxy=None) as websocket:
            client = WebSocketClient(websocket)
            await client.connect(device)
            await websocket.send("text")  # [MQTT-6.0.0-1]
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert websocket.close_code == 1003


async def test_a_websocket_that_is_closed_ends_the_mqtt_connection(start: Start, device: Device) -> None:
    async with start() as ports:
        for _ in range(2):  # the second takes the first one's place only if that has not gone; either way it comes in
            async with connect(f"ws://127.0.0.1:{ports.ws}/mqtt", subprotocols=[MQTT], proxy=None) as websocket:
                await WebSocketClient(websocket).connect(device)
                await websocket.close(1001)
                assert websocket.close_code == 1001
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.ws)
        writer.write(b"GET /mqtt HTTP/1.1\r\n" + b"x: y\r\n" * 2000)
        assert b"431" in await reader.read()


async def test_a_browser_that_does_not_read_is_not_read_from(start: Start, device: Device) -> None:
    """Answers pile up in the socket, then the gateway stops reading; when the peer reads again, all of them come."""
    async with (
        start() as ports,
        connect(f"ws://127.0.0.1:{ports.ws}/mqtt", subprotocols=[MQTT], proxy=None, max_queue=1) as websocket,
    ):
        client = WebSocketClient(websocket)
        await client.connect(device)
        for _ in range(200):
            await websocket.send(struct.pack("!BB", 0xC0, 0) * 50)  # 50 PINGREQ
        for _ in range(200 * 50):
            assert isinstance(await client.receive(), PingResp)


async def test_a_stranger_s_flood_of_empty_frames_holds_up_nobody(start: Start, device: Device) -> None:
    """The loop reads a socket that has more again and again: one of them was enough to keep it from everybody else."""
    nothing = b"\x02\x80" + bytes(4) + (b"\x00\x80" + bytes(4)) * 40_000
    async with start() as ports, ports.gateway.client(device) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.ws)
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(nothing * 50)  # 12 MB, 2 million frames
        async with asyncio.timeout(2):
            await client.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)
        assert "frames" in await ports.refuses("websocket.failed")
        writer.close()


async def test_many_small_frames_count_against_the_quota_of_a_device(
    start: Start, database_urls: DatabaseURLs, tenant_factory: TenantFactory
) -> None:
    device = await add_device(database_urls.owner, await tenant_factory(quotas={"device_messages_per_s": 20}))
    async with (
        start() as ports,
        connect(f"ws://127.0.0.1:{ports.ws}/mqtt", subprotocols=[MQTT], proxy=None) as websocket,
    ):
        client = WebSocketClient(websocket)
        await client.connect(device)
        empty = Frame(Opcode.BINARY, b"").serialize(mask=True)
        websocket.transport.write(empty * 480)  # as 60 messages: two seconds more than it has
        await websocket.send(encode_packet(PingReq(), 4))  # what was read with them is answered
        assert isinstance(await client.receive(), PingResp)
        await websocket.send(encode_packet(PingReq(), 4))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.receive(), 1)
        assert isinstance(await client.receive(), PingResp)


# -- PROXY header -------------------------------------------------------------------------------------------------------


async def test_behind_a_load_balancer_the_address_is_the_clients(start: Start, authority: Authority, device: Device) -> None:
    async with start(PROXY_PROTOCOL="1") as ports:
        connack = encode_packet(ConnAck(False, 0), 4)
        hello = encode_packet(
            Connect(client_id="a", protocol_level=4, username=str(device.id), password=device.token.encode()), 4
        )
        for header in (ipv4_header("192.0.2.7", 4000), local_header()):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports.gateway.mqtt_port)
            writer.write(header + hello)
            assert await reader.readexactly(4) == connack
            writer.close()
        # The header comes before TLS.
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.mqtts)
        writer.write(ipv4_header("192.0.2.8", 4000))
        await writer.start_tls(trusting(authority), server_hostname="localhost")
        writer.write(hello)
        assert await reader.readexactly(4) == connack
        writer.close()
        # Whoever then speaks nonsense is known by its own address.
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.mqtts)
        writer.write(ipv4_header("192.0.2.9", 4000) + b"nonsense")
        await _end_of(reader)
        await ports.refuses("tls.not_tls")
        assert [address for address, stage, _, _ in ports.refused if stage == "tls"] == ["192.0.2.9:4000"]


async def test_without_the_header_nobody_comes_in(start: Start, device: Device) -> None:
    async with start(PROXY_PROTOCOL="1") as ports:
        for sent in (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 1883\r\n", encode_packet(Connect(client_id="a"), 4)):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports.gateway.mqtt_port)
            writer.write(sent)
            await _end_of(reader)
        assert "version 1" in await ports.refuses("proxy.version")
        assert "must send one" in await ports.refuses("proxy.malformed")


async def test_a_header_of_somebody_else_is_not_believed(start: Start) -> None:
    async with start(PROXY_PROTOCOL="1", PROXY_NETWORKS="10.0.0.0/8") as ports:
        reader, _ = await asyncio.open_connection("127.0.0.1", ports.gateway.mqtt_port)
        await _end_of(reader)
        assert "PROXY_NETWORKS" in await ports.refuses("proxy.untrusted")


# -- the wrong door -----------------------------------------------------------------------------------------------------

UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tls": b"\x16\x03\x01\x00\x05hello" + bytes(300),
    "proxy": ipv4_header("192.0.2.7", 1),
    "mqtt": encode_packet(Connect(client_id="a", protocol_level=5), 5),
    "zeros": bytes(1000),
    "noise": bytes(range(256)) * 40,
}


ASKED = "02"
"""of a timer in /proc/net/tcp: keep-alive"""


def timer_of(port: int, peer_port: int) -> tuple[str, float]:
    """What the kernel waits for on our end of a connection, and for how many seconds."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, timer, *_ = line.split()
        if (int(local.partition(":")[2], 16), int(remote.partition(":")[2], 16)) == (port, peer_port):
            kind, _, ticks = timer.partition(":")
            return kind, int(ticks, 16) / os.sysconf("SC_CLK_TCK")
    raise AssertionError(f"no connection of {peer_port} to {port}")


async def test_who_gave_no_keep_alive_and_is_gone_is_found_out_by_the_kernel(start: Start, device: Device) -> None:
    async with start() as ports:
        gave_none = Connect(
            client_id="old", protocol_level=4, keep_alive_s=0, username=str(device.id), password=device.token.encode()
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.gateway.mqtt_port)
        writer.write(encode_packet(gave_none, 4))
        assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
        kind, wait_s = timer_of(ports.gateway.mqtt_port, writer.get_extra_info("sockname")[1])
        assert (kind, 1_700 < wait_s <= 1_800) == (ASKED, True), wait_s
        writer.close()


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_ends_the_connection_on_every_port(start: Start, device: Device, garbage: str) -> None:
    async with start() as ports:
        for port in (ports.gateway.mqtt_port, ports.mqtts, ports.ws, ports.wss):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GARBAGE[garbage])
            await _end_of(reader)
            writer.close()
        async with ports.gateway.client(device, client_id="good") as client:
            await client.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)


async def _end_of(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(8):  # less than the time limits: it is the garbage that ends it
        with suppress(ConnectionError):
            while await reader.read(4096):
                pass


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts", "ws"])
async def test_the_reason_arrives_even_where_more_is_on_its_way_to_us(
    start: Start, authority: Authority, device: Device, scheme: str
) -> None:
    """A socket that is closed with unread bytes in it is reset, and a reset throws away what the peer has not read yet."""
    hello = Connect(client_id="a", protocol_level=5, username=str(device.id), password=device.token.encode())
    async with start() as ports:
        port = {"mqtt": ports.gateway.mqtt_port, "mqtts": ports.mqtts, "ws": ports.ws}[scheme]
        context = trusting(authority) if scheme == "mqtts" else None
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        if scheme == "ws":
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")

        def send(data: bytes) -> None:
            writer.write(Frame(Opcode.BINARY, data).serialize(mask=True) if scheme == "ws" else data)

        send(encode_packet(hello, 5))
        await reader.read(100)
        send(b"\xf3\x00")  # AUTH with reserved bits
        for _ in range(50):
            send(bytes(50_000))
        with suppress(ConnectionError):
            await writer.drain()
        said = await reader.read()
        at = 2 if scheme == "ws" else 0
        assert (said[at], said[at + 2]) == (0xE0, 0x81)
        writer.close()


# -- the door -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_half_open_connections_go_and_nobody_else_notices(start: Start, authority: Authority, device: Device) -> None:
    """500 handshakes that never end and 100 sockets that say a byte now and then, from one address, which has 256 places."""
    context = trusting(authority)
    hello = ssl.MemoryBIO()
    half = context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    client_hello = hello.read()
    async with start(ADDRESS_CONNECTING_MAX="1000", CONNECTING_MAX="400") as ports:
        async with secure(device, ports, context) as client:
            sockets = []
            published = 0

            async def keep_publishing() -> None:
                nonlocal published
                while True:
                    await client.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)
                    published += 1

            publishing = asyncio.create_task(keep_publishing())
            for number in range(500):
                pair = await asyncio.open_connection("127.0.0.1", ports.mqtts)
                pair[1].write(client_hello[: 50 + number % 100])
                sockets.append(pair)
            for number in range(100):
                port = (ports.gateway.mqtt_port, ports.ws)[number % 2]
                pair = await asyncio.open_connection("127.0.0.1", port)
                pair[1].write((b"\x10", b"G")[number % 2])
                sockets.append(pair)
            so_far = published
            await eventually(lambda: published > so_far + 10, "the device is acknowledged meanwhile")
            async with secure(device, ports, context, client_id="newcomer") as newcomer:  # it still comes in
                await newcomer.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)
            for reader, writer in sockets:
                with suppress(ConnectionError):
                    while await reader.read(4096):
                        pass
                writer.close()
            assert not publishing.done()
            publishing.cancel()
        assert {"connection.too_slow", "tls.timeout"} & set(ports.codes())


async def test_health_checks_are_no_news(start: Start, device: Device) -> None:
    async with start() as ports:
        for port in (ports.gateway.mqtt_port, ports.mqtts, ports.ws, ports.wss):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.ws)
        writer.write(b"nonsense")
        await _end_of(reader)
        await ports.refuses("websocket.refused")
        assert ports.codes() == ["websocket.refused"]


async def test_a_storm_is_let_in_gradually_and_whole(
    start: Start, authority: Authority, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than come in at once, plain and with TLS, from one address, which is not exempt: none is refused."""
    monkeypatch.setattr(door, "PATIENCE_S", 60.0)  # however slow this machine is
    context = trusting(authority)
    async with start(CONNECTS_PER_S="40", CONNECTING_MAX="20") as ports:
        clients = [
            secure(device, ports, context, client_id=f"tls-{number}")
            if number % 2
            else ports.gateway.client(device, client_id=f"plain-{number}", reconnect=False)
            for number in range(100)
        ]
        await asyncio.gather(*(client.connect() for client in clients))
        assert ports.refused == []
        await asyncio.gather(*(client.close() for client in clients))


async def test_repeated_failures_are_answered_without_a_look(start: Start, device: Device) -> None:
    async with start() as ports:
        wrong = {"password": device.token[:-1] + ("a" if device.token[-1] != "a" else "b"), "reconnect": False}
        reasons = []
        for _ in range(6):
            with pytest.raises(ConnectionRefused) as refused:
                async with ports.gateway.client(device, version=5, **wrong):
                    raise AssertionError("it was accepted")
            reasons.append(refused.value.reason)
        assert reasons[:4] == [0x86] * 4
        assert reasons[-1] == 0x9F
        with pytest.raises(ConnectionRefused) as refused:
            async with ports.gateway.client(device, version=4, **wrong):
                raise AssertionError("it was accepted")
        assert refused.value.reason == 3
        async with ports.gateway.client(device) as client:  # the right one is looked at
            await client.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)


@pytest.mark.parametrize(("version", "reason"), [(5, 0x9C), (4, 3)])
async def test_a_full_gateway_names_another(start: Start, device: Device, version: int, reason: int) -> None:
    async with start(CONNECTIONS_MAX="1", SERVER_REFERENCE="gateway-2.example") as ports:
        first = ports.gateway.client(device, client_id="first", version=5, reconnect=False)
        await first.connect()
        with pytest.raises(ConnectionRefused) as refused:
            await ports.gateway.client(device, client_id="second", version=version, reconnect=False).connect()
        assert refused.value.reason == reason
        await first.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)
    await eventually(lambda: first.disconnect, "it is told that the gateway stops")
    assert first.disconnect is not None
    assert (first.disconnect.reason, first.disconnect.properties.server_reference) == (0x9C, "gateway-2.example")
    await first.close()


@pytest.mark.parametrize("quotas", [{"device_messages_per_s": 20}, {"device_bytes_per_s": 2_000}])
async def test_a_device_is_read_at_its_own_pace_and_its_neighbours_at_theirs(
    start: Start, database_urls: DatabaseURLs, tenant_factory: TenantFactory, quotas: dict[str, int]
) -> None:
    """Nothing is lost, and others of its tenant do not wait."""
    tenant = await tenant_factory(quotas=quotas)
    eager, modest = [await add_device(database_urls.owner, tenant) for _ in range(2)]
    async with (
        start() as ports,
        ports.gateway.client(eager, client_id="eager", window=200, reconnect=False) as flood,
        ports.gateway.client(modest, client_id="modest") as other,
    ):

        def burst() -> asyncio.Future[list[None]]:
            payload = b'{"text":"' + b"x" * 50 + b'"}'
            return asyncio.gather(*(flood.publish("v1/devices/me/telemetry", payload, qos=1) for _ in range(100)))

        await burst()  # as much as it is allowed in five seconds
        second = burst()
        await other.publish("v1/devices/me/telemetry", b'{"t":1}', qos=1)
        assert not second.done()
        await second


async def test_who_asks_for_a_longer_keep_alive_is_told_ours(start: Start, device: Device) -> None:
    async with start(KEEP_ALIVE_S_MAX="33") as ports:
        for asked, told in ((120, 33), (0, 33), (20, None)):
            async with ports.gateway.client(device, version=5, keep_alive_s=asked) as client:
                assert client.connack is not None
                assert client.connack.properties.server_keep_alive_s == told

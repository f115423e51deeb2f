"""The client against Mosquitto, and against a server that loses connections on purpose."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headwater.app.engines.ports import free_port
from headwater.protocols.mqtt import Limits, Publish, Reason, ServerSession
from headwater.testing.mqtt_client import ConnectionLost, ConnectionRefused, MQTTClient, PublishRefused

MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[int]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = await asyncio.create_subprocess_exec(MOSQUITTO, "-c", str(config), stderr=asyncio.subprocess.DEVNULL)
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
    yield port
    process.terminate()
    await process.wait()


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_publishes_and_hears_in_every_version(mosquitto: int, version: int) -> None:
    async with MQTTClient("127.0.0.1", mosquitto, client_id="a", version=version, window=5) as client:
        assert await client.subscribe("a/+", qos=1) == (1,)
        await asyncio.gather(*(client.publish(f"a/{n}", str(n).encode(), qos=n % 2) for n in range(100)))
        heard = [await client.next_message() for _ in range(100)]
        assert {(m.topic, m.payload) for m in heard} == {(f"a/{n}", str(n).encode()) for n in range(100)}
        assert client.acks_out_of_order == 0
        await client.unsubscribe("a/+")


@asynccontextmanager
async def server(on_publish: Callable[[ServerSession, Publish, int], bool], refuse: int = 0) -> AsyncIterator[int]:
    """A server of one connection at a time; on_publish returns False to drop the connection."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        session, now = ServerSession(Limits()), 0.0
        while data := await reader.read(65_536):
            events = session.receive(data, now)
            if session.phase.name == "AWAIT_ACCEPT":
                if refuse:
                    session.refuse(refuse)
                else:
                    events = [*events, *session.accept(now)]
            for event in events:
                if isinstance(event, Publish) and not on_publish(session, event, connections):
                    writer.transport.abort()
                    return
            writer.write(session.take_outgoing())
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def test_sends_again_what_was_not_acknowledged_in_order_with_dup() -> None:
    seen: list[tuple[int, bytes, bool]] = []

    def on_publish(session: ServerSession, publish: Publish, connection: int) -> bool:
        seen.append((connection, publish.payload, publish.dup))
        if publish.payload == b"2" and connection == 1:
            return False
        session.acknowledge(publish.packet_id)
        return True

    async with server(on_publish) as port, MQTTClient("127.0.0.1", port, client_id="a") as client:
        await client.publish("t", b"1", qos=1)
        async with asyncio.timeout(10):
            await asyncio.gather(*(client.publish("t", payload, qos=1) for payload in (b"2", b"3")))
        assert client.connections_total == 2
    assert [one for one in seen if one[0] == 2] == [(2, b"2", True), (2, b"3", True)]


async def test_without_reconnect_a_loss_fails_what_waits() -> None:
    async with (
        server(lambda *_: False) as port,
        MQTTClient("127.0.0.1", port, client_id="a", reconnect=False) as client,
    ):
        with pytest.raises(ConnectionLost):
            await client.publish("t", b"1", qos=1)
        with pytest.raises(ConnectionLost):
            await client.publish("t", b"1", qos=1)
        with pytest.raises(ConnectionLost):
            await client.publish("t", b"1", qos=0)


async def test_a_refused_publish_says_why() -> None:
    def refuse(session: ServerSession, publish: Publish, _: int) -> bool:
        session.acknowledge(publish.packet_id, Reason.PAYLOAD_FORMAT_INVALID, "no JSON")
        return True

    async with server(refuse) as port, MQTTClient("127.0.0.1", port, client_id="a", version=5) as client:
        with pytest.raises(PublishRefused, match="no JSON") as refused:
            await client.publish("t", b"1", qos=1)
        assert refused.value.reason == Reason.PAYLOAD_FORMAT_INVALID


async def test_a_refused_connection_says_why() -> None:
    async with server(lambda *_: True, refuse=Reason.NOT_AUTHORIZED) as port:
        with pytest.raises(ConnectionRefused) as refused:
            await MQTTClient("127.0.0.1", port, client_id="a", version=5).connect()
        assert refused.value.reason == Reason.NOT_AUTHORIZED

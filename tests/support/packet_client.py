"""A client that says what it is told and nothing else: acknowledgements are the test's business."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self, TypeVar

from headwater.protocols.mqtt import (
    EMPTY,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketReader,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
    encode_packet,
)
from tests.support.gateways import Device, Gateway

P = TypeVar("P")
ANSWER_S = 10.0


class Closed(Exception):
    """The server has closed the connection."""


class PacketClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self._reader = reader
        self._writer = writer
        self._packets = PacketReader(version)
        self._read: list[Packet] = []
        self._packet_id = 0
        self.version = version
        self.connack = ConnAck()

    @classmethod
    async def open(
        cls,
        gateway: Gateway,
        device: Device,
        client_id: str = "",
        *,
        version: int = 5,
        clean_start: bool = True,
        keep_alive_s: int = 60,
        will: Will | None = None,
        **properties: Any,
    ) -> Self:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.mqtt_port)
        client = cls(reader, writer, version)
        await client.send(
            Connect(
                client_id=client_id or str(device.id),
                protocol_level=version,
                clean_start=clean_start,
                keep_alive_s=keep_alive_s,
                username=str(device.id),
                password=device.token.encode(),
                will=will,
                properties=Properties(**properties) if properties else EMPTY,
            )
        )
        client.connack = await client.expect(ConnAck)
        return client

    async def send(self, packet: Packet) -> None:
        self._writer.write(encode_packet(packet, self.version))
        await self._writer.drain()

    async def next(self, timeout_s: float = ANSWER_S) -> Packet:
        """Raises Closed, TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not self._read:
                data = await self._reader.read(65_536)
                if not data:
                    raise Closed
                self._read += self._packets.feed(data)
        return self._read.pop(0)

    async def expect(self, kind: type[P], timeout_s: float = ANSWER_S) -> P:
        packet = await self.next(timeout_s)
        assert isinstance(packet, kind), packet
        return packet

    async def pick(self, packet: Packet) -> None:
        """This very one, and leave what comes before it."""
        before: list[Packet] = []
        while (read := await self.next()) != packet:
            before.append(read)
        self._read = before + self._read

    async def silent(self, for_s: float = 0.3) -> bool:
        """Nothing comes for so long."""
        try:
            packet = await self.next(for_s)
        except TimeoutError:
            return True
        self._read.insert(0, packet)
        return False

    def packet_id(self) -> int:
        self._packet_id = self._packet_id % 0xFFFF + 1
        return self._packet_id

    async def subscribe(self, *filters: str, qos: int = 1, identifier: int | None = None, **options: Any) -> tuple[int, ...]:
        packet_id = self.packet_id()
        properties = Properties(subscription_identifiers=(identifier,)) if identifier else EMPTY
        await self.send(Subscribe(packet_id, tuple(Subscription(f, qos, **options) for f in filters), properties))
        suback = await self.expect(SubAck)
        assert suback.packet_id == packet_id
        return suback.codes

    async def unsubscribe(self, *filters: str) -> tuple[int, ...]:
        await self.send(Unsubscribe(self.packet_id(), filters))
        return (await self.expect(UnsubAck)).codes

    async def publish(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, **properties: Any) -> None:
        """Returns when the server has acknowledged it to the end."""
        packet_id = self.packet_id() if qos else 0
        await self.send(
            Publish(topic, payload, qos, retain, False, packet_id, Properties(**properties) if properties else None)
        )
        if qos == 1:
            assert (await self.expect(PubAck)).reason in {0, 0x10}
        elif qos == 2:
            assert (await self.expect(PubRec)).reason in {0, 0x10}
            await self.send(PubRel(packet_id))
            assert (await self.expect(PubComp)).reason == 0

    async def take(self, timeout_s: float = ANSWER_S) -> Publish:
        """The next message, acknowledged to the end."""
        message = await self.expect(Publish, timeout_s)
        if message.qos == 1:
            await self.send(PubAck(message.packet_id))
        elif message.qos == 2:
            await self.send(PubRec(message.packet_id))
            await self.pick(PubRel(message.packet_id))
            await self.send(PubComp(message.packet_id))
        return message

    async def bye(self, reason: int = 0) -> None:
        await self.send(Disconnect(reason))
        await self.abort()

    def vanish(self) -> None:
        """At once, whatever is still to be sent or read."""
        self._writer.transport.abort()

    async def abort(self) -> None:
        """Without a word."""
        self._writer.close()
        with contextlib.suppress(OSError):
            async with asyncio.timeout(ANSWER_S):
                await self._writer.wait_closed()

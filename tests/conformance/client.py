"""A client that a scenario drives by hand: packets as they are, nothing is answered, repeated or checked by itself."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Self, TypeVar

from headwater.protocols.mqtt import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketReader,
    PingReq,
    PingResp,
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
    encode_packet,
)

ANSWER_S = 5.0
"""For an answer that must come. Long: it is only waited for by what fails."""
UPKEEP_S = 20.0
"""The same for what a server does by the clock: mosquitto looks at its clients every few seconds only."""

P = TypeVar("P", bound=Packet)


class Closed(Exception):
    """The server closed the connection where something else was expected."""


class Client:
    """`inbox` is what has come and was not asked for yet, in its order."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, level: int, patience_s: float = ANSWER_S
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._packets = PacketReader(level)
        self._packet_id = 0
        self.level = level
        self.patience_s = patience_s
        self.inbox: deque[Packet] = deque()
        self.connack = ConnAck()

    @classmethod
    async def open(cls, port: int, connect: Connect, patience_s: float = ANSWER_S) -> Self:
        """With the CONNACK, whatever it says."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port), connect.protocol_level, patience_s)
        await client.send(connect)
        client.connack = await client.the(ConnAck)
        return client

    # -- packets --------------------------------------------------------------------------------------------------------

    async def send(self, *packets: Packet) -> None:
        self._writer.write(b"".join(encode_packet(packet, self.level) for packet in packets))
        await self._writer.drain()

    async def send_bytes(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def next(self) -> Packet:
        """Whatever comes."""
        if not self.inbox:
            await self._read()
        return self.inbox.popleft()

    async def the(self, kind: type[P]) -> P:
        """The next one of its kind; others stay where they are."""
        seen = 0
        while True:
            for at in range(seen, len(self.inbox)):
                packet = self.inbox[at]
                if isinstance(packet, kind):
                    del self.inbox[at]
                    return packet
            seen = len(self.inbox)
            await self._read()

    async def _read(self) -> None:
        before = len(self.inbox)
        async with asyncio.timeout(self.patience_s):
            while len(self.inbox) == before:
                try:
                    data = await self._reader.read(65_536)
                except ConnectionResetError:
                    data = b""
                if not data:
                    raise Closed
                self.inbox += self._packets.feed(data)

    async def closes(self) -> Disconnect | None:
        """The server closes, with or without a word; nothing else may come."""
        said = None
        try:
            packet = await self.next()
            assert isinstance(packet, Disconnect), packet
            said = packet
            await self._read()
        except Closed:
            return said
        raise AssertionError(f"behind a DISCONNECT came {self.inbox}")

    async def drop(self) -> None:
        """The network fails: no DISCONNECT."""
        self._writer.transport.abort()
        await asyncio.sleep(0)

    async def leave(self, reason: int = 0, properties: Properties | None = None) -> None:
        """DISCONNECT, and wait until the server has closed too."""
        await self.send(Disconnect(reason, properties) if properties else Disconnect(reason))
        try:
            while True:
                await self._read()
        except Closed:
            self._writer.close()

    # -- exchanges ------------------------------------------------------------------------------------------------------

    @property
    def free_packet_id(self) -> int:
        self._packet_id += 1
        return self._packet_id

    async def ping(self) -> None:
        await self.send(PingReq())
        await self.the(PingResp)

    async def subscribe(self, topic_filter: str, qos: int = 0, *, identifier: int | None = None, **options: Any) -> SubAck:
        properties = Properties(subscription_identifiers=(identifier,) if identifier else ())
        packet_id = self.free_packet_id
        await self.send(Subscribe(packet_id, (Subscription(topic_filter, qos, **options),), properties))
        suback = await self.the(SubAck)
        assert (suback.packet_id, len(suback.codes)) == (packet_id, 1)
        return suback

    async def unsubscribe(self, *topic_filters: str) -> UnsubAck:
        packet_id = self.free_packet_id
        await self.send(Unsubscribe(packet_id, topic_filters))
        unsuback = await self.the(UnsubAck)
        assert unsuback.packet_id == packet_id
        return unsuback

    async def publish(
        self,
        topic: str,
        payload: bytes = b"x",
        qos: int = 0,
        *,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> PubAck | PubComp | None:
        """To the end of its exchange. At QoS 0, until the server has seen it, which a PINGRESP says."""
        packet_id = self.free_packet_id if qos else 0
        await self.send(Publish(topic, payload, qos, retain, False, packet_id, properties))
        if qos == 0:
            await self.ping()
            return None
        if qos == 1:
            puback = await self.the(PubAck)
            assert puback.packet_id == packet_id
            assert puback.reason < 0x80
            return puback
        pubrec = await self.the(PubRec)
        assert pubrec.packet_id == packet_id
        assert pubrec.reason < 0x80
        await self.send(PubRel(packet_id))
        pubcomp = await self.the(PubComp)
        assert (pubcomp.packet_id, pubcomp.reason) == (packet_id, 0)
        return pubcomp

    async def message(self) -> Publish:
        """The next one, not acknowledged."""
        return await self.the(Publish)

    async def take(self) -> Publish:
        """The next one, acknowledged to the end."""
        message = await self.message()
        if message.qos == 1:
            await self.send(PubAck(message.packet_id))
        elif message.qos == 2:
            await self.send(PubRec(message.packet_id))
            pubrel = await self.the(PubRel)
            assert (pubrel.packet_id, pubrel.reason) == (message.packet_id, 0)
            await self.send(PubComp(message.packet_id))
        return message

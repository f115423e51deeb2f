"""Clients with persistent sessions that keep their side of the protocol over any number of connections.

A publisher numbers its messages and has WINDOW of them under way; what is not finished when a connection ends goes on with
the next one, under its packet identifier [MQTT-4.4.0-1]. A subscriber notes what it is given: at QoS 2 once for each packet
identifier between PUBLISH and PUBREL, as the receiver's side of section 4.3.3 has it.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from headwater.protocols.mqtt import (
    ConnAck,
    Connect,
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
    encode_packet,
)
from headwater.testing.load import Credentials

WINDOW = 10
EXPIRY_S = 3_600
KEEP_ALIVE_S = 10
AGAIN_S = (0.02, 0.3)


class SessionLost(Exception):
    """CONNACK said that there is no session, although there was one."""


@dataclass
class Client(ABC):
    """One that connects until it is stopped. Children say what to do with a connection.

    patience_s  a connection on which nothing comes for so long, although a ping was sent, is given up
    """

    name: str
    port: int
    credentials: Credentials
    patience_s: float = 15.0
    connections: int = 0
    _writer: asyncio.StreamWriter | None = None
    _stopped: bool = False

    async def run(self) -> None:
        while not self._stopped:
            with suppress(OSError, TimeoutError, EOFError):
                await self._connection()
            self._writer = None
            await asyncio.sleep(random.uniform(*AGAIN_S))

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            packets = PacketReader(5)
            writer.write(
                encode_packet(
                    Connect(
                        self.name, 5, clean_start=False, keep_alive_s=KEEP_ALIVE_S, username=self.credentials.username,
                        password=self.credentials.password.encode(), properties=Properties(session_expiry_s=EXPIRY_S),
                    )
                )
            )  # fmt: skip
            waiting = deque[Packet]()
            connack = await self._next(reader, packets, waiting)
            if not isinstance(connack, ConnAck) or connack.reason:
                return  # busy, or starting
            if self.connections and not connack.session_present:
                self._stopped = True
                raise SessionLost(self.name)
            self.connections += 1
            self._writer = writer
            self.connected()
            pinged = 0.0
            while True:
                if time.monotonic() - pinged > self.patience_s / 3:
                    pinged = time.monotonic()
                    self.send(PingReq())
                packet = await self._next(reader, packets, waiting)
                if not isinstance(packet, PingResp):
                    self.received(packet)
        finally:
            writer.close()

    async def _next(self, reader: asyncio.StreamReader, packets: PacketReader, waiting: deque[Packet]) -> Packet:
        while not waiting:
            async with asyncio.timeout(self.patience_s):
                data = await reader.read(65_536)
            if not data:
                raise EOFError
            waiting += packets.feed(data)
        return waiting.popleft()

    def send(self, packet: Packet) -> None:
        if self._writer is not None:
            self._writer.write(encode_packet(packet, 5))

    def stop(self) -> None:
        self._stopped = True
        if self._writer is not None:
            self._writer.transport.abort()

    @abstractmethod
    def connected(self) -> None: ...

    @abstractmethod
    def received(self, packet: Packet) -> None: ...


@dataclass
class Publisher(Client):
    """acknowledged  how many: they are numbered from 0, and finish in any order"""

    topic: str = ""
    qos: int = 1
    sent: int = 0
    acknowledged: set[int] = field(default_factory=set)
    _under_way: dict[int, tuple[int, Packet]] = field(default_factory=dict)
    """packet id -> number, and what is to be sent again"""
    _packet_id: int = 0

    def publish(self) -> bool:
        """The next message. False = the window is full, or there is no connection."""
        if len(self._under_way) >= WINDOW or self._writer is None:
            return False
        self._packet_id = self._packet_id % 0xFFFF + 1
        packet = Publish(self.topic, f"{self.name} {self.sent}".encode(), self.qos, packet_id=self._packet_id)
        self._under_way[self._packet_id] = (self.sent, packet)
        self.sent += 1
        self.send(packet)
        return True

    @property
    def is_done(self) -> bool:
        return not self._under_way

    def connected(self) -> None:
        for packet_id, (number, packet) in self._under_way.items():
            if isinstance(packet, Publish):
                repeated = Publish(packet.topic, packet.payload, packet.qos, dup=True, packet_id=packet_id)
                self._under_way[packet_id] = (number, repeated)
                self.send(repeated)
            else:
                self.send(packet)

    def received(self, packet: Packet) -> None:
        if not isinstance(packet, PubAck | PubRec | PubComp) or packet.packet_id not in self._under_way:
            return
        number, _ = self._under_way[packet.packet_id]
        assert packet.reason in {0, 0x10, 0x92}, packet
        if isinstance(packet, PubRec):
            self._under_way[packet.packet_id] = (number, PubRel(packet.packet_id))
            self.send(PubRel(packet.packet_id))
        else:
            del self._under_way[packet.packet_id]
            self.acknowledged.add(number)


@dataclass
class Subscriber(Client):
    """got  publisher -> numbers in the order of their delivery"""

    topic_filter: str = "#"
    qos: int = 1
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)
    got: dict[str, list[int]] = field(default_factory=dict)
    _open: set[int] = field(default_factory=set)
    """QoS 2 packet ids between PUBLISH and PUBREL"""

    def connected(self) -> None:
        if not self.subscribed.is_set():
            self.send(Subscribe(1, (Subscription(self.topic_filter, self.qos),)))

    def received(self, packet: Packet) -> None:
        if isinstance(packet, SubAck):
            assert packet.codes == (self.qos,)
            self.subscribed.set()
        elif isinstance(packet, PubRel):
            self._open.discard(packet.packet_id)
            self.send(PubComp(packet.packet_id))
        elif isinstance(packet, Publish):
            if packet.qos == 1:
                self._note(packet)
                self.send(PubAck(packet.packet_id))
            else:
                if packet.packet_id not in self._open:
                    self._note(packet)
                    self._open.add(packet.packet_id)
                self.send(PubRec(packet.packet_id))

    def _note(self, publish: Publish) -> None:
        name, number = publish.payload.decode().split()
        self.got.setdefault(name, []).append(int(number))

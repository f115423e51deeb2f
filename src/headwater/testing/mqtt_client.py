"""A small MQTT client (3.1, 3.1.1, 5.0) for simulated devices, tests and chaos.

    async with MQTTClient(host, port, client_id="pump-1", username=..., password=...) as client:
        await client.publish("v1/devices/me/telemetry", b'{"t":21.5}', qos=1)

A publish at QoS 1 ends when the server has acknowledged it, over as many connections as that takes: after a loss the
client connects again, with back-off, and sends what is not acknowledged once more, in its order, with DUP [MQTT-4.4.0-1].
QoS 2 is not spoken. With `reconnect=False` a loss fails everything that waits, which is what a test wants to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import ssl as tls
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from msgspec.structs import replace

from headwater.protocols.mqtt import (
    EMPTY,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketReader,
    PingReq,
    Properties,
    ProtocolError,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
    encode_packet,
)

CONNECT_S = 10.0
CLOSE_S = 2.0
"""For the DISCONNECT to leave; a server that does not read does not get it."""
BACK_OFF_FIRST_S = 0.1
BACK_OFF_MAX_S = 10.0
MESSAGES_MAX = 10_000
"""Received and not taken yet; beyond it the client stops reading, and the server holds back."""
FAILURE = 0x80
"""Reason codes from here on are refusals."""


class ConnectionRefused(Exception):
    """The server answered CONNECT with something else than 0."""

    def __init__(self, reason: int, reason_string: str | None = None) -> None:
        super().__init__(f"CONNACK 0x{reason:02x}{f': {reason_string}' if reason_string else ''}")
        self.reason = reason


class ConnectionLost(Exception):
    """The connection ended before what was asked for was done."""


class PublishRefused(Exception):
    """PUBACK of MQTT 5 with a reason code of failure."""

    def __init__(self, ack: PubAck) -> None:
        super().__init__(f"PUBACK 0x{ack.reason:02x}: {ack.properties.reason_string or ''}")
        self.reason = ack.reason
        self.reason_string = ack.properties.reason_string


class MQTTClient:
    """connack             what the server said to the last CONNECT
    disconnect          the server's DISCONNECT, where there was one
    messages            received publishes, where no `on_message` was given
    window              QoS 1 publishes under way at a time; `publish` waits for room
    acks_out_of_order   PUBACKs that overtook an earlier one [MQTT-4.6.0-2]
    connections_total   successful CONNECTs
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        client_id: str = "",
        username: str | None = None,
        password: str | bytes | None = None,
        version: int = 4,
        clean_start: bool = True,
        keep_alive_s: int = 60,
        will: Will | None = None,
        properties: Properties = EMPTY,
        window: int = 20,
        reconnect: bool = True,
        ssl: tls.SSLContext | None = None,
        on_message: Callable[[Publish], None] | None = None,
    ) -> None:
        self._address = (host, port, ssl)
        self._connect = Connect(
            client_id=client_id,
            protocol_level=version,
            clean_start=clean_start,
            keep_alive_s=keep_alive_s,
            username=username,
            password=password.encode() if isinstance(password, str) else password,
            will=will,
            properties=properties,
        )
        self.window = window
        self._reconnect = reconnect
        self._on_message = on_message
        self._link: _Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._unacknowledged: dict[int, tuple[Publish, asyncio.Future[PubAck]]] = {}
        self._answers: dict[int, asyncio.Future[SubAck | UnsubAck]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._packet_ids = itertools.cycle(range(1, 65_536))
        self._room: deque[asyncio.Future[None]] = deque()
        self._up = asyncio.Event()
        self._closing = False
        self.connack: ConnAck | None = None
        self.disconnect: Disconnect | None = None
        self.messages: asyncio.Queue[Publish] = asyncio.Queue()
        self.acks_out_of_order = 0
        self.connections_total = 0

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def is_connected(self) -> bool:
        return self._up.is_set()

    async def connect(self) -> ConnAck:
        """Raises ConnectionRefused, ConnectionLost or OSError: the first connection is not tried twice."""
        connack = await self._open()
        self._keeper = asyncio.get_running_loop().create_task(self._keep_connected())
        return connack

    async def publish(
        self, topic: str, payload: bytes, qos: int = 0, *, retain: bool = False, properties: Properties | None = None
    ) -> PubAck | None:
        """QoS 0: returns once it is written. QoS 1: returns the PUBACK, or raises PublishRefused or ConnectionLost."""
        if qos == 0:
            await self._connected()
            self._send(Publish(topic, payload, 0, retain, properties=properties))
            return None
        while len(self._unacknowledged) >= self._window:
            await self._wait_for_room()
        return await self.publish_soon(topic, payload, retain=retain, properties=properties)

    def publish_soon(
        self, topic: str, payload: bytes, *, retain: bool = False, properties: Properties | None = None
    ) -> asyncio.Future[PubAck]:
        """QoS 1 without waiting, also beyond the window; the future gives what `publish` returns or raises."""
        future: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        publish = Publish(topic, payload, 1, retain, False, self._next_packet_id(), properties)
        self._unacknowledged[publish.packet_id] = (publish, future)
        if self.is_connected:
            self._send(publish)
        elif not self._may_come_back:
            self._unacknowledged.pop(publish.packet_id)
            future.set_exception(ConnectionLost("the connection is gone"))
        return future

    async def subscribe(self, *topic_filters: str, qos: int = 1) -> tuple[int, ...]:
        """Granted QoS per filter, or a code from 0x80 on. They are asked for again on every new connection."""
        wanted = tuple(Subscription(topic_filter, qos) for topic_filter in topic_filters)
        suback = await self._ask(Subscribe(self._next_packet_id(), wanted))
        for subscription, code in zip(wanted, suback.codes, strict=True):
            if code < FAILURE:
                self._subscriptions[subscription.topic_filter] = subscription
        return suback.codes

    async def unsubscribe(self, *topic_filters: str) -> tuple[int, ...]:
        for topic_filter in topic_filters:
            self._subscriptions.pop(topic_filter, None)
        return (await self._ask(Unsubscribe(self._next_packet_id(), topic_filters))).codes

    async def close(self, *, abruptly: bool = False) -> None:
        """Says DISCONNECT, so that the will is not published; `abruptly` just drops the connection, as a dying device."""
        self._closing = True
        link, self._link = self._link, None
        if link is not None:
            if abruptly:
                link.transport.abort()
            else:
                link.write(encode_packet(Disconnect(), self._connect.protocol_level))
                link.transport.close()
            await asyncio.wait((link.lost,), timeout=CLOSE_S)
            link.transport.abort()
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        self._fail_all()

    # -- the connection ------------------------------------------------------------------------------------------------

    @property
    def _may_come_back(self) -> bool:
        return self._reconnect and not self._closing

    @property
    def _window(self) -> int:
        properties = self.connack.properties if self.connack is not None else EMPTY
        return min(self.window, properties.receive_maximum or 65_535)

    async def _open(self) -> ConnAck:
        host, port, ssl = self._address
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            _, link = await loop.create_connection(lambda: _Link(self), host, port, ssl=ssl)
            link.write(encode_packet(self._connect, self._connect.protocol_level))
            try:
                connack = await link.connack
            except BaseException:
                link.transport.abort()
                raise
        self.connack = connack
        if connack.reason:
            link.transport.close()
            raise ConnectionRefused(connack.reason, connack.properties.reason_string)
        self._link = link
        self.connections_total += 1
        self._up.set()
        self._resume()
        return connack

    def _resume(self) -> None:
        """What the server may not have got, in its order, and what we want to hear."""
        if self._subscriptions:
            self._send(Subscribe(self._next_packet_id(), tuple(self._subscriptions.values())))
        again = list(self._unacknowledged.items())
        for packet_id, (publish, future) in again:
            repeated = publish if self.connections_total == 1 else replace(publish, dup=True)
            self._unacknowledged[packet_id] = (repeated, future)
            self._send(repeated)

    async def _keep_connected(self) -> None:
        while not self._closing:
            assert self._link is not None
            await self._ping_until_lost(self._link)
            self._up.clear()
            self._link = None
            for answer in self._answers.values():
                answer.set_exception(ConnectionLost("the connection is gone"))
            self._answers.clear()
            if not self._may_come_back:
                self._fail_all()
                return
            await self._reopen()

    async def _reopen(self) -> None:
        for attempt in itertools.count():
            back_off_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2 ** min(attempt, 10))
            # A fleet that lost its server together must not come back together.
            await asyncio.sleep(back_off_s * random.uniform(0.5, 1.0))  # noqa: S311  # spreads load, protects nothing
            with contextlib.suppress(OSError, TimeoutError, ConnectionLost, ConnectionRefused, ProtocolError):
                await self._open()
                return

    async def _ping_until_lost(self, link: _Link) -> None:
        keep_alive_s = self._connect.keep_alive_s
        if self.connack is not None and self.connack.properties.server_keep_alive_s is not None:
            keep_alive_s = self.connack.properties.server_keep_alive_s
        while not link.lost.done():
            heard = link.heard
            await asyncio.wait((link.lost,), timeout=keep_alive_s / 2 or None)
            if link.lost.done():
                return
            if link.pinged and link.heard == heard:
                link.transport.abort()
                continue
            link.pinged = True
            link.write(encode_packet(PingReq(), self._connect.protocol_level))

    async def _connected(self) -> None:
        if not self.is_connected and not self._may_come_back:
            raise ConnectionLost("the connection is gone")
        await self._up.wait()

    def _fail_all(self) -> None:
        self._up.clear()
        publishes = [future for _, future in self._unacknowledged.values()]
        waiting: list[asyncio.Future[Any]] = [*publishes, *self._answers.values(), *self._room]
        self._unacknowledged.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionLost("the connection is gone"))
        self._answers.clear()
        self._room.clear()

    # -- packets -------------------------------------------------------------------------------------------------------

    def _send(self, packet: Packet) -> None:
        if self._link is not None:
            self._link.write(encode_packet(packet, self._connect.protocol_level))

    def _next_packet_id(self) -> int:
        return next(p for p in self._packet_ids if p not in self._unacknowledged and p not in self._answers)

    async def _ask(self, packet: Subscribe | Unsubscribe) -> SubAck | UnsubAck:
        await self._connected()
        answer: asyncio.Future[SubAck | UnsubAck] = asyncio.get_running_loop().create_future()
        self._answers[packet.packet_id] = answer
        self._send(packet)
        return await answer

    async def _wait_for_room(self) -> None:
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room.append(room)
        await room

    def received(self, packet: Packet) -> None:
        """Called by the connection for every packet behind the CONNACK."""
        match packet:
            case PubAck():
                self._on_puback(packet)
            case Publish():
                self._on_publish(packet)
            case SubAck() | UnsubAck():
                answer = self._answers.pop(packet.packet_id, None)
                if answer is not None and not answer.done():
                    answer.set_result(packet)
            case Disconnect():
                self.disconnect = packet

    def _on_puback(self, puback: PubAck) -> None:
        if puback.packet_id not in self._unacknowledged:
            return
        if next(iter(self._unacknowledged)) != puback.packet_id:
            self.acks_out_of_order += 1
        _, future = self._unacknowledged.pop(puback.packet_id)
        if not future.done():
            if puback.reason >= FAILURE:
                future.set_exception(PublishRefused(puback))
            else:
                future.set_result(puback)
        while self._room and len(self._unacknowledged) < self._window:
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)
                return

    def _on_publish(self, publish: Publish) -> None:
        if self._on_message is not None:
            self._on_message(publish)
        else:
            self.messages.put_nowait(publish)
            if self.messages.qsize() >= MESSAGES_MAX and self._link is not None:
                self._link.transport.pause_reading()
        if publish.qos:
            self._send(PubAck(publish.packet_id))

    async def next_message(self, timeout_s: float = 10.0) -> Publish:
        """Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            publish = await self.messages.get()
        if self._link is not None and not self._link.transport.is_reading() and self.messages.empty():
            self._link.transport.resume_reading()
        return publish


class _Link(asyncio.Protocol):
    """One TCP connection of the client."""

    transport: asyncio.Transport

    def __init__(self, client: MQTTClient) -> None:
        loop = asyncio.get_running_loop()
        self._client = client
        self._reader = PacketReader(client._connect.protocol_level)
        self.connack: asyncio.Future[ConnAck] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.heard = 0
        self.pinged = False

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # create_connection gives a read-write transport

    def data_received(self, data: bytes) -> None:
        self.heard += 1
        try:
            for packet in self._reader.feed(data):
                if isinstance(packet, ConnAck) and not self.connack.done():
                    self.connack.set_result(packet)
                else:
                    self._client.received(packet)
        except ProtocolError as error:
            if not self.connack.done():
                self.connack.set_exception(error)
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.connack.done():
            self.connack.set_exception(ConnectionLost("closed before the CONNACK"))
        if not self.lost.done():
            self.lost.set_result(None)

"""Eclipse Paho for Python: MQTT 3.1, 3.1.1 and 5, over TCP, TLS and WebSocket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from .client import Base, Message, Options, Refused, settle


@dataclass(slots=True)
class PahoClient(Base):
    _client: Any = None
    _waiting: dict[Any, asyncio.Future[Any]] = field(default_factory=dict)

    async def connect(self, options: Options) -> bool | None:
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            clean_session=None if self.level == 5 else options.clean,
            protocol=mqtt.MQTTProtocolVersion(self.level),
            transport="websockets" if self.address.over_websocket else "tcp",
        )
        self._client = client
        if self.address.over_websocket:
            client.ws_set_options(path=self.address.path)
        if self.address.encrypted:
            client.tls_set(ca_certs=str(self.address.ca_file))
        if options.username is not None or options.password is not None:
            client.username_pw_set(options.username or "", options.password)
        if options.will is not None:
            will = options.will
            properties = properties_of(will, PacketTypes.WILLMESSAGE) if self.level == 5 else None
            client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
        client.reconnect_delay_set(1, 2)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        connected = self._waiting["connect"] = self.loop.create_future()
        more: dict[str, Any] = {}
        if self.level == 5:
            more["clean_start"] = options.clean
            more["properties"] = Properties(PacketTypes.CONNECT)
            more["properties"].SessionExpiryInterval = options.session_expiry_s
        await asyncio.to_thread(client.connect, self.address.host, self.address.port, options.keep_alive_s, **more)
        client.loop_start()
        try:
            return bool(await connected)
        except Refused:
            await asyncio.to_thread(client.loop_stop)
            raise

    async def subscribe(self, topic_filter: str, qos: int) -> int:
        return int(await self._answer(self._client.subscribe, topic_filter, qos))

    async def publish(self, message: Message) -> None:
        properties = properties_of(message, PacketTypes.PUBLISH) if self.level == 5 else None
        reason = await self._answer(
            self._client.publish, message.topic, message.payload, message.qos, message.retain, properties
        )
        if reason >= 0x80:
            raise Refused(reason)

    async def _answer(self, call: Any, *arguments: Any) -> Any:
        """Of the packet that `call` sends. Its number is known only afterwards, perhaps after the answer."""
        said = call(*arguments)
        code, number = (said.rc, said.mid) if isinstance(said, mqtt.MQTTMessageInfo) else said
        assert code == mqtt.MQTT_ERR_SUCCESS, mqtt.error_string(code)
        return await self._waiting.setdefault(number, self.loop.create_future())

    async def disconnect(self) -> None:
        gone = self._waiting["disconnect"] = self.loop.create_future()
        if self._client.disconnect() == mqtt.MQTT_ERR_SUCCESS:
            await gone
        await asyncio.to_thread(self._client.loop_stop)

    # -- in paho's thread -----------------------------------------------------------------------------------------------

    def _on_connect(self, _client: Any, _data: Any, flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self.from_thread(self._connected, flags.session_present, reason)

    def _connected(self, session_present: bool, reason: ReasonCode) -> None:
        if reason.is_failure:
            settle(self._waiting["connect"], error=Refused(reason.value))
        else:
            self.connections += 1
            settle(self._waiting["connect"], session_present)

    def _on_subscribe(self, _client: Any, _data: Any, number: int, reasons: list[ReasonCode], _properties: Any) -> None:
        self.from_thread(self._answered, number, reasons[0].value)

    def _on_publish(self, _client: Any, _data: Any, number: int, reason: ReasonCode, _properties: Any) -> None:
        self.from_thread(self._answered, number, reason.value)

    def _answered(self, number: int, code: int) -> None:
        settle(self._waiting.setdefault(number, self.loop.create_future()), code)

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.from_thread(self.received.put_nowait, message_of(message))

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, _reason: ReasonCode, _properties: Any) -> None:
        self.from_thread(self._disconnected)

    def _disconnected(self) -> None:
        if "disconnect" in self._waiting:
            settle(self._waiting["disconnect"])


def properties_of(message: Message, packet: int) -> Properties:
    properties = Properties(packet)
    if message.content_type is not None:
        properties.ContentType = message.content_type
    if message.response_topic is not None:
        properties.ResponseTopic = message.response_topic
    if message.correlation is not None:
        properties.CorrelationData = message.correlation
    if message.expiry_s is not None:
        properties.MessageExpiryInterval = message.expiry_s
    if message.user:
        properties.UserProperty = list(message.user)
    return properties


def message_of(message: mqtt.MQTTMessage) -> Message:
    properties = message.properties
    return Message(
        topic=str(message.topic),
        payload=bytes(message.payload),
        qos=message.qos,
        retain=bool(message.retain),
        content_type=getattr(properties, "ContentType", None),
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
        expiry_s=getattr(properties, "MessageExpiryInterval", None),
        user=tuple(getattr(properties, "UserProperty", ())),
    )

"""aiomqtt: Paho's protocol, driven by asyncio. Programs reconnect themselves, as its manual says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from typing import Any

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from .client import Base, Message, Options, Refused
from .paho_client import message_of, properties_of


@dataclass(slots=True)
class AiomqttClient(Base):
    _client: Any = None
    _reader: asyncio.Task[None] | None = None

    async def connect(self, options: Options) -> bool | None:
        five = self.level == 5
        more: dict[str, Any] = {}
        if five:
            more["clean_start"] = options.clean
            more["properties"] = Properties(PacketTypes.CONNECT)
            more["properties"].SessionExpiryInterval = options.session_expiry_s
        else:
            more["clean_session"] = options.clean
        if options.will is not None:
            will = options.will
            properties = properties_of(will, PacketTypes.WILLMESSAGE) if five else None
            more["will"] = aiomqtt.Will(will.topic, will.payload, will.qos, will.retain, properties)
        self._client = aiomqtt.Client(
            self.address.host,
            self.address.port,
            username=options.username,
            password=options.password,
            identifier=options.client_id,
            protocol=aiomqtt.ProtocolVersion(self.level),
            keepalive=options.keep_alive_s,
            transport="websockets" if self.address.over_websocket else "tcp",
            websocket_path=self.address.path if self.address.over_websocket else None,
            tls_context=ssl.create_default_context(cafile=self.address.ca_file) if self.address.encrypted else None,
            **more,
        )
        try:
            await self._client.__aenter__()
        except MqttConnectError as error:
            raise Refused(error.rc.value if hasattr(error.rc, "value") else int(error.rc)) from error
        self.connections += 1
        self._reader = asyncio.create_task(self._read())
        return None

    async def _read(self) -> None:
        with contextlib.suppress(aiomqtt.MqttError):  # the connection was lost: whoever waits finds nothing more
            async for message in self._client.messages:
                self.received.put_nowait(message_of(message))

    async def subscribe(self, topic_filter: str, qos: int) -> int:
        code = (await self._client.subscribe(topic_filter, qos))[0]
        return int(getattr(code, "value", code))

    async def publish(self, message: Message) -> None:
        properties = properties_of(message, PacketTypes.PUBLISH) if self.level == 5 else None
        await self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)

    async def disconnect(self) -> None:
        if self._reader is None:
            return
        self._reader.cancel()
        with contextlib.suppress(aiomqtt.MqttError):  # it was lost before
            await self._client.__aexit__(None, None, None)

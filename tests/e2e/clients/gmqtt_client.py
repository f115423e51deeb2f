"""gmqtt: MQTT 3.1.1 and 5 over TCP and TLS, its own protocol on asyncio."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import Any

import gmqtt
from gmqtt.mqtt.handler import MQTTConnectError

from .client import OLD_CODES, Base, Message, Options, Refused, settle


@dataclass(slots=True)
class GmqttClient(Base):
    _client: Any = None
    _session_present: bool = False
    _subscribing: dict[int, asyncio.Future[int]] = field(default_factory=dict)

    async def connect(self, options: Options) -> bool | None:
        more: dict[str, Any] = {}
        if self.level == 5:
            more["session_expiry_interval"] = options.session_expiry_s
        if options.will is not None:
            will = options.will
            more["will_message"] = gmqtt.Message(will.topic, will.payload, will.qos, will.retain, **_properties(will))
        client = self._client = gmqtt.Client(options.client_id, clean_session=options.clean, **more)
        client.set_config({"reconnect_delay": 1, "reconnect_retries": gmqtt.constants.UNLIMITED_RECONNECTS})
        if options.username is not None or options.password is not None:
            client.set_auth_credentials(options.username or "", options.password)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        trust = ssl.create_default_context(cafile=self.address.ca_file) if self.address.encrypted else False
        version = gmqtt.constants.MQTTv50 if self.level == 5 else gmqtt.constants.MQTTv311
        try:
            await client.connect(self.address.host, self.address.port, trust, options.keep_alive_s, version)
        except MQTTConnectError as error:
            reason = error._code  # it has no public name
            raise Refused(OLD_CODES.get(reason, reason)) from error
        return self._session_present

    def _on_connect(self, _client: Any, flags: int, _code: int, _properties: Any) -> None:
        self._session_present = bool(flags & 1)
        self.connections += 1

    def _on_message(self, _client: Any, topic: str, payload: bytes, qos: int, properties: dict[str, Any]) -> int:
        def one(name: str) -> Any:
            return properties[name][0] if properties.get(name) else None

        user = tuple((name, value) for name, value in properties.get("user_property") or ())
        self.received.put_nowait(
            Message(
                topic, bytes(payload), qos, bool(properties["retain"]), one("content_type"), one("response_topic"),
                one("correlation_data"), one("message_expiry_interval"), user,
            )
        )  # fmt: skip
        return 0

    def _on_subscribe(self, _client: Any, number: int, codes: Any, _properties: Any) -> None:
        settle(self._subscribing.setdefault(number, self.loop.create_future()), codes[0])

    async def subscribe(self, topic_filter: str, qos: int) -> int:
        number = self._client.subscribe(topic_filter, qos)
        return await self._subscribing.setdefault(number, self.loop.create_future())

    async def publish(self, message: Message) -> None:
        self._client.publish(message.topic, message.payload, message.qos, message.retain, **_properties(message))
        await self._client._persistent_storage.wait_empty()  # nothing public tells of an acknowledgement

    async def disconnect(self) -> None:
        await self._client.disconnect()


def _properties(message: Message) -> dict[str, Any]:
    found = {
        "content_type": message.content_type,
        "response_topic": message.response_topic,
        "correlation_data": message.correlation,
        "message_expiry_interval": message.expiry_s,
        "user_property": list(message.user) or None,
    }
    return {name: value for name, value in found.items() if value is not None}

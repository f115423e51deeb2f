"""The AWS IoT device SDK's MQTT 5 client (awscrt), which knows QoS 0 and 1."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from awscrt import mqtt5
from awscrt.io import ClientTlsContext, TlsContextOptions

from .client import Base, Message, Options, Refused, settle

PINGED_S = 3
"""The SDK wants a ping's answer sooner than the next ping is due."""


@dataclass(slots=True)
class AWSClient(Base):
    _client: Any = None
    _connected: asyncio.Future[bool] | None = None
    _stopped: asyncio.Future[None] | None = None

    async def connect(self, options: Options) -> bool | None:
        self._connected, self._stopped = self.loop.create_future(), self.loop.create_future()
        trust = None
        if self.address.encrypted:
            tls = TlsContextOptions()
            tls.override_default_trust_store_from_path(None, str(self.address.ca_file))
            trust = ClientTlsContext(tls)
        self._client = mqtt5.Client(
            mqtt5.ClientOptions(
                host_name=self.address.host,
                port=self.address.port,
                tls_ctx=trust,
                websocket_handshake_transform=_upgrade(self.address.path) if self.address.over_websocket else None,
                connect_options=mqtt5.ConnectPacket(
                    client_id=options.client_id,
                    username=options.username,
                    password=options.password.encode() if options.password is not None else None,
                    keep_alive_interval_sec=options.keep_alive_s,
                    session_expiry_interval_sec=options.session_expiry_s,
                    will=None if options.will is None else _packet(options.will),
                ),
                session_behavior=(
                    mqtt5.ClientSessionBehaviorType.CLEAN if options.clean else mqtt5.ClientSessionBehaviorType.REJOIN_ALWAYS
                ),
                disable_metrics=self.address.bare_usernames,
                ping_timeout_ms=PINGED_S * 1000,
                min_reconnect_delay_ms=500,
                max_reconnect_delay_ms=1000,
                on_publish_callback_fn=lambda data: self.from_thread(self.received.put_nowait, _message(data)),
                on_lifecycle_event_connection_success_fn=lambda data: self.from_thread(self._success, data),
                on_lifecycle_event_connection_failure_fn=lambda data: self.from_thread(self._failure, data),
                on_lifecycle_event_stopped_fn=lambda _data: self.from_thread(settle, self._stopped),
            )
        )
        self._client.start()
        try:
            return await self._connected
        except Refused:
            await self.disconnect()
            raise

    def _success(self, data: mqtt5.LifecycleConnectSuccessData) -> None:
        self.connections += 1
        assert self._connected is not None
        settle(self._connected, data.connack_packet.session_present)

    def _failure(self, data: mqtt5.LifecycleConnectFailureData) -> None:
        assert self._connected is not None
        if data.connack_packet is not None:
            settle(self._connected, error=Refused(int(data.connack_packet.reason_code)))
        elif not self.connections:
            settle(self._connected, error=data.exception)

    async def subscribe(self, topic_filter: str, qos: int) -> int:
        subscription = mqtt5.Subscription(topic_filter=topic_filter, qos=mqtt5.QoS(qos))
        answer = self._client.subscribe(mqtt5.SubscribePacket([subscription]))
        return int((await asyncio.wrap_future(answer)).reason_codes[0])

    async def publish(self, message: Message) -> None:
        completed = await asyncio.wrap_future(self._client.publish(_packet(message)))
        if message.qos and completed.puback.reason_code >= 0x80:
            raise Refused(int(completed.puback.reason_code))

    async def disconnect(self) -> None:
        assert self._stopped is not None
        self._client.stop(mqtt5.DisconnectPacket())
        await self._stopped


def _upgrade(path: str) -> Any:
    def transform(transform_args: mqtt5.WebsocketHandshakeTransformArgs) -> None:
        transform_args.http_request.path = path
        transform_args.set_done()

    return transform


def _packet(message: Message) -> mqtt5.PublishPacket:
    return mqtt5.PublishPacket(
        topic=message.topic,
        payload=message.payload,
        qos=mqtt5.QoS(message.qos),
        retain=message.retain,
        content_type=message.content_type,
        response_topic=message.response_topic,
        correlation_data=message.correlation,
        message_expiry_interval_sec=message.expiry_s,
        user_properties=[mqtt5.UserProperty(name, value) for name, value in message.user] or None,
    )


def _message(data: mqtt5.PublishReceivedData) -> Message:
    packet = data.publish_packet
    correlation = packet.correlation_data  # text where it is UTF-8
    return Message(
        topic=packet.topic,
        payload=bytes(packet.payload or b""),
        qos=int(packet.qos),
        retain=packet.retain,
        content_type=packet.content_type,
        response_topic=packet.response_topic,
        correlation=correlation.encode() if isinstance(correlation, str) else correlation,
        expiry_s=packet.message_expiry_interval_sec,
        user=tuple((one.name, one.value) for one in packet.user_properties or ()),
    )

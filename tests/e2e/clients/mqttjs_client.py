"""MQTT.js in Node.js: MQTT 3.1, 3.1.1 and 5, over TCP, TLS and WebSocket. js/bridge.mjs does it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import OLD_CODES, Base, Message, Options, Refused, settle

BRIDGE = Path(__file__).parent / "js" / "bridge.mjs"
SCHEMES = {"tcp": "mqtt", "tls": "mqtts", "ws": "ws", "wss": "wss"}
LINE_BYTES_MAX = 4 << 20


@dataclass(slots=True)
class MQTTjsClient(Base):
    _node: asyncio.subprocess.Process | None = None
    _reader: asyncio.Task[None] | None = None
    _waiting: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    async def connect(self, options: Options) -> bool | None:
        self._node = await asyncio.create_subprocess_exec(
            "node", str(BRIDGE),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES_MAX,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read(self._node))
        given: dict[str, Any] = {
            "protocolVersion": self.level,
            "protocolId": "MQIsdp" if self.level == 3 else "MQTT",
            "clientId": options.client_id,
            "clean": options.clean,
            "keepalive": options.keep_alive_s,
            "reconnectPeriod": 500,
        }
        if options.username is not None:
            given["username"] = options.username
        if options.password is not None:
            given["password"] = options.password
        if self.level == 5:
            given["properties"] = {"sessionExpiryInterval": options.session_expiry_s}
        path = self.address.path if self.address.over_websocket else ""
        return bool(
            await self._call(
                "connect",
                url=f"{SCHEMES[self.address.transport]}://{self.address.host}:{self.address.port}{path}",
                options=given,
                will=self._packet(options.will) if options.will is not None else None,
                ca=str(self.address.ca_file) if self.address.encrypted else None,
            )
        )

    async def subscribe(self, topic_filter: str, qos: int) -> int:
        return int(await self._call("subscribe", filter=topic_filter, qos=qos))

    async def publish(self, message: Message) -> None:
        await self._call("publish", message=self._packet(message))

    async def disconnect(self) -> None:
        if self._node is None or self._reader is None:
            return
        if self._node.returncode is None:
            await self._call("disconnect")
            assert self._node.stdin is not None
            self._node.stdin.close()
        await self._reader
        await self._node.wait()
        self._node = None

    async def _call(self, call: str, **given: Any) -> Any:
        assert self._node is not None
        assert self._node.stdin is not None
        number = next(self._numbers)
        answer = self._waiting[number] = self.loop.create_future()
        self._node.stdin.write(json.dumps({"id": number, "call": call, **given}).encode() + b"\n")
        return await answer

    async def _read(self, node: asyncio.subprocess.Process) -> None:
        assert node.stdout is not None
        async for line in node.stdout:
            said = json.loads(line)
            if "message" in said:
                self.received.put_nowait(_message(said["message"]))
            elif "connected" in said:
                self.connections += 1
            elif "error" in said:
                settle(self._waiting.pop(said["id"]), error=_error(**said["error"]))
            else:
                settle(self._waiting.pop(said["id"]), said["ok"])
        for waiting in self._waiting.values():
            settle(waiting, error=ConnectionError("node has ended"))

    def _packet(self, message: Message) -> dict[str, Any]:
        found = {
            "contentType": message.content_type,
            "responseTopic": message.response_topic,
            "correlationData": base64.b64encode(message.correlation).decode() if message.correlation is not None else None,
            "messageExpiryInterval": message.expiry_s,
            "userProperties": {name: [v for n, v in message.user if n == name] for name, _ in message.user} or None,
        }
        return {
            "topic": message.topic,
            "payload": base64.b64encode(message.payload).decode(),
            "qos": message.qos,
            "retain": message.retain,
            "properties": {name: value for name, value in found.items() if value is not None} if self.level == 5 else None,
        }


def _error(code: int | None, message: str) -> Exception:
    return Refused(OLD_CODES.get(code, code)) if isinstance(code, int) else ConnectionError(message)


def _message(said: dict[str, Any]) -> Message:
    properties = said.get("properties") or {}
    user = []
    for name, values in (properties.get("userProperties") or {}).items():
        user += [(name, value) for value in (values if isinstance(values, list) else [values])]
    correlation = properties.get("correlationData")
    return Message(
        topic=said["topic"],
        payload=base64.b64decode(said["payload"]),
        qos=said["qos"],
        retain=said["retain"],
        content_type=properties.get("contentType"),
        response_topic=properties.get("responseTopic"),
        correlation=base64.b64decode(correlation) if correlation is not None else None,
        expiry_s=properties.get("messageExpiryInterval"),
        user=tuple(user),
    )

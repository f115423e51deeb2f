"""mosquitto_sub and mosquitto_pub. One is a client that only listens, the other one that only speaks, once.

So a scenario's client is a mosquitto_sub, started by its first subscription, and each message a mosquitto_pub. What the
programs print with -d is how they say that they are connected and subscribed.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any

from .client import OLD_CODES, Base, Message, Options, Refused, settle

VERSIONS = {3: "mqttv31", 4: "mqttv311", 5: "mqttv5"}
LINE_BYTES_MAX = 4 << 20
"""A message is a line of JSON; the largest that a scenario sends has some hundred kilobytes."""

_CONNACK = re.compile(r"received CONNACK \((\d+)\)")
_SUBSCRIBED = re.compile(r"^Subscribed \(mid: \d+\): (\d+)")


@dataclass(slots=True)
class MosquittoClient(Base):
    _options: Options | None = None
    _listening: asyncio.subprocess.Process | None = None
    _reader: asyncio.Task[None] | None = None
    _subscribed: asyncio.Future[int] = field(init=False)

    async def connect(self, options: Options) -> bool | None:
        """Whether one may: -E leaves as soon as the subscription is acknowledged. The stay begins with `subscribe`."""
        self._options = options
        if options.clean and options.will is None:
            await self._run("mosquitto_sub", "-i", options.client_id, "-t", f"probe/{options.client_id}", "-E")
        return None

    async def subscribe(self, topic_filter: str, qos: int) -> int:
        assert self._options is not None
        assert self._listening is None, "one subscription is all that it has"
        options = self._options
        arguments = ["-i", options.client_id, "-t", topic_filter, "-q", str(qos), "-F", "%j"]
        if not options.clean:
            arguments.append("-c")
        if self.level == 5:
            arguments += ["-x", str(options.session_expiry_s)]
        if options.will is not None:
            will = options.will
            arguments += ["--will-topic", will.topic, "--will-payload", will.payload.decode(), "--will-qos", str(will.qos)]
            arguments += ["--will-retain"] if will.retain else []
        self._subscribed = self.loop.create_future()
        self._listening = await asyncio.create_subprocess_exec(
            "stdbuf", "-oL", "mosquitto_sub", *self._common(), *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=LINE_BYTES_MAX,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read(self._listening))
        return await self._subscribed

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = raw.decode().rstrip("\n")
            if line.startswith("{"):
                self.received.put_nowait(_message(dict(json.loads(line, object_pairs_hook=list))))
            elif (said := _CONNACK.search(line)) and said[1] == "0":
                self.connections += 1
            elif said := _SUBSCRIBED.match(line):
                settle(self._subscribed, int(said[1]))
        settle(self._subscribed, error=ConnectionError("mosquitto_sub ended before it was subscribed"))

    async def publish(self, message: Message) -> None:
        arguments = ["-t", message.topic, "-q", str(message.qos), "-s"]
        arguments += ["-r"] if message.retain else []
        for name, value in (
            ("content-type", message.content_type),
            ("response-topic", message.response_topic),
            ("correlation-data", message.correlation.decode() if message.correlation is not None else None),
            ("message-expiry-interval", str(message.expiry_s) if message.expiry_s is not None else None),
        ):
            arguments += ["-D", "PUBLISH", name, value] if value is not None else []
        for pair in message.user:
            arguments += ["-D", "PUBLISH", "user-property", *pair]
        if not message.payload:
            arguments[arguments.index("-s")] = "-n"
        await self._run("mosquitto_pub", *arguments, given=message.payload)

    async def _run(self, program: str, *arguments: str, given: bytes = b"") -> None:
        process = await asyncio.create_subprocess_exec(
            program, *self._common(), *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output = (await process.communicate(given))[0].decode()
        answered = _CONNACK.search(output)
        if answered is not None and answered[1] != "0":
            code = int(answered[1])
            raise Refused(OLD_CODES.get(code, code))
        assert process.returncode == 0, output
        assert "failed" not in output, output

    def _common(self) -> list[str]:
        assert self._options is not None
        options = self._options
        arguments = ["-h", self.address.host, "-p", str(self.address.port), "-V", VERSIONS[self.level], "-d"]
        arguments += ["-k", str(options.keep_alive_s)]
        arguments += ["-u", options.username] if options.username is not None else []
        arguments += ["-P", options.password] if options.password is not None else []
        arguments += ["--cafile", str(self.address.ca_file)] if self.address.encrypted else []
        return arguments

    async def disconnect(self) -> None:
        if self._listening is None or self._reader is None:
            return
        if self._listening.returncode is None:
            self._listening.terminate()  # it sends a DISCONNECT
        await self._reader
        await self._listening.wait()
        self._listening = None


def _message(said: dict[str, Any]) -> Message:
    properties = dict(said.get("properties") or ())
    user = tuple(tuple(pair) for pair in properties.get("user-properties", ()))  # pairs, since a name may come twice
    correlation = properties.get("correlation-data")
    return Message(
        topic=said["topic"],
        payload=(said.get("payload") or "").encode(),
        qos=said["qos"],
        retain=bool(said["retain"]),
        content_type=properties.get("content-type"),
        response_topic=properties.get("response-topic"),
        correlation=correlation.encode() if correlation is not None else None,
        expiry_s=properties.get("message-expiry-interval"),
        user=user,
    )

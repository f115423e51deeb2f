"""What a scenario asks of a client, whichever library is behind it. Each library has an adapter in a file of its own.

An adapter calls nothing but its library's public functions, and passes on what the library says. A client that a library
cannot express (MQTT 3.1 in gmqtt, QoS 2 in awscrt) is not in `variants.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Address:
    """transport: tcp, tls, ws or wss. ca_file: what a client trusts on tls and wss."""

    port: int
    transport: str = "tcp"
    ca_file: Path | None = None
    host: str = "127.0.0.1"
    path: str = "/mqtt"
    bare_usernames: bool = False
    """the broker takes no user name with `?SDK=...` behind it, as AWS's SDKs send unless they are told not to"""

    @property
    def encrypted(self) -> bool:
        return self.transport in {"tls", "wss"}

    @property
    def over_websocket(self) -> bool:
        return self.transport in {"ws", "wss"}


@dataclass(frozen=True, slots=True)
class Message:
    """What is published, and what arrives. Properties are MQTT 5's; `retain` of what arrives is the flag on the wire."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None
    user: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """session_expiry_s: MQTT 5 only; before it a session that is not clean stays until it is cleaned."""

    client_id: str
    username: str | None = None
    password: str | None = None
    clean: bool = True
    session_expiry_s: int = 0
    keep_alive_s: int = 30
    will: Message | None = None


class Refused(Exception):
    """CONNACK said no, or a PUBACK did. `reason` is MQTT 5's, also where an older client said the older code."""

    def __init__(self, reason: int) -> None:
        super().__init__(f"0x{reason:02x}")
        self.reason = reason


OLD_CODES = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}
"""CONNACK return codes of MQTT 3 (section 3.2.2.3 there), as MQTT 5 says the same."""


class Client(Protocol):
    received: asyncio.Queue[Message]
    connections: int
    """How often CONNACK has said yes, reconnections by the library itself included."""

    async def connect(self, options: Options) -> bool | None:
        """Whether the session was there; None where the library does not tell. Raises Refused."""

    async def subscribe(self, topic_filter: str, qos: int) -> int:
        """The code of the SUBACK."""

    async def publish(self, message: Message) -> None:
        """Until it is acknowledged as its QoS asks. Raises Refused where the acknowledgement says so."""

    async def disconnect(self) -> None:
        """With a DISCONNECT. Afterwards the client may connect again, as another or as itself."""


@dataclass(slots=True)
class Base:
    """The parts of a client that need no library."""

    address: Address
    level: int
    received: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    connections: int = 0
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def from_thread(self, function: Any, *arguments: Any) -> None:
        """For libraries that call back in a thread of theirs, perhaps when the test is over."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(function, *arguments)


def settle(future: asyncio.Future[Any], result: Any = None, error: Exception | None = None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
        future.exception()  # for whoever waits; where nobody does, it is no error that it was not looked at
    else:
        future.set_result(result)

"""Which libraries are tried, in which version of the protocol and over what, and what each of them cannot do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .aiomqtt_client import AiomqttClient
from .aws_client import AWSClient
from .client import Address, Client
from .gmqtt_client import GmqttClient
from .mosquitto_client import MosquittoClient
from .mqttjs_client import MQTTjsClient
from .paho_client import PahoClient


@dataclass(frozen=True, slots=True)
class Variant:
    """lacks: qos2; reconnecting (by itself); session (saying whether it was there); good-bye (mosquitto_sub 5 with a will
    always asks for it in its DISCONNECT)"""

    name: str
    make: Callable[[Address, int], Client]
    level: int
    transport: str = "tcp"
    lacks: frozenset[str] = frozenset()

    def __str__(self) -> str:
        version = {3: "3.1", 4: "3.1.1", 5: "5"}[self.level]
        return f"{self.name}-{version}-{self.transport}"


def _variants() -> tuple[Variant, ...]:
    made: list[Variant] = []

    def add(name: str, make: Callable[[Address, int], Client], levels: str, transports: str, *lacks: str) -> None:
        made.extend(
            Variant(name, make, int(level), transport, frozenset(lacks))
            for transport in transports.split()
            for level in levels.split()
        )

    add("paho", PahoClient, "3 4 5", "tcp")
    add("paho", PahoClient, "4 5", "ws")
    add("paho", PahoClient, "5", "tls wss")
    add("aiomqtt", AiomqttClient, "4 5", "tcp", "reconnecting", "session")
    add("aiomqtt", AiomqttClient, "5", "tls", "reconnecting", "session")
    add("gmqtt", GmqttClient, "4 5", "tcp")
    add("gmqtt", GmqttClient, "5", "tls")
    add("awscrt", AWSClient, "5", "tcp tls ws wss", "qos2")
    add("mqttjs", MQTTjsClient, "3 4 5", "tcp")
    add("mqttjs", MQTTjsClient, "4 5", "ws")
    add("mqttjs", MQTTjsClient, "5", "tls wss")
    add("mosquitto", MosquittoClient, "3 4", "tcp", "session")
    add("mosquitto", MosquittoClient, "5", "tcp", "session", "good-bye")
    add("mosquitto", MosquittoClient, "5", "tls", "session", "reconnecting")
    return tuple(made)


VARIANTS = _variants()
PLAIN = tuple(v for v in VARIANTS if v.transport in {"tcp", "ws"})
"""What a message says does not change under TLS: those try only what does."""

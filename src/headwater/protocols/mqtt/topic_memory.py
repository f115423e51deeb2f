"""What one session remembers of topic names: the aliases of both sides, and valid names to save judging them again."""

from __future__ import annotations

from headwater.protocols.mqtt.errors import RemoteProtocolError
from headwater.protocols.mqtt.reasons import Reason
from headwater.protocols.mqtt.wire import protocol_error

_ALIAS_BYTES = 3
"""What an alias takes on the wire: a shorter topic is sent as it is, so no packet grows by an alias that is known."""


class TopicMemory:
    """Most devices publish to one topic: `name` and `wire` (the last one, with its length in front) cost no dictionary.

    name, wire  read and moved by the session's hot path; wire is b"" at first
    known       wire -> name, None while there has been only one
    """

    __slots__ = ("_aliases", "known", "name", "wire")

    def __init__(self) -> None:
        self.name = ""
        self.wire = b""
        self.known: dict[bytes, str] | None = None
        self._aliases: dict[int, str] | None = None

    def remember(self, name: str, topics_max: int) -> None:
        raw = name.encode("utf-8")
        wire = len(raw).to_bytes(2, "big") + raw
        if self.wire and self.wire != wire:
            if self.known is None or len(self.known) >= topics_max:
                self.known = {self.wire: self.name}
            self.known[wire] = name
        self.name = name
        self.wire = wire

    def resolve(self, alias: int, name: str, aliases_max: int) -> str:
        """The topic of a publish that carries an alias; a name beside it sets the alias. [MQTT-3.3.2-7], [MQTT-3.3.2-12]"""
        if alias > aliases_max:  # [MQTT-3.3.2-9]
            raise RemoteProtocolError(Reason.TOPIC_ALIAS_INVALID, f"topic alias {alias} is beyond the maximum")
        if name:
            if self._aliases is None:
                self._aliases = {}
            self._aliases[alias] = name
            return name
        known = self._aliases.get(alias) if self._aliases else None
        if known is None:
            raise protocol_error(f"topic alias {alias} has no topic yet")  # section 3.3.2.3.4
        return known


class SentAliases:
    """The aliases that we use towards one client: first come, first served, and kept (section 3.3.2.3.4)."""

    __slots__ = ("_aliases", "_aliases_max")

    def __init__(self, aliases_max: int) -> None:
        self._aliases: dict[str, int] = {}
        self._aliases_max = aliases_max

    def find(self, topic: str) -> int | None:
        """The alias that the client knows."""
        return self._aliases.get(topic)

    def offer(self, topic: str) -> int | None:
        """For a topic that has none; `remember` it once the packet that introduces it is certain to go. [MQTT-3.1.2-26]"""
        if len(self._aliases) == self._aliases_max or len(topic) < _ALIAS_BYTES:
            return None
        return len(self._aliases) + 1

    def remember(self, topic: str) -> None:
        self._aliases[topic] = len(self._aliases) + 1

"""Whose fault it was, and the MQTT 5 reason code that says so on the wire.

These are not `DomainError`s: they never reach an API, and the only edge that tells them to anybody is the MQTT connection.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """A broken rule of MQTT. `reason` is an MQTT 5 reason code whatever version the connection speaks."""

    def __init__(self, reason: int, detail: str) -> None:
        super().__init__(f"0x{reason:02X}: {detail}")
        self.reason = int(reason)
        self.detail = detail


class RemoteProtocolError(ProtocolError):
    """The peer's fault: its bytes are malformed or not allowed now."""


class LocalProtocolError(ProtocolError):
    """Our fault: the caller asked for something that MQTT or this connection does not allow. Nothing was queued."""


class WouldBlock(LocalProtocolError):
    """The client's receive maximum is used up: publish again after the next PubAck. [MQTT-3.3.4-9]"""


class PacketTooLarge(LocalProtocolError):
    """The packet exceeds the client's maximum packet size: drop it and treat it as delivered. [MQTT-3.1.2-25]"""

"""An entry of a timeline as a sentence that a person understands. Codes and names are beside it, for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.device.presence import Ended
from headwater.stream.timeline import Event

_ENDED = {
    Ended.CLIENT_DISCONNECT: "Disconnected by itself",
    Ended.CONNECTION_LOST: "Connection lost without a good-bye",
    Ended.KEEP_ALIVE_TIMEOUT: "Disconnected: silent for longer than its keep-alive allows",
    Ended.TAKEN_OVER: "Disconnected: another connection came with the same client id",
    Ended.PROTOCOL_ERROR: "Disconnected: it broke the protocol",
    Ended.TOPIC_DENIED: "Disconnected: it used a topic that is not its own",
    Ended.NOT_STORED: "Disconnected: its messages could not be stored",
    Ended.AUTHENTICATION_FAILED: "Disconnected: it could not authenticate anew",
    Ended.QUOTA_EXCEEDED: "Disconnected: a quota is used up",
    Ended.ADMINISTRATIVE: "Disconnected: it may no longer be here",
    Ended.SERVER_BUSY: "Disconnected: the gateway is full",
    Ended.SERVER_SHUTDOWN: "Disconnected: the gateway shut down",
    Ended.GATEWAY_LOST: "Gateway lost: nobody saw how the connection ended",
}
_TELLS_ALL = frozenset({Ended.CLIENT_DISCONNECT, Ended.TAKEN_OVER, Ended.SERVER_SHUTDOWN, Ended.GATEWAY_LOST})
"""Of these the detail says nothing more."""
_BEGINNINGS = {
    Event.REFUSED: "Refused before it said who it is",
    Event.AUTHENTICATION_FAILED: "Refused",
    Event.CONNECTED: "Connected",
    Event.TOPIC_DENIED: "Topic denied",
    Event.MESSAGE_REJECTED: "Message rejected",
}


def sentence(row: Mapping[str, Any]) -> str:
    """row: event, code, detail, address, protocol, listener, count of an entry"""
    event, code, detail = row["event"], row["code"], row["detail"]
    if event == Event.DISCONNECTED:
        text = _ENDED.get(code, "Disconnected")
        if code not in _TELLS_ALL and detail:
            text += f" ({detail})"
    else:
        text = _BEGINNINGS.get(event, event)
        if event == Event.CONNECTED and row["protocol"]:
            text += f" over {_protocol(row['protocol'])}"
        if event == Event.REFUSED and row["listener"]:
            text += f" at the {row['listener']} port"
        if detail or code:
            text += f": {detail or code}"
    if row["address"]:
        text += f", from {row['address']}"
    return text if row["count"] == 1 else f"{text} ({row['count']:,} times)"


def _protocol(protocol: str) -> str:
    """`mqtt/4` is how the wire says MQTT 3.1.1."""
    return {"mqtt/3": "MQTT 3.1", "mqtt/4": "MQTT 3.1.1", "mqtt/5": "MQTT 5"}.get(protocol, protocol)

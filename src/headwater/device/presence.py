"""By what a device is said to be connected, where gateways and workers must agree on it."""

from __future__ import annotations

from enum import StrEnum

HEARTBEAT_S = 5.0
"""How often a gateway says that it is there."""
ALIVE_S = 15.0
"""Three heart-beats: a gateway that was silent for longer is lost."""


class Ended(StrEnum):
    """Why a connection ended. Public and stable; the text beside it may improve any day."""

    CLIENT_DISCONNECT = "client_disconnect"
    """It said good-bye."""
    CONNECTION_LOST = "connection_lost"
    """The socket was closed, or broke, without a good-bye."""
    KEEP_ALIVE_TIMEOUT = "keep_alive_timeout"
    TAKEN_OVER = "taken_over"
    """Another connection came with the same client id."""
    PROTOCOL_ERROR = "protocol_error"
    TOPIC_DENIED = "topic_denied"
    """Before MQTT 5 nothing but the end of the connection says so."""
    NOT_STORED = "not_stored"
    """The stream did not take its messages; it is to send them again."""
    AUTHENTICATION_FAILED = "authentication_failed"
    """Of a client that wanted to authenticate anew on its connection."""
    QUOTA_EXCEEDED = "quota_exceeded"
    ADMINISTRATIVE = "administrative"
    """The device, its credential or its tenant may no longer be here."""
    SERVER_BUSY = "server_busy"
    SERVER_SHUTDOWN = "server_shutdown"
    GATEWAY_LOST = "gateway_lost"
    """Nobody saw how it ended: the device may still have been there."""


GATEWAY_LOST_DETAIL = "the gateway was lost"

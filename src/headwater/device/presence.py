"""By what a device is said to be connected, where gateways and workers must agree on it."""

from __future__ import annotations

HEARTBEAT_S = 5.0
"""How often a gateway says that it is there."""
ALIVE_S = 15.0
"""Three heart-beats: a gateway that was silent for longer is lost."""

GATEWAY_LOST = "the gateway was lost"
"""The reason where nobody saw how a connection ended: the device may still have been there."""

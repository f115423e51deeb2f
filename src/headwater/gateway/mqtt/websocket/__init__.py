"""MQTT over WebSocket (MQTT 5, section 6): the opening handshake, the frames, and the socket that speaks both."""

from headwater.gateway.mqtt.websocket.transport import WebSocketTransport

__all__ = ["WebSocketTransport"]

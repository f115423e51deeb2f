"""A gateway's MQTT ports, from its settings: which there are, their certificate, the door's rules, who is a proxy."""

from __future__ import annotations

from headwater.app.settings import GatewaySettings, SettingsInvalid, networks
from headwater.gateway.mqtt.acceptor import Port
from headwater.gateway.mqtt.addresses import Network
from headwater.gateway.mqtt.door import DoorRules
from headwater.gateway.mqtt.tls import CertificateUnusable, ServerTLS


def door_rules(settings: GatewaySettings) -> DoorRules:
    return DoorRules(
        connections_max=settings.connections_max,
        connects_per_s=settings.connects_per_s,
        connecting_max=settings.connecting_max,
        address_connects_per_s=settings.address_connects_per_s,
        address_connecting_max=settings.address_connecting_max,
        exempt=networks(settings.exempt_networks, "GATEWAY_EXEMPT_NETWORKS"),
        server_reference=settings.server_reference,
    )


def certificate_of(settings: GatewaySettings) -> ServerTLS | None:
    """None where no certificate is named."""
    files = (settings.mqtts_cert_file, settings.mqtts_key_file)
    if not settings.mqtts_cert_file:
        files = (settings.tls_cert_file, settings.tls_key_file)
    if not files[0]:
        return None
    try:
        return ServerTLS(*files, settings.tls_client_ca_file)
    except CertificateUnusable as error:
        raise SettingsInvalid(str(error)) from error


def ports_of(settings: GatewaySettings, certificate: ServerTLS | None) -> list[Port]:
    all_ports = [
        Port("mqtts", settings.mqtts_port),
        Port("ws", settings.ws_port),
        Port("wss", settings.wss_port),
        Port("mqtt", settings.mqtt_port),  # last: whoever waits for it finds the others open
    ]
    return [port for port in all_ports if port.number and (certificate is not None or not port.secure)]


def trusted_proxies(settings: GatewaySettings) -> tuple[Network, ...] | None:
    return networks(settings.proxy_networks, "GATEWAY_PROXY_NETWORKS") if settings.proxy_protocol else None

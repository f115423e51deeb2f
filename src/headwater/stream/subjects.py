"""The subject grammar. Every NATS subject that Headwater uses is made here and nowhere else.

A tenant or a device stands in a subject as the 32 lower-case hexadecimal digits of its UUID: no dots, no wildcards, so
a name that somebody chose can never reach into a subject of somebody else.

    hw.up.<lane>                        record batches, high volume: telemetry, attributes, events
    hw.ctl.<partition>                  record batches, low volume, strictly ordered per device: presence, answers
    hw.dead.<tenant>                    dead letters
    hw.live.<tenant>                    record batches of a tenant that somebody watches
    hw.live.ticket-<id>                 a ticket for the live API was used: the stream takes each once
    hw.seen.<tenant>                    the same, as the LIVE stream passes them on: with their stream sequence
    hw.msg.<tenant>.<encoded topic>     ordinary MQTT messages between a tenant's devices and applications
    hw.down.<tenant>.<device>.<kind>    what is meant for one device
    hw.watch                            which tenants and devices the API servers watch
    hw.watch.ask                        a gateway that has just started asks the API servers to say it again
    hw.reg.<tenant>.<noun>.<id>         something in the registry changed
    hw.gateway.connected                a device has connected: older connections of the same client give way
"""

from __future__ import annotations

import zlib
from uuid import UUID

UP = "hw.up"
CONTROL = "hw.ctl"
DEAD = "hw.dead"
LIVE = "hw.live"
SEEN = "hw.seen"
MESSAGE = "hw.msg"
DOWN = "hw.down"
WATCH = "hw.watch"
WATCH_ASK = "hw.watch.ask"
REGISTRY = "hw.reg"
GATEWAY_CONNECTED = "hw.gateway.connected"


def up(lane: int) -> str:
    return f"{UP}.{lane}"


def control(partition: int) -> str:
    return f"{CONTROL}.{partition}"


def partition_of(device: bytes, partitions: int) -> int:
    """Same device, same partition, on every machine. `device` is the 16 bytes of its UUID."""
    return zlib.crc32(device) % partitions


def dead(tenant: UUID) -> str:
    return f"{DEAD}.{tenant.hex}"


def live(tenant: UUID) -> str:
    return f"{LIVE}.{tenant.hex}"


def live_ticket(identifier: UUID) -> str:
    return f"{LIVE}.ticket-{identifier.hex}"


def seen(tenant: UUID) -> str:
    return f"{SEEN}.{tenant.hex}"


def down(tenant: UUID, device: UUID, kind: str) -> str:
    return f"{DOWN}.{tenant.hex}.{device.hex}.{kind}"


def registry(tenant: UUID, noun: str, identifier: UUID) -> str:
    """noun: tenant, device, profile, credential"""
    return f"{REGISTRY}.{tenant.hex}.{noun}.{identifier.hex}"


def registry_of(tenant: UUID) -> str:
    """Every change in the registry of a tenant."""
    return f"{REGISTRY}.{tenant.hex}.>"


def message(tenant: UUID, topic: str) -> str:
    """The subject of an MQTT topic name. Levels are escaped, so any topic that MQTT allows has exactly one subject."""
    return ".".join((MESSAGE, tenant.hex, *(_escape(level) for level in topic.split("/"))))


def messages_of(tenant: UUID) -> str:
    """Every ordinary message of a tenant."""
    return f"{MESSAGE}.{tenant.hex}.>"


def topic_of(subject: str) -> str:
    """The inverse of `message`."""
    return "/".join(_unescape(token) for token in subject.split(".")[3:])


# `~` introduces an escape of two hexadecimal digits a UTF-8 byte; an empty level is a lone `~`.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_:=@!,;()[]{}|^&%+")


def _escape(level: str) -> str:
    if not level:
        return "~"
    if _PLAIN.issuperset(level):
        return level
    return "".join(c if c in _PLAIN else "".join(f"~{byte:02x}" for byte in c.encode()) for c in level)


def _unescape(token: str) -> str:
    if token == "~":
        return ""
    if "~" not in token:
        return token
    head, *rest = token.split("~")
    return (head.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in rest)).decode()

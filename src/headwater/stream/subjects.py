"""The subject grammar. Every NATS subject that Headwater uses is made here and nowhere else.

A tenant or a device stands in a subject as the 32 lower-case hexadecimal digits of its UUID: no dots, no wildcards, so
a name that somebody chose can never reach into a subject of somebody else.

    hw.up.<lane>                        record batches, high volume: telemetry, attributes, events
    hw.ctl.<partition>                  record batches, low volume, strictly ordered per device: presence, answers
    hw.dead.<tenant>                    dead letters
    hw.timeline                         batches of what happened to devices and at the doors
    hw.live.<tenant>                    record batches of a tenant that somebody watches
    hw.live.ticket-<id>                 a ticket for the live API was used: the stream takes each once
    hw.seen.<tenant>                    the same, as the LIVE stream passes them on: with their stream sequence
    hw.msg.<tenant>                     batches of ordinary MQTT messages between a tenant's devices and applications
    hw.out.<tenant>                     the same on their way to gateways: as the MESSAGE stream passes them on, with their
                                        sequence; and at QoS 0 without one, never stored
    hw.retained.<tenant>.<topic>        the retained message of a topic
    hw.session.<tenant>.<client>        an MQTT session that outlives its connection; the client by a digest
    hw.share.<tenant>.<group>           whose a shared subscription is, and what it gave away at QoS 2; the group by a digest
    hw.share.<tenant>.<group>.<span>    which batches of the log it is done with: a bit for each of so many sequences
    hw.watch                            which tenants and devices the API servers watch
    hw.watch.ask                        a gateway that has just started asks the API servers to say it again
    hw.reg.<tenant>.<noun>.<id>         something in the registry changed
    hw.gateway.roster                   a gateway is there, or leaves
    hw.gateway.<gateway>.clients        to one gateway: clients whose whereabouts it keeps came to another one, or left
    hw.gateway.<gateway>.overtaken      to one gateway: clients have newer connections elsewhere, theirs here give way
    hw.gateway.<gateway>.release        to one gateway: end a client's connection, somebody else has it now
    hw.gateway.figures                  what each gateway counts for each tenant: the $SYS topics
"""

from __future__ import annotations

import hashlib
import zlib
from uuid import UUID

UP = "hw.up"
CONTROL = "hw.ctl"
DEAD = "hw.dead"
TIMELINE = "hw.timeline"
LIVE = "hw.live"
SEEN = "hw.seen"
MESSAGE = "hw.msg"
OUT = "hw.out"
RETAINED = "hw.retained"
SESSION = "hw.session"
SHARE = "hw.share"
WATCH = "hw.watch"
WATCH_ASK = "hw.watch.ask"
REGISTRY = "hw.reg"
GATEWAY_ROSTER = "hw.gateway.roster"
GATEWAY_FIGURES = "hw.gateway.figures"


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


def registry(tenant: UUID, noun: str, identifier: UUID) -> str:
    """noun: tenant, device, profile, credential"""
    return f"{REGISTRY}.{tenant.hex}.{noun}.{identifier.hex}"


def registry_of(tenant: UUID) -> str:
    """Every change in the registry of a tenant."""
    return f"{REGISTRY}.{tenant.hex}.>"


def message(tenant: UUID) -> str:
    return f"{MESSAGE}.{tenant.hex}"


def out(tenant: UUID) -> str:
    return f"{OUT}.{tenant.hex}"


def clients(gateway: bytes) -> str:
    """gateway: the 16 bytes of its UUID"""
    return f"hw.gateway.{gateway.hex()}.clients"


def overtaken(gateway: bytes) -> str:
    return f"hw.gateway.{gateway.hex()}.overtaken"


def release(gateway: UUID) -> str:
    return f"hw.gateway.{gateway.hex}.release"


def session(tenant: UUID, client_id: str) -> str:
    """A client identifier is any text of up to 65,535 bytes: its digest stands for it."""
    return session_of(tenant, client_key(client_id))


def session_of(tenant: UUID, client: bytes) -> str:
    """client: its key"""
    return f"{SESSION}.{tenant.hex}.{client.hex()}"


def share(tenant: UUID, name: str, topic_filter: str) -> str:
    """The group's name and filter are any text as well. The last token also names its consumer."""
    digest = hashlib.blake2b(f"{name}/{topic_filter}".encode(), digest_size=16).hexdigest()
    return f"{SHARE}.{tenant.hex}.{digest}"


def client_key(client_id: str) -> bytes:
    """16 bytes that stand for a client identifier within its tenant."""
    return hashlib.blake2b(client_id.encode(), digest_size=16).digest()


def retained(tenant: UUID, topic: str) -> str:
    """The subject of an MQTT topic name. Levels are escaped, so any topic that MQTT allows has exactly one subject."""
    return ".".join((RETAINED, tenant.hex, *(_escape(level) for level in topic.split("/"))))


def retained_matching(tenant: UUID, topic_filter: str) -> tuple[str, ...]:
    """The subjects that an MQTT topic filter means. Also those of `$` topics, which a leading wildcard does not match.

    Two where it ends in `#`: that matches its parent level as well (section 4.7.1.2), and NATS's `>` does not.
    """
    levels = topic_filter.split("/")
    tokens = [RETAINED, tenant.hex, *("*" if level == "+" else _escape(level) for level in levels)]
    if levels[-1] != "#":
        return (".".join(tokens),)
    below = ".".join((*tokens[:-1], ">"))
    return (below,) if len(levels) == 1 else (".".join(tokens[:-1]), below)


def topic_of(subject: str) -> str:
    """The inverse of `retained`."""
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

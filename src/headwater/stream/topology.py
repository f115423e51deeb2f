"""The streams, and who reads them, as data. `ensure` makes NATS agree with this file.

Every consumer keeps its position in PostgreSQL, in the same transaction as what it did (`ingest_position`). NATS
consumers are disposable cursors that start behind that position, so a redelivery or a lost acknowledgement cannot exist.
UPLINK therefore never expires by itself: it is trimmed to the lowest position of its consumers, and refuses
(`DiscardPolicy.NEW`) when it is full.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RePublish, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServiceUnavailableError

from headwater.ingest.ports import StreamUnavailable
from headwater.stream import subjects

_STREAM_EXISTS = 10058
"""JSStreamNameExistErr"""
_NO_PEERS = 10005
"""JSClusterNoPeersErrF: fewer servers than replicas, as while a cluster forms"""
_NO_ROOM = 10047
"""JSStorageResourcesExceededErr: max_file_store of the only server"""
ENSURE_S = 60.0
"""An election takes seconds, a server that comes back with a large store longer."""
ENSURE_PAUSE_S = 0.5

GIB = 1 << 30
DAY_S = 86_400.0
MESSAGE_DAYS = 7
"""How long a message waits for a session that is away."""

UPLINK_STREAM = "UPLINK"
DEAD_STREAM = "DEADLETTER"
LIVE_STREAM = "LIVE"
MESSAGE_STREAM = "MESSAGE"
SESSION_STREAM = "SESSION"
RETAINED_STREAM = "RETAINED"
TIMELINE_STREAM = "TIMELINE"


@dataclass(frozen=True, slots=True)
class Topology:
    """What differs between a laptop and a cluster.

    lanes, partitions   fixed with the stream; 4 and 4 embedded, 64 and 64 in production
    replicas            1 embedded (fsync before acknowledgement), 3 clustered
    uplink_bytes_max    the backlog that fits while PostgreSQL is away; beyond it devices are refused
    """

    lanes: int = 4
    partitions: int = 4
    replicas: int = 1
    uplink_bytes_max: int = 8 * GIB
    dead_bytes_max: int = 1 * GIB
    live_bytes_max: int = 256 << 20
    message_bytes_max: int = 4 * GIB
    session_bytes_max: int = 1 * GIB
    retained_bytes_max: int = 1 * GIB
    timeline_bytes_max: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Consumer:
    """One reader of UPLINK: one position, and one active reader, per lane or partition."""

    name: str
    reads: str
    """subjects.UP (one position a lane) or subjects.CONTROL (one position a partition)"""


STORE = Consumer("store", subjects.UP)
PRESENCE = Consumer("presence", subjects.CONTROL)
CONSUMERS = (STORE, PRESENCE)


def streams(topology: Topology) -> tuple[StreamConfig, ...]:
    return (
        StreamConfig(
            name=UPLINK_STREAM,
            subjects=[f"{subjects.UP}.*", f"{subjects.CONTROL}.*"],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,
            storage=StorageType.FILE,
            num_replicas=topology.replicas,
            max_bytes=topology.uplink_bytes_max,
            # A gateway repeats a publish whose acknowledgement it did not hear; the server must know it again.
            duplicate_window=120,
            allow_direct=True,
        ),
        StreamConfig(
            name=DEAD_STREAM,
            subjects=[f"{subjects.DEAD}.*"],
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            num_replicas=topology.replicas,
            max_bytes=topology.dead_bytes_max,
            # One noisy tenant must not push out the dead letters of another.
            max_msgs_per_subject=100_000,
            max_age=30 * DAY_S,
            allow_direct=True,
        ),
        _live(topology),
        StreamConfig(
            name=TIMELINE_STREAM,
            subjects=[subjects.TIMELINE],
            # Done is gone: it holds only what no worker has written down yet (stream/work_queue.py).
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            num_replicas=topology.replicas,
            # Some hundred thousand entries: a weekend without PostgreSQL of a small fleet, minutes of a flood.
            max_bytes=topology.timeline_bytes_max,
            max_age=7 * DAY_S,
        ),
        StreamConfig(
            name=MESSAGE_STREAM,
            subjects=[f"{subjects.MESSAGE}.*"],
            # The queue of every session that is away or slow: it reads from here what it has not had.
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            num_replicas=topology.replicas,
            max_bytes=topology.message_bytes_max,
            # One noisy tenant must not push out what the devices of another still wait for.
            max_msgs_per_subject=1_000_000,
            max_age=MESSAGE_DAYS * DAY_S,
            duplicate_window=120,
            allow_direct=True,
            # To every gateway with a subscriber of the tenant, in the stream's order and with the sequence before it on the
            # same subject, so that a gateway knows when it has missed something.
            republish=RePublish(src=f"{subjects.MESSAGE}.*", dest=f"{subjects.OUT}.{{{{wildcard(1)}}}}"),
        ),
        _keyed(
            SESSION_STREAM, [f"{subjects.SESSION}.>", f"{subjects.SHARE}.>"], topology.session_bytes_max, topology.replicas
        ),
        _keyed(RETAINED_STREAM, [f"{subjects.RETAINED}.>"], topology.retained_bytes_max, topology.replicas),
    )


def _keyed(name: str, of: list[str], bytes_max: int, replicas: int) -> StreamConfig:
    """One message a subject, the newest (stream/keyed.py)."""
    return StreamConfig(
        name=name,
        subjects=of,
        # Full, it refuses: the one who asks hears of it, and nobody's session goes.
        discard=DiscardPolicy.NEW,
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_bytes=bytes_max,
        max_msgs_per_subject=1,
        duplicate_window=120,
        allow_direct=True,
        allow_msg_ttl=True,
        allow_atomic=True,
    )


def _live(topology: Topology) -> StreamConfig:
    return StreamConfig(
        name=LIVE_STREAM,
        subjects=[f"{subjects.LIVE}.*"],
        discard=DiscardPolicy.OLD,
        # Lost when a single server restarts, the stream itself too: an explicit "missed" for watchers, never data. In a
        # cluster it lives as long as a majority: with the one server that had it, all watching would end.
        storage=StorageType.MEMORY,
        num_replicas=topology.replicas,
        max_bytes=topology.live_bytes_max,
        max_age=300,
        allow_direct=True,
        # API servers hear each batch with its sequence on a plain subject: no consumer per watched tenant.
        republish=RePublish(src=f"{subjects.LIVE}.*", dest=f"{subjects.SEEN}.{{{{wildcard(1)}}}}"),
    )


async def ensure_live(jetstream: JetStreamContext, topology: Topology) -> None:
    """Make the LIVE stream anew after NATS has lost it. Its sequences rise across its lives: they start at the time."""
    config = _live(topology)
    try:
        await jetstream.stream_info(LIVE_STREAM)
    except NotFoundError:
        config.first_seq = time.time_ns() // 1_000_000
        try:
            await jetstream.add_stream(config)
        except BadRequestError as error:
            # Another process made it in this moment, with another start.
            if error.err_code != _STREAM_EXISTS:
                raise
    else:
        await jetstream.update_stream(config)


async def ensure(jetstream: JetStreamContext, topology: Topology) -> None:
    """Create the streams, or bring their limits up to date. Safe to run from many processes at once.

    Waits while a cluster elects. Raises StreamUnavailable.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + ENSURE_S
    while True:
        try:
            await _ensure(jetstream, topology)
        except (nats.errors.Error, TimeoutError) as error:
            has_no_room = isinstance(error, APIError) and "insufficient storage" in str(error.description)
            if not _may_pass(error) and not has_no_room:
                raise
            if loop.time() >= give_up or (isinstance(error, APIError) and error.err_code == _NO_ROOM):
                said = f"NATS did not let us see to its streams for {ENSURE_S:.0f} s: {error}"
                raise StreamUnavailable(_no_room(topology) if has_no_room else said) from error
            await asyncio.sleep(ENSURE_PAUSE_S)
        else:
            return


def _no_room(topology: Topology) -> str:
    """Streams have their room reserved, whether they use it or not."""
    wanted = sum(config.max_bytes or 0 for config in streams(topology) if config.storage is not StorageType.MEMORY)
    return f"NATS has no room for the streams: max_file_store of each server must be at least {wanted / GIB:,.1f} GiB"


def _may_pass(error: Exception) -> bool:
    """Without a leader, of the streams or of all, NATS says 503 or nothing."""
    if isinstance(error, APIError):
        return isinstance(error, ServiceUnavailableError) or error.err_code == _NO_PEERS
    return True


async def _ensure(jetstream: JetStreamContext, topology: Topology) -> None:
    for config in streams(topology):
        assert config.name is not None
        if config.name == LIVE_STREAM:
            await ensure_live(jetstream, topology)
            continue
        try:
            await jetstream.stream_info(config.name)
        except NotFoundError:
            await jetstream.add_stream(config)
        else:
            await jetstream.update_stream(config)

"""The streams, and who reads them, as data. `ensure` makes NATS agree with this file.

Every consumer keeps its position in PostgreSQL, in the same transaction as what it did (`ingest_position`). NATS
consumers are disposable cursors that start behind that position, so a redelivery or a lost acknowledgement cannot exist.
UPLINK therefore never expires by itself: it is trimmed to the lowest position of its consumers, and refuses
(`DiscardPolicy.NEW`) when it is full.
"""

from __future__ import annotations

from dataclasses import dataclass

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from headwater.stream import subjects

GIB = 1 << 30
DAY_S = 86_400.0

UPLINK_STREAM = "UPLINK"
DEAD_STREAM = "DEADLETTER"
LIVE_STREAM = "LIVE"
MESSAGE_STREAM = "MESSAGE"


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
    message_bytes_max: int = 1 * GIB


@dataclass(frozen=True, slots=True)
class Consumer:
    """One reader of UPLINK: one position, and one active reader, per lane or partition."""

    name: str
    reads: str
    """subjects.UP (one position a lane) or subjects.CONTROL (one position a partition)"""


CONSUMERS = (
    Consumer("store", subjects.UP),
    Consumer("presence", subjects.CONTROL),
)


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
        StreamConfig(
            name=LIVE_STREAM,
            subjects=[f"{subjects.LIVE}.*"],
            discard=DiscardPolicy.OLD,
            # Lost on a restart, which costs a watcher an explicit "missed", never data.
            storage=StorageType.MEMORY,
            num_replicas=1,
            max_bytes=topology.live_bytes_max,
            max_age=300,
            allow_direct=True,
        ),
        StreamConfig(
            name=MESSAGE_STREAM,
            subjects=[f"{subjects.MESSAGE}.>", f"{subjects.DOWN}.>"],
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            num_replicas=topology.replicas,
            max_bytes=topology.message_bytes_max,
            max_age=DAY_S,
            allow_direct=True,
        ),
    )


async def ensure(jetstream: JetStreamContext, topology: Topology) -> None:
    """Create the streams, or bring their limits up to date. Safe to run from many processes at once."""
    for config in streams(topology):
        assert config.name is not None
        try:
            await jetstream.stream_info(config.name)
        except NotFoundError:
            await jetstream.add_stream(config)
        else:
            await jetstream.update_stream(config)

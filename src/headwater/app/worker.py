"""The worker role: reads top to bottom, from settings to the consumers and duties that it shares with other workers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import fields
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from nats.aio.msg import Msg

from headwater.app import readiness
from headwater.app.connections import connect_nats
from headwater.app.metrics import Figure, serve_metrics
from headwater.app.process import give_way
from headwater.app.settings import Settings, require
from headwater.clock import SystemClock
from headwater.database import duty
from headwater.database.lane_session import open_lane_session
from headwater.database.session import open_pool
from headwater.live.feed import LiveFeed
from headwater.live.watch import WatchList, subscribe
from headwater.store.maintenance import MaintenanceDuty
from headwater.store.partitions import PartitionKeeper
from headwater.store.presence import PresenceCounts, PresenceParts, PresenceWork
from headwater.store.presence_reaper import PresenceReaper
from headwater.store.removal import RemovalDuty
from headwater.store.retention import RetentionDuty
from headwater.store.rollup import RollupDuty
from headwater.store.timeline import TimelineCounts, TimelineWriter
from headwater.store.timeline_upkeep import TimelineDuty
from headwater.store.writer import StoreCounts, StoreParts, StoreWork
from headwater.store.writer_devices import KnownDevices
from headwater.store.writer_frontier import StreamFrontier
from headwater.stream import subjects
from headwater.stream.consumer import LaneConsumer, LaneState
from headwater.stream.publisher import CorePublisher, Publisher
from headwater.stream.retained_store import RetainedStore
from headwater.stream.session_reaper import SessionReaper
from headwater.stream.session_store import SessionStore
from headwater.stream.topology import PRESENCE, STORE, TIMELINE_STREAM, ensure
from headwater.stream.trim import TrimDuty
from headwater.stream.uplink import StreamUplink
from headwater.stream.work_queue import WorkQueue

log = structlog.get_logger(__name__)

LINGER_S = 0.05
"""A round gathers this long: fewer and larger transactions, for a delay far below what a person notices."""
POOL_SIZE_MAX = 4
"""Partitions, and how far other lanes are: rare questions, none of which holds a lane up for long."""


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Work until `stop`; then finish what is under way."""
    give_way(settings.worker.nice)
    async with AsyncExitStack() as stack:
        writer_url = require(settings.database.writer_url, "DATABASE_WRITER_URL")
        topology, clock = settings.nats.topology, SystemClock()
        pool = await open_pool(writer_url, size_max=POOL_SIZE_MAX, application_name="headwater-worker")
        stack.callback(pool.terminate)
        nats = await connect_nats(settings.nats, name=settings.worker.name)
        stack.push_async_callback(nats.close)
        jetstream = nats.jetstream()
        await ensure(jetstream, topology)

        publisher = Publisher(jetstream)
        partitions = PartitionKeeper(pool, clock)
        await partitions.make_ahead()
        known = KnownDevices()
        await nats.subscribe(f"{subjects.REGISTRY}.*.device.*", cb=partial(_forget, known))

        async def publish_dead(subject: str, payload: bytes, message_id: str) -> object:
            return await publisher.publish(subject, payload, message_id=message_id)

        store = StoreParts(known, partitions, StreamFrontier(pool, jetstream, topology.lanes), publish_dead, StoreCounts())
        presence = PresenceParts(publish_dead, PresenceCounts())
        connect = partial(open_lane_session, writer_url)
        # Position and rows are in one transaction: a crash forgets both, and the stream still has them (stream/trim.py).
        connect_store = partial(open_lane_session, writer_url, synchronous_commit=False)
        consumers = [
            LaneConsumer(
                STORE, topology.lanes, client=nats, connect=connect_store,
                make_work=lambda session, lane: StoreWork(session, lane, store), linger_s=LINGER_S,
            ),
            LaneConsumer(
                PRESENCE, topology.partitions, client=nats, connect=connect_store,
                make_work=lambda session, partition: PresenceWork(session, partition, presence), linger_s=LINGER_S,
            ),
        ]  # fmt: skip
        timeline = TimelineCounts()
        happenings = WorkQueue(nats, stream=TIMELINE_STREAM, subject=subjects.TIMELINE, name="timeline")

        watch_list = WatchList()
        listening = await subscribe(nats, watch_list)
        stack.push_async_callback(listening.close)
        feed = LiveFeed(nats, watch_list)
        feeding = asyncio.create_task(feed.run())
        stack.callback(feeding.cancel)
        uplink = StreamUplink(publisher, topology, 0, live=feed)
        duties: list[duty.Duty] = [
            PresenceReaper(uplink, clock),
            SessionReaper(SessionStore(nats), publisher, CorePublisher(nats), RetainedStore(nats), uplink),
            TrimDuty(jetstream, topology),
            RollupDuty(partitions, clock, every_s=settings.worker.rollup_interval_s),
            RetentionDuty(clock, every_s=settings.worker.maintenance_interval_s),
            RemovalDuty(clock, every_s=settings.worker.maintenance_interval_s),
            TimelineDuty(clock, days=settings.worker.timeline_days, every_s=settings.worker.maintenance_interval_s),
            MaintenanceDuty(partitions, clock, every_s=settings.worker.maintenance_interval_s),
        ]

        figures = partial(_figures, store.counts, presence.counts, timeline, consumers)
        stack.enter_context(serve_metrics(settings.worker.metrics_port, figures, "WORKER_METRICS_PORT"))
        async with asyncio.TaskGroup() as group:
            for consumer in consumers:
                group.create_task(consumer.run(stop))
            group.create_task(TimelineWriter(happenings, pool, timeline).run(stop))
            for each in duties:
                group.create_task(duty.serve(each, connect, stop))
            readiness.announce_ready()
            log.info("worker_ready", name=settings.worker.name)


def _figures(
    store: StoreCounts, presence: PresenceCounts, timeline: TimelineCounts, consumers: list[LaneConsumer]
) -> Iterator[Figure]:
    for name, counts in (("store", store), ("presence", presence), ("timeline", timeline)):
        for each in fields(counts):
            yield Figure("counter", f"{name}_{each.name}", f"{each.name} of the {name}", getattr(counts, each.name))
    for consumer in consumers:
        for lane in consumer.held:
            state = consumer.states.get(lane, LaneState())
            labels = {"consumer": consumer.consumer.name, "lane": str(lane)}
            yield Figure("gauge", "lane_position", "stream sequence that is done", state.position, labels)
            yield Figure("counter", "lane_errors", "sessions of a lane that ended in an error", state.errors, labels)
            yield Figure("counter", "lane_reader_restarts", "times a lane was read anew", state.restarts, labels)


async def _forget(known: KnownDevices, message: Msg) -> Any:
    """A device changed: ask about it again."""
    known.forget(UUID(hex=message.subject.rpartition(".")[2]).bytes)

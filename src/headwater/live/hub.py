"""Live fan-out in one API server: one plain subscription per watched tenant, however many watchers it has.

A watcher hears everything from the moment `attach` returns, and before that what the LIVE stream still has behind the
event that it saw last. What cannot be told is said to be missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog

from headwater.errors import DomainError
from headwater.ids import uuid7
from headwater.live import replay, watch
from headwater.live.errors import HubClosed, ReplayFailed, TooManyWatchers
from headwater.live.event import EventId, EventKind
from headwater.live.ports import DeviceFinder, Wanted
from headwater.live.selection import Selection, Subscriber
from headwater.live.tenant_feed import TenantFeed
from headwater.stream import subjects
from headwater.stream.envelope import UnknownEnvelope, decode_batch
from headwater.stream.topology import LIVE_STREAM, Topology, ensure_live
from headwater.tenancy.scope import TenantScope

log = structlog.get_logger(__name__)

REFRESH_S = 10.0
"""How long a device that has joined a group may stay unseen when no registry event told us."""
STALE_WAIT_S = 0.25
"""A bulk import changes thousands of devices: one refresh for all of them."""
LOOK_S = 0.5
"""How long watchers may see nothing after NATS has lost the LIVE stream in a restart."""
REFRESHES_MAX = 4
"""Group and query look-ups at a time; the pool has eight connections, and requests need them too."""
REPLAYS_MAX = 4
"""After a restart everybody resumes at once; decoding old batches must leave room for new ones."""
FEED_BYTES_MAX = 16 << 20
"""Batches of one tenant waiting to be decoded; beyond it some are lost, which the next one tells."""
RETRY_AFTER_S = 10.0
_END_OF_BATCH = 2**31 - 1


class Hub:
    """open, close   around the life of the API server
    attach, detach   around the life of a watcher's connection
    """

    def __init__(self, nats: Any, finder: DeviceFinder, topology: Topology) -> None:
        self._nats = nats
        self._finder = finder
        self._topology = topology
        self._api = uuid7().hex
        self._interest = watch.Interest()
        self._feeds: dict[UUID, TenantFeed] = {}
        self._subscriptions: dict[UUID, list[Any]] = {}
        self._feeds_lock = asyncio.Lock()
        self._clients: Counter[UUID] = Counter()
        self._peers: dict[str, tuple[float, dict[str, int]]] = {}
        self._stale: set[UUID] = set()
        self._stale_event = asyncio.Event()
        self._replays = asyncio.Semaphore(REPLAYS_MAX)
        self._refreshes = asyncio.Semaphore(REFRESHES_MAX)
        self._replaying: dict[Subscriber, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._control: list[Any] = []
        self._reconnects = -1
        self._stream_created: datetime | None = None
        self._closing = False

    async def open(self) -> None:
        self._control = [
            await self._nats.subscribe(subjects.WATCH_ASK, cb=self._asked),
            await self._nats.subscribe(subjects.WATCH, cb=self._heard_peer),
        ]
        self._start(self._announce_regularly())
        self._start(self._refresh_regularly())

    async def close(self) -> None:
        """Ends every watcher's stream; what waits for them can still be taken."""
        self._closing = True
        for feed in self._feeds.values():
            for selection in feed.selections.values():
                for subscriber in selection.subscribers:
                    subscriber.close(HubClosed("this server is going away; connect again"))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for subscription in [*self._control, *(s for subs in self._subscriptions.values() for s in subs)]:
            with contextlib.suppress(Exception):  # NATS may be gone already, and we are leaving
                await subscription.unsubscribe()

    async def attach(
        self, scope: TenantScope, wanted: Wanted, kinds: Iterable[EventKind], metrics: frozenset[str] | None, *,
        clients_max: int, last_id: EventId | None = None,
    ) -> Subscriber:  # fmt: skip
        """Raises Forbidden, TooManyWatchers, HubClosed, and what DeviceFinder.find raises."""
        scope.require("telemetry:read")
        scope = _finding_scope(scope)
        if self._closing:
            raise HubClosed("this server is going away; connect again")
        tenant = scope.tenant_id
        if self._watchers(tenant) >= clients_max:
            raise TooManyWatchers(
                f"the tenant may have {clients_max} live connections", retry_after_s=RETRY_AFTER_S, limit=clients_max
            )
        self._clients[tenant] += 1
        try:
            devices = await self._finder.find(scope, wanted)
            async with self._feeds_lock:
                feed = self._feeds.get(tenant) or await self._open_feed(tenant)
                selection = Selection(scope, wanted, devices)
                known = feed.selections.get(selection.key)
                if known is None:
                    since = self._interest.covered_since(tenant.bytes, devices)
                    self._interest.hold(tenant.bytes, devices, _now())
                else:
                    selection = known
                    since = self._interest.covered_since(tenant.bytes, known.devices)
                subscriber = Subscriber(selection, kinds, metrics)
                if last_id is not None:
                    subscriber.hold_back()
                feed.add(subscriber)
        except BaseException:
            self._clients[tenant] -= 1
            raise
        if known is None:
            await self._announce()
        if last_id is not None:
            until = feed.sequence
            self._replaying[subscriber] = self._start(self._replay(tenant, subscriber, last_id, until, since))
        return subscriber

    async def detach(self, subscriber: Subscriber) -> None:
        selection = subscriber.selection
        tenant = selection.scope.tenant_id
        feed = self._feeds[tenant]
        self._clients[tenant] -= 1
        if replaying := self._replaying.pop(subscriber, None):
            replaying.cancel()
        if not feed.remove(subscriber):
            return
        self._interest.release(tenant.bytes, selection.devices, _now())
        async with self._feeds_lock:
            if feed.is_empty and self._feeds.get(tenant) is feed:
                del self._feeds[tenant]
                for subscription in self._subscriptions.pop(tenant):
                    await subscription.unsubscribe()

    def position(self, tenant: UUID) -> EventId | None:
        """Where a watcher who attaches now can resume later, although it has not seen an event yet."""
        feed = self._feeds.get(tenant)
        return EventId(feed.sequence, _END_OF_BATCH) if feed is not None and feed.sequence else None

    def _watchers(self, tenant: UUID) -> int:
        elsewhere = sum(
            clients.get(tenant.hex, 0)
            for heard_at, clients in self._peers.values()
            if _now() < heard_at + 3 * watch.ANNOUNCE_S
        )
        return self._clients[tenant] + elsewhere

    async def _open_feed(self, tenant: UUID) -> TenantFeed:
        feed = TenantFeed()

        async def received(message: Any) -> None:
            try:
                headers = message.headers
                feed.receive(int(headers["Nats-Sequence"]), int(headers["Nats-Last-Sequence"]), message.data)
            except (UnknownEnvelope, msgspec.DecodeError) as error:
                log.warning("live_batch_unreadable", tenant=tenant.hex, error=str(error))

        async def registry_changed(message: Any) -> None:
            self._stale.add(tenant)
            self._stale_event.set()

        subscriptions = [
            await self._nats.subscribe(subjects.seen(tenant), cb=received, pending_bytes_limit=FEED_BYTES_MAX),
            await self._nats.subscribe(subjects.registry_of(tenant), cb=registry_changed),
        ]
        try:
            newest = await replay.last(self._nats, tenant)
        except ReplayFailed as error:
            # Live goes on from the first batch that comes; only a replay has no end to aim at.
            log.warning("live_position_unknown", tenant=tenant.hex, error=error.detail)
        else:
            feed.sequence = max(feed.sequence, newest.sequence if newest is not None else 0)
        self._feeds[tenant] = feed
        self._subscriptions[tenant] = subscriptions
        return feed

    async def _replay(self, tenant: UUID, subscriber: Subscriber, last_id: EventId, until: int, since: float | None) -> None:
        """Events behind last_id up to the batch `until`, at the pace of the watcher; then those that came meanwhile."""
        try:
            async with self._replays:
                if not await self._is_whole(tenant, last_id, since):
                    subscriber.mailbox.missed(None)
            sequence = last_id.sequence
            while sequence <= until:
                async with self._replays:
                    batches = await replay.page(self._nats, sequence, tenant)
                if not batches:
                    break
                for batch in batches:
                    if batch.sequence <= until:
                        _replay_batch(subscriber, batch, last_id)
                sequence = batches[-1].sequence + 1
                await subscriber.mailbox.drained()
        except (ReplayFailed, UnknownEnvelope, msgspec.DecodeError) as error:
            log.warning("live_replay_failed", tenant=tenant.hex, error=str(error))
            subscriber.mailbox.missed(None)
        finally:
            subscriber.go_live()
            self._replaying.pop(subscriber, None)

    async def _is_whole(self, tenant: UUID, last_id: EventId, since: float | None) -> bool:
        """Whether everything behind last_id was copied to the LIVE stream and is still there.

        Its watcher held interest when it saw last_id, and interest lingers. So it is whole when last_id is younger than
        that, or when others have held the same interest here ever since.
        """
        batch = await replay.first_at_or_behind(self._nats, last_id.sequence, tenant)
        if batch is None or batch.sequence != last_id.sequence:
            return False
        age_s = time.time() - batch.stored_at.timestamp()
        return age_s < watch.LINGER_S or (since is not None and _now() - age_s >= since)

    def _announcement(self) -> bytes:
        clients = {tenant.hex: count for tenant, count in self._clients.items() if count}
        return watch.encode(watch.Announcement(self._api, self._interest.tenants(_now()), clients))

    async def _announce(self) -> None:
        await self._nats.publish(subjects.WATCH, self._announcement())

    async def _announce_regularly(self) -> None:
        said_at, said = 0.0, self._announcement()
        while not self._closing:
            try:
                reconnects = self._nats.stats["reconnects"]
                if reconnects != self._reconnects:
                    await self._look_after_stream()
                    self._reconnects, said_at = reconnects, 0.0
                announcement = self._announcement()
                if announcement != said or _now() >= said_at + watch.ANNOUNCE_S:
                    await self._nats.publish(subjects.WATCH, announcement)
                    said_at, said = _now(), announcement
            except Exception as error:  # the next turn tries again; a watch list that stops would end everybody's view
                log.warning("watch_announcement_failed", error=repr(error))
            await asyncio.sleep(LOOK_S)

    async def _look_after_stream(self) -> None:
        """After a reconnect the LIVE stream may be another one, or none: what was under way is gone then."""
        jetstream = self._nats.jetstream()
        await ensure_live(jetstream, self._topology)
        created = (await jetstream.stream_info(LIVE_STREAM)).created
        if created != self._stream_created and self._stream_created is not None:
            for feed in self._feeds.values():
                feed.lost()
        self._stream_created = created

    async def _asked(self, message: Any) -> None:
        await self._announce()

    async def _heard_peer(self, message: Any) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            announcement = watch.decode(message.data)
            if announcement.api != self._api:
                self._peers[announcement.api] = (_now(), announcement.clients)
                silent = [api for api, (heard_at, _) in self._peers.items() if _now() > heard_at + watch.LINGER_S]
                for api in silent:
                    del self._peers[api]

    async def _refresh_regularly(self) -> None:
        while not self._closing:
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._stale_event.wait()
                await asyncio.sleep(STALE_WAIT_S)
                self._stale_event.clear()
                due, self._stale = self._stale, set()
            except TimeoutError:
                due = set(self._feeds)
            selections = [
                (self._feeds[tenant], selection)
                for tenant in due & self._feeds.keys()
                for selection in list(self._feeds[tenant].selections.values())
                if selection.may_change
            ]
            await asyncio.gather(*(self._refresh(feed, selection) for feed, selection in selections))

    async def _refresh(self, feed: TenantFeed, selection: Selection) -> None:
        try:
            async with self._refreshes:
                devices = await self._finder.find(selection.scope, selection.wanted)
        except DomainError as error:
            # The group is gone, or the device is: whoever followed it hears why.
            for subscriber in list(selection.subscribers):
                subscriber.close(error)
            return
        except Exception as error:  # the database is away: what was true a moment ago is the best that there is
            log.warning("live_selection_not_refreshed", error=repr(error))
            return
        if devices == selection.devices or not selection.subscribers:
            return
        tenant = selection.scope.tenant_id
        before = selection.devices
        self._interest.hold(tenant.bytes, devices, _now())
        feed.change_devices(selection, devices)
        self._interest.release(tenant.bytes, before, _now())
        await self._announce()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _finding_scope(scope: TenantScope) -> TenantScope:
    """What the selections of all watchers with the same view are looked up with, also after the first has left."""
    permissions = frozenset({"telemetry:read", "device:read", "group:read"})
    return TenantScope(scope.tenant_id, "system:live", permissions, scope.group_id)


def _now() -> float:
    return time.monotonic()


def _replay_batch(subscriber: Subscriber, batch: replay.StoredBatch, last_id: EventId) -> None:
    records = decode_batch(batch.payload)
    if not records:
        subscriber.mailbox.missed(None)
    for index, record in enumerate(records):
        event_id = EventId(batch.sequence, index)
        if event_id > last_id and (event := subscriber.event_of(record, event_id)) is not None:
            subscriber.mailbox.put(event)

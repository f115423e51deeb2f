"""What a gateway that has died can no longer do for the MQTT sessions that it served: their wills, and their end.

A gateway is dead when it has had no row for LOOKS looks; store/presence_reaper.py takes the row of one whose heart-beat
stands still. Then every session is looked through once, for those that it served. A client that has come back elsewhere has
written its session meanwhile, and nothing is done to that: each write here names the one that it replaces.

No payload is read here: the gateway wrote into the session what its will means (gateway/mqtt/wills.py).
"""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import structlog

from headwater.stream import subjects
from headwater.stream.envelope import encode_messages
from headwater.stream.keyed import Overtaken
from headwater.stream.publisher import CorePublisher, Publisher
from headwater.stream.retained_store import RetainedStore
from headwater.stream.session_store import (
    SessionRecord,
    SessionStore,
    StoredSession,
    StoredWill,
    will_letter,
    will_message,
    will_records,
)
from headwater.stream.uplink import StreamUplink

log = structlog.get_logger(__name__)

LOOKS = 2
"""A gateway that was only frozen makes its row anew with its next heart-beat."""
EVERY_S = 5.0


class SessionReaper:
    """A `database.duty.Duty`."""

    name = "sessions"

    def __init__(
        self, store: SessionStore, publisher: Publisher, core: CorePublisher, retained: RetainedStore, uplink: StreamUplink,
        *, every_s: float = EVERY_S,
    ) -> None:  # fmt: skip
        self.every_s = every_s
        self._store = store
        self._publisher = publisher
        self._core = core
        self._retained = retained
        self._uplink = uplink
        self._session: Any = None
        self._absent: dict[UUID, int] = {}
        """gateways that serve, or served, sessions: looks without a row"""
        self._due: dict[tuple[bytes, str], StoredSession] = {}
        self.reaped_total = 0
        self.wills_total = 0

    async def perform(self, session: Any) -> bool:
        if session is not self._session:
            self._session = session
            self._due = {}
            self._absent = dict.fromkeys(await self._owners(), 0)
        rows = {row["id"] for row in await session.fetch("SELECT id FROM gateway_instance")}
        self._absent = {gateway: looks + 1 for gateway, looks in self._absent.items()} | dict.fromkeys(rows, 0)
        dead = {gateway for gateway, looks in self._absent.items() if looks >= LOOKS}
        if dead:
            await self._reap(dead)
            for gateway in dead:
                del self._absent[gateway]
        await self._publish_due()
        return False

    async def _owners(self) -> set[UUID]:
        owners = set()
        async for stored in self._store.everything():
            if stored.record is not None and _is_open(stored.record):
                owners.add(UUID(bytes=stored.record.owner))
        return owners

    async def _reap(self, dead: set[UUID]) -> None:
        owners = {gateway.bytes for gateway in dead}
        async for stored in self._store.everything():
            record = stored.record
            if record is None or record.owner not in owners or not _is_open(record):
                continue
            try:
                await self._close(record, stored.revision)
            except Overtaken:
                continue  # the client is back
            self.reaped_total += 1
        log.info("sessions_of_dead_gateways_closed", gateways=[gateway.hex for gateway in dead], sessions=self.reaped_total)

    async def _close(self, record: SessionRecord, revision: int) -> None:
        """As its gateway would have when the connection ended, now."""
        if record.connected:
            delay_s = min(record.will.delay_s, record.expiry_s) if record.will is not None else 0
            record.connected, record.is_behind = False, True
            record.will_at = time.time_ns() // 1000 + delay_s * 1_000_000 if record.will is not None else 0
            if record.will is None and not record.expiry_s:
                await self._store.remove(record, revision)
                return
            revision = await self._store.save(record, revision)
        if record.will_at:
            self._due[record.tenant, record.client_id] = StoredSession(record, revision)

    async def _publish_due(self) -> None:
        now_us = time.time_ns() // 1000
        for key, stored in list(self._due.items()):
            assert stored.record is not None
            if stored.record.will_at <= now_us:
                del self._due[key]
                await self._publish(stored.record, stored.revision)

    async def _publish(self, record: SessionRecord, revision: int) -> None:
        current = await self._store.find(UUID(bytes=record.tenant), record.client_id)
        if current.revision != revision or record.will is None:
            return  # the client is back
        await self._publish_will(UUID(bytes=record.tenant), record.will)
        self.wills_total += 1
        record.will, record.will_at = None, 0
        try:
            if record.expiry_s:
                await self._store.save(record, revision)
            else:
                await self._store.remove(record, revision)
        except Overtaken:
            return

    async def _publish_will(self, tenant_id: UUID, will: StoredWill) -> None:
        if will.letter is not None:
            await self._uplink.reject(tenant_id, will_letter(will.letter))
            return
        if will.records is not None:
            await self._uplink.submit(will_records(will))
            return
        message = will_message(will)
        if message.retain:
            await self._retained.keep(tenant_id, message)
        if message.qos:
            await self._publisher.publish(subjects.message(tenant_id), encode_messages([message]))
        else:
            await self._core.publish(subjects.out(tenant_id), encode_messages([message]))


def _is_open(record: SessionRecord) -> bool:
    return record.connected or record.will_at > 0

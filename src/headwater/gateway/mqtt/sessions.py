"""Sessions that outlive their connections: who serves one, how it moves, what becomes of it and of its will.

A session is served by one gateway at a time, the one that its record names. Where a client comes to another, that one asks
the first to let go, and waits until the first has written down how far it got; a gateway that does not answer is dead, and
then the record is as it was written last. Nobody is asked about clients that have no such session.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client

from headwater.device.principal import Principal
from headwater.errors import DomainError, QuotaExceeded, Unavailable
from headwater.gateway.mqtt.kept_session import SNAPSHOT_S, KeptSession
from headwater.protocols.mqtt.packets import Connect
from headwater.protocols.mqtt.topics import parse_share
from headwater.stream import subjects
from headwater.stream.envelope import Message
from headwater.stream.keyed import KeyedStream, Overtaken
from headwater.stream.message_log import MessageLog, Place
from headwater.stream.retained_store import RetainedStore
from headwater.stream.session_store import (
    Pending,
    SessionRecord,
    SessionStore,
    StoredSession,
    StoredSubscription,
    StoredWill,
)
from headwater.stream.share_store import ShareStore
from headwater.stream.topology import SESSION_STREAM

if TYPE_CHECKING:
    from headwater.gateway.mqtt.connection import MQTTConnection

log = structlog.get_logger(__name__)

EXPIRY_S_MAX = 30 * 86_400
"""A session that nobody has used for a month goes; a client that asks for more is told."""
RELEASE_S = 5.0
"""A gateway that lives writes one record in that time, however busy it is."""
ABSENT_S = 0.5
"""A gateway that loses its server of a cluster is at the next one in that time."""
GATHERED_S = 5.0
"""After NATS was away: all gateways that live have reached it again."""
ASK_AGAIN_S = 0.1
ABSENT_MAX = 1_000
SETTLED_S = 0.25
"""After a gateway has died: what it had sent to the log before is in the log by then."""
RECEIPTS_SKIPPED = 1 << 20
"""Numbers that a gateway which was taken for dead may have given to receipts since it wrote the session."""
ATTEMPTS = 5
"""Two gateways that both open one session overtake each other once or twice."""
SCAN_BATCHES = 64

IsOurs = Callable[[KeptSession], Awaitable[bool]]
EndLocal = Callable[[UUID, str, UUID | None], Awaitable[None]]


@dataclass(slots=True)
class Opened:
    """present   what CONNACK says
    kept         None: the session ends with its connection, and there is no will
    earlier_will of the session that has just ended, where it had not been published yet
    """

    present: bool = False
    kept: KeptSession | None = None
    subscriptions: list[StoredSubscription] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    messages: dict[int, Message] = field(default_factory=dict)
    earlier_will: StoredWill | None = None


@dataclass(frozen=True, slots=True)
class _Comer:
    """Who wants a session."""

    connection: MQTTConnection
    connect: Connect
    principal: Principal
    will: StoredWill | None

    @property
    def expiry_s(self) -> int:
        return min(self.connection.session.session_expiry_s, EXPIRY_S_MAX)

    def may_resume(self, record: SessionRecord) -> bool:
        """What one device had subscribed to is not for another, even when it uses the same identifier."""
        return not self.connect.clean_start and record.expiry_s > 0 and record.device == self.principal.device_id.bytes


class Sessions:
    """back_for_s  how long ago NATS was away from this gateway
    kept        those that this gateway serves, or whose ends it is writing
    end_local   ends this gateway's connection of a client (tenant, client id, heir), and waits for it
    """

    def __init__(
        self, nats_client: Client, gateway_id: UUID, message_log: MessageLog, retained: RetainedStore,
        back_for_s: Callable[[], float],
    ) -> None:  # fmt: skip
        self._nats = nats_client
        self._back_for_s = back_for_s
        self._gateway_id = gateway_id
        self._log = message_log
        self._retained = retained
        self._store = SessionStore(nats_client)
        self._shares = KeyedStream(nats_client, SESSION_STREAM)
        self._absent: set[UUID] = set()
        """gateways that were waited for in vain: all of a dead one's clients come within seconds"""
        self.kept: set[KeptSession] = set()
        self._timers: set[asyncio.Task[None]] = set()
        self.end_local: EndLocal
        self.is_ours: IsOurs

    # -- beginning ------------------------------------------------------------------------------------------------------

    async def open(
        self, connection: MQTTConnection, connect: Connect, principal: Principal, will: StoredWill | None
    ) -> Opened:
        """Find, take over, discard or begin the session of a client that has come. Raises DomainErrors."""
        client_id, tenant_id = connection.client_id, principal.tenant_id
        stored = await self._store.find(tenant_id, client_id)
        for _ in range(ATTEMPTS):
            is_dead = False
            if stored.record is not None and stored.record.connected:
                owner = stored.record.owner
                is_dead = not await self._release(stored.record, None if connect.clean_start else principal.device_id)
                stored = await self._store.find(tenant_id, client_id)
                if stored.record is not None and stored.record.connected:
                    if stored.record.owner != owner:
                        continue  # a third gateway has it now, and has to let go as well
                    is_dead = True  # or it lives, and could not write how far it got
            try:
                return await self._open(_Comer(connection, connect, principal, will), stored, is_dead)
            except Overtaken:
                stored = await self._store.find(tenant_id, client_id)
        raise Unavailable("another connection of this client came at the same moment")

    async def _open(self, comer: _Comer, stored: StoredSession, is_dead: bool) -> Opened:
        """is_dead: the gateway that served it is, or could not write its end. Raises Overtaken, and others."""
        record, tenant_id = stored.record, comer.principal.tenant_id
        is_dead = is_dead or (record is not None and record.is_behind)
        opened = Opened(present=record is not None and comer.may_resume(record))
        if record is not None and record.will is not None and _is_due(record.will, record, opened.present, is_dead):
            opened.earlier_will = record.will
        if record is None or not opened.present:
            if not comer.expiry_s and comer.will is None:
                if record is not None:
                    await self._store.remove(record, stored.revision)
                return opened
            record = await self._new_record(comer, is_one_more=record is None)
        elif is_dead:
            await self._catch_up(tenant_id, record)
        if opened.present:
            opened.subscriptions, opened.pending = record.subscriptions, record.pending
            opened.messages = await self._messages_of(tenant_id, record.pending)
        record.owner, record.connected = self._gateway_id.bytes, True
        record.expiry_s, record.will, record.will_at = comer.expiry_s, comer.will, 0
        revision = await self._store.save(record, stored.revision)
        opened.kept = KeptSession(self._store, comer.connection, record, revision)
        self.kept.add(opened.kept)
        return opened

    async def _new_record(self, comer: _Comer, *, is_one_more: bool) -> SessionRecord:
        end = 0
        if comer.expiry_s:
            sessions_max = comer.principal.quotas.sessions_max
            if is_one_more and await self._store.count(comer.principal.tenant_id) >= sessions_max:
                raise QuotaExceeded(f"the tenant may have {sessions_max} sessions", retry_after_s=60)
            end = await self._log.end(comer.principal.tenant_id)
        return SessionRecord(
            tenant=comer.principal.tenant_id.bytes, client_id=comer.connection.client_id,
            device=comer.principal.device_id.bytes, owner=b"", connected=True, expiry_s=0,
            sequence=end + 1, published=end,
        )  # fmt: skip

    async def _messages_of(self, tenant_id: UUID, pending: list[Pending]) -> dict[int, Message]:
        """By packet id; what the log does not keep any more is absent."""
        found: dict[int, Message] = {}
        unreleased = [each for each in pending if not each.released]
        for sequence in sorted({each.sequence for each in unreleased if each.sequence}):
            batch = await self._log.find(tenant_id, sequence)
            messages = batch.messages if batch is not None else []
            for each in unreleased:
                if each.sequence == sequence and each.index < len(messages):
                    found[each.packet_id] = messages[each.index]
        for each in unreleased:
            if not each.sequence:
                message = await self._retained.find(tenant_id, each.topic)
                if message is not None:
                    found[each.packet_id] = message
        return found

    async def _catch_up(self, tenant_id: UUID, record: SessionRecord) -> None:
        """The gateway that wrote the record is dead: what happened at QoS 2 since then is elsewhere."""
        await asyncio.sleep(SETTLED_S)
        await self._learn_published(tenant_id, record)
        await self._learn_given(tenant_id, record)
        record.is_behind = False

    async def _learn_given(self, tenant_id: UUID, record: SessionRecord) -> None:
        """Messages of shared subscriptions that are nobody else's, and were not sent."""
        client = subjects.client_key(record.client_id)
        above = max((record.receipts, *record.receipts_above)) + RECEIPTS_SKIPPED
        for subscription in record.subscriptions:
            share = parse_share(subscription.topic_filter)
            if share is None:
                continue
            store = ShareStore(self._shares, subjects.share(tenant_id, *share), EXPIRY_S_MAX)
            for place, number in await store.take_over(client, above):
                if number > record.receipts and number not in record.receipts_above:
                    await self._add_pending(tenant_id, record, subscription, place)
        record.receipts, record.receipts_above = above, []

    async def _add_pending(
        self, tenant_id: UUID, record: SessionRecord, subscription: StoredSubscription, place: Place
    ) -> None:
        batch = await self._log.find(tenant_id, place[0])
        if batch is None:
            return
        taken = {each.packet_id for each in record.pending}
        packet_id = next(packet_id for packet_id in range(1, 0x1_0000) if packet_id not in taken)
        retain = batch.messages[place[1]].retain and subscription.retain_as_published
        identifiers = (subscription.identifier,) if subscription.identifier else ()
        record.pending.append(Pending(packet_id, 2, *place, retain, identifiers))

    async def _learn_published(self, tenant_id: UUID, record: SessionRecord) -> None:
        """What the client published since the record was written."""
        sender = subjects.client_key(record.client_id)
        received = set(record.received)
        while batches := await self._log.read(tenant_id, record.published + 1, SCAN_BATCHES):
            for batch in batches:
                received.update(m.packet_id for m in batch.messages if m.packet_id and m.sender == sender)
            record.published = batches[-1].sequence
        record.received = sorted(received)

    # -- moving ---------------------------------------------------------------------------------------------------------

    async def _release(self, record: SessionRecord, heir: UUID | None) -> bool:
        """Ask who serves it to let go. False = there is nobody: its gateway is dead.

        heir  the device that wants to go on with it; None = a clean start ends it
        """
        tenant_id, owner = UUID(bytes=record.tenant), UUID(bytes=record.owner)
        if owner == self._gateway_id:
            await self.end_local(tenant_id, record.client_id, heir)
            return True
        request = msgspec.msgpack.encode((record.tenant, record.client_id, heir.bytes if heir is not None else b""))
        try:
            await self._ask(owner, request)
        except (nats.errors.NoRespondersError, TimeoutError, nats.errors.TimeoutError):
            log.info("session_taken_from_the_dead", gateway=owner.hex)
            return False
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("the session cannot be moved now; try again") from error
        return True

    async def _ask(self, owner: UUID, request: bytes) -> None:
        """That nobody answers means little while gateways find their way back to NATS: one that lives may still have to send
        what its clients published. Raises NATS's errors, TimeoutError."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + ABSENT_S
        while True:
            try:
                await self._nats.request(subjects.release(owner), request, timeout=RELEASE_S)
            except nats.errors.NoRespondersError:
                if self._back_for_s() > GATHERED_S and (clock() > give_up or owner in self._absent):
                    self._absent = {*self._absent, owner} if len(self._absent) < ABSENT_MAX else {owner}
                    raise
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                self._absent.discard(owner)
                return

    async def listen(self) -> None:
        async def released(message: Any) -> None:
            tenant, client_id, heir = msgspec.msgpack.decode(message.data)
            await self.end_local(UUID(bytes=tenant), client_id, UUID(bytes=heir) if heir else None)
            await message.respond(b"")

        async def requested(message: Any) -> None:
            asyncio.ensure_future(released(message)).add_done_callback(_report)  # one must not wait for another

        await self._nats.subscribe(subjects.release(self._gateway_id), cb=requested)

    # -- ending ---------------------------------------------------------------------------------------------------------

    async def close(self, kept: KeptSession, will: StoredWill | None, publish: Callable[[], None]) -> None:
        """The connection has ended. publish  what publishes the will: now, or after its delay, unless the client is back."""
        expiry_s = kept.record.expiry_s = min(kept.connection.session.session_expiry_s, EXPIRY_S_MAX)
        delay_s = min(will.delay_s, expiry_s) if will is not None else 0
        if will is not None and not delay_s:
            if await self.is_ours(kept):  # else it is the other gateway's as well
                publish()
            will = None
        will_at = time.time_ns() // 1000 + delay_s * 1_000_000 if will is not None else 0
        try:
            is_ours = await kept.end(will, will_at)
        finally:
            self.kept.discard(kept)
        if is_ours and will is not None:
            timer = asyncio.ensure_future(self._publish_later(kept, delay_s, publish))
            self._timers.add(timer)
            timer.add_done_callback(self._timers.discard)

    async def _publish_later(self, kept: KeptSession, delay_s: float, publish: Callable[[], None]) -> None:
        """A gateway that ends before that leaves it to a worker (stream/session_reaper.py)."""
        await asyncio.sleep(delay_s)
        record = kept.record
        record.will, record.will_at = None, 0
        record.expiry_s = max(0, record.expiry_s - round(delay_s))
        try:
            if record.expiry_s:
                kept.revision = await self._store.save(record, kept.revision)
            else:
                await self._store.remove(record, kept.revision)
        except Overtaken:
            return  # the client is back
        except DomainError as error:
            log.warning("will_left_to_a_worker", error=repr(error))
            return
        publish()

    # -- upkeep ---------------------------------------------------------------------------------------------------------

    async def write_for_ever(self) -> None:
        """What has changed of the sessions that are served here."""
        while True:
            await asyncio.sleep(SNAPSHOT_S)
            await asyncio.gather(*(kept.write() for kept in list(self.kept) if kept.is_dirty))

    def stop(self) -> None:
        """Wills that are not due yet are a worker's matter from now on (stream/session_reaper.py)."""
        for timer in self._timers:
            timer.cancel()


def _is_due(will: StoredWill, record: SessionRecord, is_resumed: bool, is_dead: bool) -> bool:
    """A will that nobody has published, of a connection that is gone: unless the client is back before the delay is over."""
    return (is_dead and not will.delay_s) or (not is_resumed and (is_dead or record.will_at > 0))


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("release_failed", error=repr(task.exception()))

"""From the TIMELINE stream to rows: whom an entry concerns, and that it is written once.

Owns `device_timeline` and `stranger_attempt`. An entry has an id, and a row with that id is not written again: so the queue
may give a batch to two workers, or twice to one, and in any order. A message leaves the stream once its rows are committed.

Whom somebody meant who was refused is found out here, across tenants: by the id of the token that was shown, by a user name
or client id that is the id of a device, or by one that is the external id of a single device of the whole platform. What
names nobody is for the operator of the platform alone; what concerns a device that is gone is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import asyncpg
import msgspec
import structlog

from headwater.clock import to_datetime
from headwater.database.away import AWAY
from headwater.store.columns import TIME_MAX_US, TIME_MIN_US
from headwater.store.dead_letters import PERMANENT
from headwater.stream.envelope import UnknownEnvelope
from headwater.stream.timeline import FAILED, TimelineEntry, decode_entries

log = structlog.get_logger(__name__)

MESSAGES_MAX = 20
"""Of one round, each of at most 500 entries."""
WAIT_S = 2.0
RETRY_S_MAX = 5.0
DEVICE_ROWS_MAX = 1_000
"""Of one device: weeks of a good one, and the last hours of one that fails all the time (gateway/timeline.py)."""
TRIM_ONE_IN = 32
"""An entry in so many has its device's timeline cut to size: a device has that many rows more at times, and few look-ups."""
TEXT_LENGTH_MAX = 300
COUNT_MAX = (1 << 63) - 1


class Message(Protocol):
    """What the queue gives."""

    @property
    def data(self) -> bytes: ...


class Queue(Protocol):
    """stream.work_queue.WorkQueue"""

    async def open(self) -> None: ...

    async def take(self, *, messages_max: int, wait_s: float) -> list[Any]: ...

    async def finish(self, messages: list[Any]) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class TimelineCounts:
    """Since the process began.

    strangers  of whom nobody knows
    dropped    of devices that are gone, or written before
    bad        not to be read
    """

    entries: int = 0
    strangers: int = 0
    dropped: int = 0
    bad: int = 0


class Meant(NamedTuple):
    """Whom an entry concerns. by: credential, user_name or client_id where it is only claimed; "" where it was proved."""

    tenant_id: UUID
    device_id: UUID
    by: str


class TimelineWriter:
    """Writes down what the queue gives, until told to stop. Any number of workers may."""

    def __init__(self, queue: Queue, pool: asyncpg.Pool, counts: TimelineCounts, *, trim_one_in: int = TRIM_ONE_IN) -> None:
        self._queue = queue
        self._pool = pool
        self._counts = counts
        self._trim_one_in = trim_one_in

    async def run(self, stop: asyncio.Event) -> None:
        retry_s = 0.1
        while not stop.is_set():
            try:
                await self._queue.open()
                try:
                    while not stop.is_set():
                        await self._round()
                        retry_s = 0.1
                finally:
                    await self._queue.close()
            except Exception as error:  # the top of a task: whatever it was, what was not finished comes again
                expected = isinstance(error, AWAY) or type(error).__module__.startswith("nats.")
                log.warning("timeline_waits", reason=f"{type(error).__name__}: {error}", exc_info=not expected)
                try:
                    async with asyncio.timeout(retry_s):
                        await stop.wait()
                except TimeoutError:
                    retry_s = min(RETRY_S_MAX, retry_s * 2)

    async def _round(self) -> None:
        messages = await self._queue.take(messages_max=MESSAGES_MAX, wait_s=WAIT_S)
        if messages:
            await self.write(list(self._read(messages)))
            await self._queue.finish(messages)

    def _read(self, messages: Iterable[Message]) -> Iterable[TimelineEntry]:
        for message in messages:
            try:
                yield from filter(self._usable, decode_entries(message.data))
            except (msgspec.DecodeError, UnknownEnvelope) as error:
                log.warning("timeline_undecodable", bytes=len(message.data), reason=str(error))
                self._counts.bad += 1

    def _usable(self, entry: TimelineEntry) -> bool:
        identifiers = (entry.tenant, entry.device, entry.gateway, entry.credential)
        good = (
            len(entry.id) == 16
            and all(len(one) in {0, 16} for one in identifiers)
            and bool(entry.tenant) == bool(entry.device)
            and TIME_MIN_US <= entry.at <= TIME_MAX_US
            and 1 <= entry.count <= COUNT_MAX
        )
        self._counts.bad += not good
        return good

    async def write(self, entries: Sequence[TimelineEntry]) -> None:
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                await self._write(connection, entries)
        except PERMANENT:
            # Nothing in an entry should be refused; should it be, it costs that entry and no other.
            if len(entries) == 1:
                log.exception("timeline_entry_refused", event_name=entries[0].event)
                self._counts.bad += 1
                return
            middle = len(entries) // 2
            await self.write(entries[:middle])
            await self.write(entries[middle:])

    async def _write(self, connection: Any, entries: Sequence[TimelineEntry]) -> None:
        meant = await identify(connection, entries)
        known = [(entry, whom) for entry, whom in zip(entries, meant, strict=True) if whom is not None]
        strangers = [entry for entry, whom in zip(entries, meant, strict=True) if whom is None]
        written = await _insert_known(connection, known) if known else 0
        if strangers:
            await _insert_strangers(connection, strangers)
        full = {whom.device_id for entry, whom in known if entry.id[-1] % self._trim_one_in == 0}
        if full:
            await _trim(connection, full)
        self._counts.entries += written
        self._counts.strangers += len(strangers)
        self._counts.dropped += len(known) - written


async def identify(connection: Any, entries: Sequence[TimelineEntry]) -> list[Meant | None]:
    """Whom each concerns; None = nobody that is known."""
    claiming = [entry for entry in entries if not entry.device]
    names = {name for entry in claiming for name in (entry.name, entry.client_id) if name}
    by_credential = await _by_credential(connection, {UUID(bytes=e.credential) for e in claiming if e.credential})
    by_name = await _by_name(connection, {_text(name) for name in names})

    def find(entry: TimelineEntry) -> Meant | None:
        if entry.device:
            return Meant(UUID(bytes=entry.tenant), UUID(bytes=entry.device), "")
        if entry.credential and (found := by_credential.get(UUID(bytes=entry.credential))):
            return Meant(*found, "credential")
        for name, by in ((entry.name, "user_name"), (entry.client_id, "client_id")):
            if name and (found := by_name.get(_text(name))):
                return Meant(*found, by)
        return None

    return [find(entry) for entry in entries]


async def _by_credential(connection: Any, credentials: set[UUID]) -> dict[UUID, tuple[UUID, UUID]]:
    if not credentials:
        return {}
    rows = await connection.fetch(
        "SELECT id, tenant_id, device_id FROM device_credential WHERE id = ANY ($1::uuid[])", list(credentials)
    )
    return {row["id"]: (row["tenant_id"], row["device_id"]) for row in rows}


async def _by_name(connection: Any, names: set[str]) -> dict[str, tuple[UUID, UUID]]:
    """An external id that two devices have means neither: it must not tell one tenant what another's device did."""
    if not names:
        return {}
    rows = await connection.fetch(
        """
        SELECT external_id, min(tenant_id::text)::uuid AS tenant_id, min(id::text)::uuid AS id FROM device
        WHERE external_id = ANY ($1::text[]) GROUP BY external_id HAVING count(*) = 1
        """,
        list(names),
    )
    found = {row["external_id"]: (row["tenant_id"], row["id"]) for row in rows}
    identifiers = {identifier: name for name in names if (identifier := _identifier(name)) is not None}
    if identifiers:
        rows = await connection.fetch("SELECT tenant_id, id FROM device WHERE id = ANY ($1::uuid[])", list(identifiers))
        found |= {identifiers[row["id"]]: (row["tenant_id"], row["id"]) for row in rows}
    return found


def _identifier(name: str) -> UUID | None:
    try:
        return UUID(name) if len(name) == 36 else None
    except ValueError:
        return None


def _columns(entry: TimelineEntry) -> tuple[Any, ...]:
    """What both tables have, in this order: _COMMON."""
    return (
        UUID(bytes=entry.id), to_datetime(entry.at), _text(entry.event), _text(entry.code), _text(entry.detail), entry.count,
        _text(entry.client_id), _text(entry.address), _text(entry.protocol), _text(entry.listener),
        UUID(bytes=entry.gateway) if entry.gateway else None,
    )  # fmt: skip


_COMMON = "id, at, event, code, detail, count, client_id, address, protocol, listener, gateway_id"
_TYPES = (
    "uuid", "timestamptz", "text", "text", "text", "bigint", "text", "text", "text", "text", "uuid",
)  # fmt: skip


def _unnest(types: Sequence[str]) -> str:
    return "unnest(" + ", ".join(f"${n}::{name}[]" for n, name in enumerate(types, 1)) + ")"


_INSERT_KNOWN = f"""
INSERT INTO device_timeline ({_COMMON}, failed, tenant_id, device_id, identified_by)
SELECT new.* FROM {_unnest([*_TYPES, "boolean", "uuid", "uuid", "text"])}
     AS new({_COMMON}, failed, tenant_id, device_id, identified_by)
JOIN device d ON d.id = new.device_id AND d.tenant_id = new.tenant_id
ON CONFLICT (id) DO NOTHING
RETURNING true
"""  # noqa: S608  # of this file's literals
_INSERT_STRANGERS = f"""
INSERT INTO stranger_attempt ({_COMMON}) SELECT * FROM {_unnest(_TYPES)}
ON CONFLICT (id) DO NOTHING
"""  # noqa: S608  # of this file's literals


async def _insert_known(connection: Any, known: Sequence[tuple[TimelineEntry, Meant]]) -> int:
    rows = [(*_columns(entry), entry.event in FAILED, whom.tenant_id, whom.device_id, whom.by) for entry, whom in known]
    return len(await connection.fetch(_INSERT_KNOWN, *map(list, zip(*rows, strict=True))))


async def _insert_strangers(connection: Any, entries: Sequence[TimelineEntry]) -> None:
    await connection.execute(_INSERT_STRANGERS, *map(list, zip(*map(_columns, entries), strict=True)))


async def _trim(connection: Any, devices: set[UUID]) -> None:
    """The newest DEVICE_ROWS_MAX of each stay."""
    await connection.execute(
        """
        DELETE FROM device_timeline t USING (
            SELECT o.device_id, o.at, o.id FROM unnest($1::uuid[]) AS full_device(id), LATERAL (
                SELECT device_id, at, id FROM device_timeline WHERE device_id = full_device.id
                ORDER BY at DESC, id DESC OFFSET $2 LIMIT 1) o) oldest
        WHERE t.device_id = oldest.device_id AND (t.at, t.id) <= (oldest.at, oldest.id)
        """,
        list(devices), DEVICE_ROWS_MAX,
    )  # fmt: skip


def _text(value: str) -> str:
    """PostgreSQL keeps no NUL, and no half of a character."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:TEXT_LENGTH_MAX]


async def record(connection: Any, entries: Sequence[TimelineEntry]) -> None:
    """For a worker that saw something itself, of known devices: inside its transaction."""
    await _insert_known(connection, [(e, Meant(UUID(bytes=e.tenant), UUID(bytes=e.device), "")) for e in entries])

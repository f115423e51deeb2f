"""Dead letters over HTTP: list, inspect, replay, delete. A token of one group sees those of its devices only."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Meta

from headwater.api.pagination import CURSOR_LENGTH_MAX, LIMIT_DEFAULT, Cursors, CursorText, Limit, Page
from headwater.api.services import APIServices, Noun
from headwater.api.telemetry_queries import DateTime, Order, instant
from headwater.clock import to_datetime
from headwater.database.session import Database
from headwater.device.principal import Principal
from headwater.device.principals import principals_of
from headwater.device.visibility import devices_in_group
from headwater.errors import Unavailable
from headwater.gateway.redecode import Redecoder
from headwater.ingest.profile_compiled import CompiledProfiles
from headwater.store.query_errors import QueryInvalid
from headwater.stream.dead_letter_replay import Replay, Replayed
from headwater.stream.dead_letters import (
    Accepts,
    DeadLetterFilter,
    DeadLetterMissing,
    DeadLetters,
    LetterPage,
    StoredLetter,
)
from headwater.stream.direct_get import ReadFailed
from headwater.stream.envelope import DeadLetter
from headwater.stream.publisher import Publisher
from headwater.tenancy.audit import AuditTrail
from headwater.tenancy.scope import TenantScope
from headwater.tenancy.text import NO_NUL

PREVIEW_CHARACTERS = 200
AT_ONCE_MAX = 1_000
"""Letters that one call replays or deletes: some seconds. `next_cursor` goes on."""
REFUSED_NAMED_MAX = 100

_PROFILES_MAX = 256
"""compiled for replays; an API server replays rarely"""

Sequence64 = Annotated[int, PathParameter(ge=1, le=2**53 - 1, description="The letter's number.")]
CodeText = Annotated[str, QueryParameter(max_length=100, pattern=NO_NUL, description="Only letters with this error code.")]
DeviceParameter = Annotated[UUID | None, QueryParameter(name="device_id", description="Only letters of this device.")]
ReceivedSince = Annotated[
    str | None,
    QueryParameter(
        name="from", schema_extra={"format": "date-time"},
        description="Only letters received at this time or later (RFC 3339). Default: all.",
    ),
]  # fmt: skip
ReceivedUntil = Annotated[
    str | None,
    QueryParameter(
        name="to", schema_extra={"format": "date-time"},
        description="Only letters received before this time (RFC 3339). Default: all.",
    ),
]  # fmt: skip
OrderText = Annotated[Order, QueryParameter(description="Newest first (`desc`) or oldest first (`asc`).")]


class DeadLetterItem(msgspec.Struct):
    """preview: the beginning of the payload as text, null where it is not UTF-8. source: mqtt, http or store; topic: the
    MQTT topic or the HTTP path; code and detail: why it could not be stored."""

    sequence: int
    device_id: UUID | None
    source: str
    topic: str
    code: str
    detail: str
    received_at: datetime
    content_type: str
    payload_bytes: int
    preview: str | None


class DeadLetterDetail(DeadLetterItem):
    """payload: the raw bytes as base64 (RFC 4648, 4)."""

    payload: str


class Selected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from", "end": "to"}):
    """Letters that fulfil all that is given; nothing given = all. They are taken oldest first.

    from, to  when the letter was received, [from, to)
    cursor    `next_cursor` of the call before
    """

    device_id: UUID | None = None
    code: Annotated[str, Meta(max_length=100)] = ""
    start: DateTime | None = None
    end: DateTime | None = None
    limit: Annotated[int, Meta(ge=1, le=AT_ONCE_MAX)] = AT_ONCE_MAX
    cursor: Annotated[str, Meta(max_length=CURSOR_LENGTH_MAX, extra_json_schema={"format": "headwater-cursor"})] | None = (
        None
    )

    def filter(self) -> DeadLetterFilter:
        return _filter(self.device_id, self.code, self.start, self.end)


class Refused(msgspec.Struct):
    """A letter that is kept, because it cannot be stored as the device's profile is now."""

    sequence: int
    code: str
    detail: str


class ReplayResult(msgspec.Struct):
    """replayed: letters that were stored and deleted, `records` records together. refused: the first 100 of those kept.
    next_cursor: there are more letters; null = that was all."""

    replayed: int
    records: int
    refused_count: int
    refused: list[Refused]
    next_cursor: str | None


class DeleteResult(msgspec.Struct):
    """next_cursor: there are more letters; null = that was all."""

    deleted: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class DeadLetterDesk:
    """What the operations have in common: whose letters a scope may see, and in which words they are shown."""

    database: Database
    cursors: Cursors
    audit: AuditTrail
    stored: DeadLetters | None
    replaying: Replay | None

    @property
    def letters(self) -> DeadLetters:
        if self.stored is None:
            raise Unavailable("this server has no stream")
        return self.stored

    async def page(
        self, scope: TenantScope, wanted: DeadLetterFilter, order: Order, cursor: str | None, limit: int
    ) -> tuple[LetterPage, str | None]:
        """The letters, and the cursor of the following page."""
        name = "dead_letters " + msgspec.json.encode((wanted, order)).decode()
        place = self.cursors.decode(name, cursor, tuple[int])
        accepts = await self._accepts(scope, wanted)
        if order is Order.DESCENDING:
            below = place[0] if place else None
            page = await self.letters.newest(scope.tenant_id, accepts, below=below, limit=limit)
        else:
            start = place[0] if place else 1
            page = await self.letters.oldest(scope.tenant_id, accepts, start=start, limit=limit)
        return page, None if page.next is None else self.cursors.encode(name, (page.next,))

    async def get(self, scope: TenantScope, sequence: int) -> StoredLetter:
        """Raises DeadLetterMissing."""
        found = await self.letters.get(scope.tenant_id, sequence)
        accepts = await self._accepts(scope, DeadLetterFilter())
        if not accepts(found.letter):
            raise DeadLetterMissing("there is no such dead letter", noun="dead_letter", id=sequence)
        return found

    async def replay(self, scope: TenantScope, letters: Sequence[StoredLetter]) -> list[Replayed]:
        async def find(device_ids: set[UUID]) -> dict[UUID, Principal]:
            async with self.database.tenant_session(scope.tenant_id) as connection:
                return await principals_of(connection, device_ids)

        if self.replaying is None:
            raise Unavailable("this server has no stream")
        outcomes = await self.replaying.all(scope.tenant_id, letters, find)
        stored = [outcome.sequence for outcome in outcomes if outcome.error is None]
        await self._note(scope, "dead_letter:replay", stored)
        return outcomes

    async def delete(self, scope: TenantScope, letters: Sequence[StoredLetter]) -> int:
        deleted = []
        for stored in letters:
            try:
                await self.letters.delete(scope.tenant_id, stored.sequence)
            except DeadLetterMissing:
                continue  # somebody was faster
            deleted.append(stored.sequence)
        await self._note(scope, "dead_letter:delete", deleted)
        return len(deleted)

    async def _accepts(self, scope: TenantScope, wanted: DeadLetterFilter) -> Accepts:
        if scope.group_id is None:
            return wanted.accepts
        async with self.database.tenant_session(scope.tenant_id) as connection:
            visible = {device.bytes for device in await devices_in_group(connection, scope.group_id)}
        return lambda letter: letter.device in visible and wanted.accepts(letter)

    async def _note(self, scope: TenantScope, action: str, sequences: Sequence[int]) -> None:
        if not sequences:
            return
        about = {"count": len(sequences), "first": min(sequences), "last": max(sequences)}
        async with self.database.tenant_session(scope.tenant_id) as connection:
            await self.audit.record(connection, scope, action, f"dead_letter:{min(sequences)}", about)


def _filter(device_id: UUID | None, code: str, start: str | None, end: str | None) -> DeadLetterFilter:
    return DeadLetterFilter(
        device_id,
        code,
        None if start is None else instant("from", start),
        None if end is None else instant("to", end),
    )


def _item(stored: StoredLetter) -> DeadLetterItem:
    return DeadLetterItem(**_shown(stored.sequence, stored.letter))


def _shown(sequence: int, letter: DeadLetter) -> dict[str, Any]:
    return {
        "sequence": sequence,
        "device_id": UUID(bytes=letter.device) if letter.device else None,
        "source": letter.source,
        "topic": letter.topic,
        "code": letter.code,
        "detail": letter.detail,
        "received_at": to_datetime(letter.received_at),
        "content_type": letter.content_type,
        "payload_bytes": len(letter.payload),
        "preview": _preview(letter.payload),
    }


def _preview(payload: bytes) -> str | None:
    """Four bytes a character at most; a character that the cut went through is no fault of the payload."""
    piece = payload[: PREVIEW_CHARACTERS * 4]
    try:
        text = piece.decode()
    except UnicodeDecodeError as error:
        if len(piece) == len(payload) or error.start < len(piece) - 3:
            return None
        text = piece[: error.start].decode()
    return text[:PREVIEW_CHARACTERS]


def _result(outcomes: Sequence[Replayed], next_cursor: str | None) -> ReplayResult:
    refused = [Refused(one.sequence, one.error.code, one.error.detail) for one in outcomes if one.error is not None]
    return ReplayResult(
        replayed=len(outcomes) - len(refused),
        records=sum(one.records for one in outcomes),
        refused_count=len(refused),
        refused=refused[:REFUSED_NAMED_MAX],
        next_cursor=next_cursor,
    )


# --- operations ---------------------------------------------------------------------------------------------------------


@get("/dead-letters", operation_id="listDeadLetters", permission="dead_letter:read", group_scoped=True,
     problems=(QueryInvalid, ReadFailed))  # fmt: skip
async def list_dead_letters(
    *,
    caller: NamedDependency[TenantScope],
    desk: NamedDependency[DeadLetterDesk],
    device: DeviceParameter = None,
    code: CodeText = "",
    start: ReceivedSince = None,
    end: ReceivedUntil = None,
    order: OrderText = Order.DESCENDING,
    cursor: CursorText = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[DeadLetterItem]:
    """Messages that could not be stored, and why. A page may hold fewer than `limit`, even none, and still not be the last:
    only `next_cursor` null is the end."""
    page, following = await desk.page(caller, _filter(device, code, start, end), order, cursor, limit)
    return Page([_item(stored) for stored in page.letters], following)


@get("/dead-letters/{sequence:int}", operation_id="getDeadLetter", permission="dead_letter:read", group_scoped=True,
     problems=(DeadLetterMissing, ReadFailed))  # fmt: skip
async def get_dead_letter(
    *, caller: NamedDependency[TenantScope], desk: NamedDependency[DeadLetterDesk], sequence: Sequence64
) -> DeadLetterDetail:
    """One letter with its raw bytes."""
    found = await desk.get(caller, sequence)
    return DeadLetterDetail(**_shown(found.sequence, found.letter), payload=base64.b64encode(found.letter.payload).decode())


@post("/dead-letters/{sequence:int}/replay", operation_id="replayDeadLetter", permission="dead_letter:replay",
      group_scoped=True, status_code=200, problems=(DeadLetterMissing, ReadFailed))  # fmt: skip
async def replay_dead_letter(
    *, caller: NamedDependency[TenantScope], desk: NamedDependency[DeadLetterDesk], sequence: Sequence64
) -> ReplayResult:
    """Read one letter again by the device's profile as it is now; stored, it is deleted. Safe to repeat."""
    return _result(await desk.replay(caller, [await desk.get(caller, sequence)]), None)


@post("/dead-letters/replay", operation_id="replayDeadLetters", permission="dead_letter:replay", group_scoped=True,
      status_code=200, problems=(QueryInvalid, ReadFailed))  # fmt: skip
async def replay_dead_letters(
    *, caller: NamedDependency[TenantScope], desk: NamedDependency[DeadLetterDesk], data: JSONBody[Selected]
) -> ReplayResult:
    """The same for all letters that the filter finds, oldest first. Go on with `next_cursor` until it is null."""
    page, following = await desk.page(caller, data.filter(), Order.ASCENDING, data.cursor, data.limit)
    return _result(await desk.replay(caller, page.letters), following)


@delete("/dead-letters/{sequence:int}", operation_id="deleteDeadLetter", permission="dead_letter:delete",
        group_scoped=True, problems=(DeadLetterMissing, ReadFailed))  # fmt: skip
async def delete_dead_letter(
    *, caller: NamedDependency[TenantScope], desk: NamedDependency[DeadLetterDesk], sequence: Sequence64
) -> None:
    """Delete one letter, for good."""
    await desk.delete(caller, [await desk.get(caller, sequence)])


@post("/dead-letters/delete", operation_id="deleteDeadLetters", permission="dead_letter:delete", group_scoped=True,
      status_code=200, problems=(QueryInvalid, ReadFailed))  # fmt: skip
async def delete_dead_letters(
    *, caller: NamedDependency[TenantScope], desk: NamedDependency[DeadLetterDesk], data: JSONBody[Selected]
) -> DeleteResult:
    """Delete all letters that the filter finds, oldest first. Go on with `next_cursor` until it is null."""
    page, following = await desk.page(caller, data.filter(), Order.ASCENDING, data.cursor, data.limit)
    return DeleteResult(await desk.delete(caller, page.letters), following)


def _build(services: APIServices) -> Mapping[str, object]:
    stored = replaying = None
    if services.nats is not None and services.jetstream is not None:
        stored = DeadLetters(services.nats, services.jetstream)
        replaying = Replay(stored, Publisher(services.jetstream), Redecoder(CompiledProfiles(_PROFILES_MAX)))
    cursors = Cursors(services.secret_key)
    return {"desk": DeadLetterDesk(services.database, cursors, AuditTrail(), stored, replaying)}


NOUN = Noun(
    tag="Dead letters",
    description="Messages that could not be stored: read them, mend the profile, replay them.",
    handlers=(
        list_dead_letters,
        get_dead_letter,
        replay_dead_letter,
        replay_dead_letters,
        delete_dead_letter,
        delete_dead_letters,
    ),
    build=_build,
)

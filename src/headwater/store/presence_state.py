"""Whether a device is connected: the part of `device_state` that control records make.

Owns the rule that the newest word counts. A record of an earlier (epoch, sequence) than that of the row changes nothing,
so it does not matter who writes down the same record first, how often, or that an old gateway's last word comes late.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from headwater.clock import to_datetime
from headwater.device.presence import Ended
from headwater.store.writer_batch import is_storable
from headwater.store.writer_devices import activate
from headwater.stream.envelope import Kind, Record

TEXT_LENGTH_MAX = 200
"""Of a reason, a protocol, a client id: our own gateways' words, which may quote a device."""
BIGINT_MAX = (1 << 63) - 1


class Unreadable(Exception):
    """A control record that does not hold what its kind promises."""


class Word(NamedTuple):
    """A CONNECTED or DISCONNECTED record, read."""

    tenant_id: UUID
    device_id: UUID
    connected: bool
    epoch: int
    sequence: int
    observed_at: datetime
    received_at: datetime
    gateway_id: UUID
    reason: str
    detail: str
    client_id: str
    protocol: str
    address: str


class State(NamedTuple):
    """Columns of `device_state`. gateway_id, client_id, protocol, address: of the connection there is, or was last."""

    connected: bool = False
    epoch: int = 0
    sequence: int = 0
    changed_at: datetime | None = None
    reason: str = ""
    detail: str = ""
    gateway_id: UUID | None = None
    client_id: str = ""
    protocol: str = ""
    address: str = ""
    last_seen_at: datetime | None = None


class Merged(NamedTuple):
    """changed  devices whose row is another now
    unknown  devices that are not there, or not the tenant's
    """

    changed: int
    unknown: int


def read(record: Record) -> Word:
    """Raises Unreadable."""
    connected = record.kind == Kind.CONNECTED
    # Behind a CONNECTED there must be a place for a DISCONNECTED.
    last = BIGINT_MAX - 1 if connected else BIGINT_MAX
    if not is_storable(record) or not 0 <= record.epoch <= BIGINT_MAX or not 0 <= record.sequence <= last:
        raise Unreadable("an id, a time or a place out of range")
    body = record.body
    texts = [body.get(name, "") for name in _TEXTS]
    if not all(isinstance(text, str) for text in texts):
        raise Unreadable("a reason or protocol that is no text")
    try:
        gateway_id = UUID(hex=body["gateway"])
    except (KeyError, ValueError, AttributeError) as error:
        raise Unreadable("no gateway") from error
    return Word(
        UUID(bytes=record.tenant), UUID(bytes=record.device), connected, record.epoch, record.sequence,
        to_datetime(record.observed_at), to_datetime(record.received_at), gateway_id, *map(_text, texts),
    )  # fmt: skip


_TEXTS = ("reason", "detail", "client_id", "protocol", "address")
"""Of a body; in the order of Word."""


def _text(value: str) -> str:
    return value.replace("\0", "\ufffd")[:TEXT_LENGTH_MAX]


def advance(state: State, word: Word) -> State:
    """The state behind the word; the same object where the word is none of news."""
    if (word.epoch, word.sequence) <= (state.epoch, state.sequence):
        return state
    seen_at = state.last_seen_at
    if word.reason != Ended.GATEWAY_LOST and (seen_at is None or word.received_at > seen_at):
        seen_at = word.received_at
    return State(
        connected=word.connected,
        epoch=word.epoch,
        sequence=word.sequence,
        changed_at=word.observed_at if word.connected != state.connected else state.changed_at,
        reason="" if word.connected else word.reason,
        detail="" if word.connected else word.detail,
        gateway_id=word.gateway_id,
        client_id=word.client_id if word.connected else state.client_id,
        protocol=word.protocol if word.connected else state.protocol,
        address=word.address if word.connected else state.address,
        last_seen_at=seen_at,
    )


async def merge(connection: Any, words: Sequence[Word]) -> Merged:
    """Inside the caller's transaction; the words of a device in the order of the stream.

    Rows are made and locked in the order of the devices, and devices behind them, as in store/writer_attributes.py and
    store/writer.py: two writers wait for each other and never both. A device that has come for the first time is active.
    """
    said: dict[tuple[UUID, UUID], list[Word]] = {}
    for word in words:
        said.setdefault((word.tenant_id, word.device_id), []).append(word)
    if not said:
        return Merged(0, 0)
    rows = await _lock(connection, list(said))
    changed, first = [], set()
    for row in rows:
        state = known = State(*row[2:])
        for word in said[row["tenant_id"], row["device_id"]]:
            state = advance(state, word)
        if state is not known:
            changed.append((row["device_id"], *state))
        if state.epoch and not known.epoch:
            first.add(row["device_id"].bytes)
    if changed:
        await _write(connection, changed)
    if first:
        await activate(connection, first)
    return Merged(len(changed), len(said) - len(rows))


async def _lock(connection: Any, keys: Sequence[tuple[UUID, UUID]]) -> list[Any]:
    columns = [list(column) for column in zip(*keys, strict=True)]
    await connection.execute(
        """
        INSERT INTO device_state (tenant_id, device_id)
        SELECT d.tenant_id, d.id FROM unnest($1::uuid[], $2::uuid[]) AS wanted(tenant_id, id)
        JOIN device d ON d.id = wanted.id AND d.tenant_id = wanted.tenant_id
        ORDER BY d.id
        ON CONFLICT (device_id) DO NOTHING
        """,
        *columns,
    )
    rows: list[Any] = await connection.fetch(
        """
        SELECT s.tenant_id, s.device_id, s.connected, s.epoch, s.sequence, s.changed_at, s.reason, s.detail, s.gateway_id,
               s.client_id, s.protocol, s.address, s.last_seen_at
        FROM unnest($1::uuid[], $2::uuid[]) AS wanted(tenant_id, id)
        JOIN device_state s ON s.device_id = wanted.id AND s.tenant_id = wanted.tenant_id
        ORDER BY s.device_id FOR UPDATE OF s
        """,
        *columns,
    )
    return rows


async def _write(connection: Any, changed: Sequence[tuple[Any, ...]]) -> None:
    await connection.execute(
        """
        UPDATE device_state AS s SET
            connected = new.connected, epoch = new.epoch, sequence = new.sequence, changed_at = new.changed_at,
            reason = new.reason, detail = new.detail, gateway_id = new.gateway_id, client_id = new.client_id,
            protocol = new.protocol, address = new.address, last_seen_at = new.last_seen_at,
            connection_version = s.connection_version + 1, version = s.version + 1
        FROM unnest($1::uuid[], $2::boolean[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[],
                    $8::uuid[], $9::text[], $10::text[], $11::text[], $12::timestamptz[])
             AS new(device_id, connected, epoch, sequence, changed_at, reason, detail,
                    gateway_id, client_id, protocol, address, last_seen_at)
        WHERE s.device_id = new.device_id
        """,
        *zip(*changed, strict=True),
    )

"""The store's writer on a real PostgreSQL: what goes in comes out, once, whatever dies and whatever devices say."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from msgspec.msgpack import Ext
from tests.support.clock import FakeClock
from tests.support.engines import DatabaseURLs
from tests.support.gateways import Device, add_device, eventually
from tests.support.tenants import TenantFactory

from headwater.clock import SystemClock, to_datetime
from headwater.database.lane_session import open_lane_session
from headwater.database.session import Database, open_pool
from headwater.ids import uuid7
from headwater.store import metrics as catalog
from headwater.store import writer_attributes, writer_latest
from headwater.store.dead_letters import PLATFORM
from headwater.store.latest import LatestQueries
from headwater.store.partitions import PartitionKeeper
from headwater.store.query import RawQuery, TelemetryQueries
from headwater.store.query_devices import DeviceSelection
from headwater.store.writer import StoreCounts, StoreParts, StoreWork
from headwater.store.writer_devices import KnownDevices
from headwater.stream import subjects
from headwater.stream.envelope import (
    EXT_JSON,
    EXT_LOCATION,
    DeadLetter,
    Flag,
    Kind,
    Record,
    decode_batch,
    decode_dead_letter,
    encode_batch,
)
from headwater.stream.position import PositionLost, read_position
from headwater.stream.reader import Delivery
from headwater.tenancy.scope import system_scope

NOW = time.time_ns() // 1000
DAY_US = 86_400_000_000
OFFSET = 1_000
"""of the stream, as if there had been one before"""


class Others:
    """How far the other lanes are."""

    pending: int | None = None

    async def lowest_pending(self, lane: int) -> int | None:
        return self.pending


@dataclass
class World:
    urls: DatabaseURLs
    owner: Any
    pool: Any
    """the writer's"""
    database: Database
    parts: StoreParts
    others: Others
    tenants: TenantFactory
    letters: dict[tuple[str, str], DeadLetter] = field(default_factory=dict)
    """by subject and message id, as a stream has them that knows a repetition"""
    dead_letters_fail: bool = False

    @property
    def counts(self) -> StoreCounts:
        return self.parts.counts

    async def device(self, tenant: UUID | None = None) -> Device:
        return await add_device(self.urls.owner, tenant or await self.tenants())

    async def keep_letter(self, subject: str, payload: bytes, message_id: str) -> object:
        if self.dead_letters_fail:
            raise TimeoutError("NATS is away")
        self.letters[subject, message_id] = decode_dead_letter(payload)
        return None

    def codes(self) -> dict[str, str]:
        """By message id."""
        return {message_id: letter.code for (_, message_id), letter in self.letters.items()}

    async def messages(self, device: Device, **options: Any) -> list[dict[str, Any]]:
        """As a person asks for them."""
        question = RawQuery(DeviceSelection((device.id,)), (), NOW - 400 * DAY_US, NOW + 400 * DAY_US, **options)
        page = await TelemetryQueries(self.database).raw(system_scope(device.tenant_id, "test"), question)
        return [message.values for message in page.items]

    async def latest(self, device: Device) -> dict[str, Any]:
        scope = system_scope(device.tenant_id, "test")
        (found,) = await LatestQueries(self.database).latest(scope, DeviceSelection((device.id,)))
        return {name: value.value for name, value in found.values.items()}

    async def count(self, table: str) -> int:
        return int(await self.owner.fetchval(f"SELECT count(*) FROM {table}"))

    async def positions(self) -> dict[int, int]:
        rows = await self.owner.fetch("SELECT lane, sequence FROM ingest_position WHERE consumer = 'store'")
        return {row["lane"]: row["sequence"] for row in rows}


class Lane:
    """A lane's session, and the stream in front of it."""

    def __init__(self, world: World, session: Any, lane: int, position: int) -> None:
        self.world = world
        self.session = session
        self.lane = lane
        self.position = position
        self.work = StoreWork(session, lane, world.parts)
        self.waiting: list[Delivery] = []
        self.last = max(0, position - OFFSET)

    def publish(self, *batches: Sequence[Record] | bytes) -> list[Delivery]:
        new = []
        for batch in batches:
            self.last += 1
            new.append(Delivery(self.last, batch if isinstance(batch, bytes) else encode_batch(list(batch))))
        self.waiting += new
        return new

    async def store(self, *batches: Sequence[Record] | bytes) -> None:
        self.publish(*batches)
        while self.waiting:
            assert await self.turn()

    async def turn(self) -> int:
        done = await self.work.apply(self.waiting, position=self.position, offset=OFFSET)
        if done:
            self.position = self.waiting[done - 1].sequence + OFFSET
            del self.waiting[:done]
        return done


@pytest.fixture
async def world(database_urls: DatabaseURLs, database: Database, tenant_factory: TenantFactory) -> AsyncIterator[World]:
    pool = await open_pool(database_urls.writer, size_max=2, application_name="test")
    owner = await asyncpg.connect(database_urls.owner, server_settings={"timezone": "UTC"})
    others = Others()

    async def publish_dead(subject: str, payload: bytes, message_id: str) -> object:
        return await made.keep_letter(subject, payload, message_id)

    parts = StoreParts(KnownDevices(), PartitionKeeper(pool, SystemClock()), others, publish_dead, StoreCounts())
    made = World(database_urls, owner, pool, database, parts, others, tenant_factory)
    yield made
    await owner.close()
    pool.terminate()


async def open_lane(world: World, lane: int = 0) -> Lane:
    session = await open_lane_session(world.urls.writer, "test lane", synchronous_commit=False)
    return Lane(world, session, lane, await read_position(session, "store", lane))


@pytest.fixture
async def lane(world: World) -> AsyncIterator[Lane]:
    opened = await open_lane(world)
    yield opened
    opened.session.terminate()


def say(who: Device, body: dict[str, Any], kind: int = Kind.TELEMETRY, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "tenant": who.tenant_id.bytes, "device": who.id.bytes, "kind": kind, "observed_at": NOW, "received_at": NOW,
        "epoch": 1, "sequence": 1, "body": body,
    }  # fmt: skip
    return Record(**fields | changes)


# --- what goes in comes out -----------------------------------------------------------------------------------------

EVERY_TYPE: dict[str, Any] = {
    "zeros": "0012", "empty": "", "text": "\u00fc\U0001f600\n'\"\\", "float": 21.5, "whole": 5.0, "tiny": 5e-324,
    "huge": 1.7976931348623157e308, "negative zero": -0.0, "int": -7, "exact": 2**53, "beyond": 2**53 + 1,
    "int64": 2**63 - 1, "true": True, "false": False, "json": Ext(EXT_JSON, b'{"a": [1, 2.5, null, "0012", {"b": true}]}'),
    "list": Ext(EXT_JSON, b"[]"), "json number": Ext(EXT_JSON, b"1e300"),
    "place": Ext(EXT_LOCATION, msgspec.msgpack.encode([52.5, 13.25])),
    "hill": Ext(EXT_LOCATION, msgspec.msgpack.encode([52.5, 13.25, 115.0])),
}  # fmt: skip
# JSON knows one kind of number, and jsonb writes all of its digits.
AS_ASKED = EVERY_TYPE | {
    "json": {"a": [1, 2.5, None, "0012", {"b": True}]}, "list": [], "json number": 10**300,
    "place": {"latitude": 52.5, "longitude": 13.25},
    "hill": {"latitude": 52.5, "longitude": 13.25, "altitude_m": 115.0},
}  # fmt: skip


async def test_every_type_comes_back_as_it_was(world: World, lane: Lane) -> None:
    device = await world.device()
    numbers = {name: value for name, value in EVERY_TYPE.items() if type(value) in (float, int, bool)}
    await lane.store([say(device, EVERY_TYPE), say(device, numbers, observed_at=NOW + 1)])
    whole, packed = await world.messages(device)
    for found, expected in ((whole, AS_ASKED), (packed, numbers)):
        assert found == expected
        assert [type(found[name]) for name in numbers] == [type(expected[name]) for name in numbers]
    assert math.copysign(1, whole["negative zero"]) == -1
    assert await world.latest(device) == AS_ASKED | numbers


async def test_what_json_cannot_say_and_postgresql_cannot_hold(world: World, lane: Lane) -> None:
    device = await world.device()
    nul = Ext(EXT_JSON, b'{"k\\u0000": "\\u0000"}')
    odd = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "nul": "a\0b", "json": nul}
    await lane.store([say(device, odd)])
    (found,) = await world.messages(device)
    assert math.isnan(found.pop("nan"))
    assert found == {"inf": math.inf, "minus": -math.inf, "nul": "a\ufffdb", "json": {"k\ufffd": "\ufffd"}}


async def test_a_message_may_have_a_thousand_metrics(world: World, lane: Lane) -> None:
    device = await world.device()
    wide = {f"m{number:04}": float(number) for number in range(1_000)}
    await lane.store([say(device, wide), say(device, {name: -value for name, value in wide.items()}, observed_at=NOW + 1)])
    assert await world.messages(device, descending=True, limit=1) == [{name: -value for name, value in wide.items()}]
    assert await world.latest(device) == {name: -value for name, value in wide.items()}
    assert await world.count("telemetry_latest") == 1
    assert world.letters == {}


async def test_events_are_stored_with_their_place(world: World, lane: Lane) -> None:
    device = await world.device()
    opened = say(device, {"name": "door", "data": Ext(EXT_JSON, b'{"open": true}')}, Kind.EVENT, observed_at=NOW - 5)
    await lane.store([say(device, {"t": 1.0}), opened], [say(device, {"name": "a\0b", "data": None}, Kind.EVENT)])
    rows = await world.owner.fetch("SELECT * FROM event ORDER BY sequence")
    assert [(row["sequence"], row["ordinal"], row["name"], row["data"] and json.loads(row["data"])) for row in rows] == [
        (1_001, 1, "door", {"open": True}), (1_002, 0, "a\ufffdb", None),
    ]  # fmt: skip
    assert (rows[0]["tenant_id"], rows[0]["device_id"]) == (device.tenant_id, device.id)
    assert (rows[0]["observed_at"], rows[0]["received_at"]) == (to_datetime(NOW - 5), to_datetime(NOW))


async def test_times_far_away_have_room_too(world: World, lane: Lane) -> None:
    device = await world.device()
    days = [-36_500, -91, -90, -1, 0, 3, 90, 91, 3_650]
    await lane.store([say(device, {"t": float(day)}, observed_at=NOW + day * DAY_US) for day in days])
    rows = await world.owner.fetch("SELECT tableoid::regclass::text AS partition, numbers[1]::int AS day FROM telemetry")
    assert {row["day"] for row in rows if row["partition"] == "telemetry_default"} == {-36_500, -91, 91, 3_650}
    assert len(rows) == len(days)
    assert len({row["partition"] for row in rows}) == 6


async def test_somebody_who_reads_for_long_keeps_no_lane_waiting(world: World) -> None:
    clock = FakeClock()
    world.parts = replace(world.parts, partitions=PartitionKeeper(world.pool, clock))
    lane = await open_lane(world)
    device = await world.device()
    await world.owner.execute("ALTER FUNCTION telemetry_partition_create SET lock_timeout = '50ms'")
    where = "SELECT tableoid::regclass::text FROM telemetry"
    try:
        async with world.owner.transaction():
            await world.owner.execute("SELECT count(*) FROM telemetry_default")
            await lane.store([say(device, {"t": 1.0})])
            await lane.store([say(device, {"t": 2.0})])
        assert {row[0] for row in await world.owner.fetch(where)} == {"telemetry_default"}
        clock.advance(31)
        await lane.store([say(device, {"t": 3.0})])
    finally:
        lane.session.terminate()
    (partition,) = {row[0] for row in await world.owner.fetch(where)}
    assert partition.startswith("telemetry_2")
    assert [message["t"] for message in await world.messages(device)] == [1.0, 2.0, 3.0]


# --- latest values --------------------------------------------------------------------------------------------------


async def test_a_late_record_does_not_hide_a_newer_one(world: World, lane: Lane) -> None:
    device = await world.device()
    await lane.store([say(device, {"t": 1.0, "h": 1.0}, observed_at=NOW)])
    await lane.store([say(device, {"t": 0.0, "h": 0.0}, observed_at=NOW - 1, epoch=9)])
    await lane.store([say(device, {"t": 2.0}, observed_at=NOW + 1), say(device, {"t": 0.5}, epoch=0, sequence=99)])
    assert await world.latest(device) == {"t": 2.0, "h": 1.0}
    await lane.store([say(device, {"t": 3.0}, observed_at=NOW + 1, sequence=2)])
    await lane.store([say(device, {"t": 2.5}, observed_at=NOW + 1, sequence=1)])
    assert await world.latest(device) == {"t": 3.0, "h": 1.0}
    assert await world.count("telemetry") == 6


async def test_a_device_that_reports_only_what_has_changed_keeps_few_rows(world: World, lane: Lane) -> None:
    device, quiet = await world.device(), await world.device()
    rng = random.Random(7)
    names = ["a", "b", "c", "d", "e", "f", "g", "h", "text"]
    await lane.store([say(quiet, {"t": 1.0})])
    expected: dict[str, Any] = {}
    for number in range(60):
        chosen = rng.sample(names, rng.randrange(1, len(names)))
        body = {name: str(number) if name == "text" else float(number) for name in chosen}
        late = number % 7 == 0
        await lane.store([say(device, body, observed_at=NOW + number - (1_000 if late else 0), received_at=NOW + number)])
        expected = body | expected if late and number < 7 else expected if late else expected | body
    assert await world.latest(device) == expected
    rows = await world.owner.fetch("SELECT device_id, received_at FROM telemetry_latest")
    assert sum(row["device_id"] == device.id for row in rows) <= writer_latest.ROWS_MAX
    assert max(row["received_at"] for row in rows) == to_datetime(NOW + 59)
    assert await world.latest(quiet) == {"t": 1.0}
    assert await world.count("telemetry") == 61


async def test_a_row_that_somebody_else_holds_is_left_alone(
    world: World, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_latest, "ROWS_MAX", 2)
    device = await world.device()
    await lane.store(*([say(device, {name: 1.0}, observed_at=NOW + n)] for n, name in enumerate("ab")))
    async with world.owner.transaction():
        held = await world.owner.fetchval("SELECT metric_set FROM telemetry_latest ORDER BY metric_set LIMIT 1 FOR UPDATE")
        await lane.store([say(device, {"a": 2.0, "b": 2.0}, observed_at=NOW + 9)])
        left = await world.owner.fetch("SELECT metric_set FROM telemetry_latest ORDER BY metric_set")
    assert [row["metric_set"][:4] for row in left] == [held, held]
    assert await world.latest(device) == {"a": 2.0, "b": 2.0}


# --- attributes -----------------------------------------------------------------------------------------------------


async def reported(world: World, device: Device) -> dict[str, Any]:
    found = await world.owner.fetchval("SELECT reported FROM device_state WHERE device_id = $1", device.id)
    return {name: entry["value"] for name, entry in json.loads(found or "{}").items()}


async def test_attributes_are_merged_leaf_by_leaf(world: World, lane: Lane) -> None:
    device, other = await world.device(), await world.device()
    await lane.store(
        [say(device, {"fw": "1.0", "id": "0012", "n": 2**63 - 1}, Kind.ATTRIBUTES), say(other, {"x": 1.5}, Kind.ATTRIBUTES)],
        [say(device, {"fw": "1.1", "gone": None}, Kind.ATTRIBUTES, observed_at=NOW + 1)],
        [say(device, {"fw": "0.9", "id": None, "gone": 1}, Kind.ATTRIBUTES, observed_at=NOW - 1)],
    )
    await lane.store([say(device, {"where": EVERY_TYPE["place"], "doc": EVERY_TYPE["json"], "f": 1e300}, Kind.ATTRIBUTES)])
    await lane.store([say(device, {"id": "0013"}, Kind.ATTRIBUTES, observed_at=NOW + 2)])
    assert await reported(world, device) == {
        "fw": "1.1", "id": "0013", "n": 2**63 - 1, "where": [52.5, 13.25], "doc": AS_ASKED["json"], "f": 10**300,
    }  # fmt: skip
    assert await reported(world, other) == {"x": 1.5}
    assert await world.owner.fetchval("SELECT version FROM device_state WHERE device_id = $1", device.id) == 3


async def test_attributes_of_many_devices_are_merged_in_parts(
    world: World, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_attributes, "DEVICES_MAX", 2)
    monkeypatch.setattr(writer_attributes, "REPORTED_BYTES_MAX", 200)
    tenant = await world.tenants()
    devices = [await world.device(tenant) for _ in range(5)]
    await lane.store([say(device, {"n": n, "long": "x" * n * 50}, Kind.ATTRIBUTES) for n, device in enumerate(devices)])
    assert [await reported(world, device) for device in devices] == [
        {"n": n} | ({"long": "x" * n * 50} if n < 2 else {}) for n in range(5)
    ]
    assert world.counts.dropped == 3


async def test_attributes_of_a_device_that_is_gone_leave_nothing(world: World, lane: Lane) -> None:
    device, other = await world.device(), await world.device()
    await lane.store([say(device, {"fw": "1"}, Kind.ATTRIBUTES)])
    await world.owner.execute("DELETE FROM device WHERE id = $1", device.id)
    # This worker has not heard of it yet.
    await lane.store([say(device, {"fw": "2"}, Kind.ATTRIBUTES), say(other, {"fw": "2"}, Kind.ATTRIBUTES)])
    assert [await reported(world, one) for one in (device, other)] == [{}, {"fw": "2"}]
    assert world.letters == {}


# --- exactly once ---------------------------------------------------------------------------------------------------


async def test_the_position_moves_with_the_rows(world: World, lane: Lane) -> None:
    device = await world.device()
    lane.last = 41
    await lane.store([say(device, {"t": 1.0})], [say(device, {"t": 2.0})])
    assert await world.positions() == {0: 1_043}
    assert [tuple(row) for row in await world.owner.fetch("SELECT sequence, lane FROM telemetry ORDER BY 1")] == [
        (1_042, 0), (1_043, 0),
    ]  # fmt: skip
    (entry,) = await world.owner.fetch("SELECT lane, sequence, rows FROM telemetry_ledger")
    assert tuple(entry) == (0, 1_043, 2)
    assert (world.counts.batches, world.counts.records, world.counts.rows) == (2, 2, 2)


async def test_what_is_read_again_is_noticed_and_not_stored_again(world: World, lane: Lane) -> None:
    device = await world.device()
    deliveries = lane.publish([say(device, {"t": 1.0})], [say(device, {"name": "e"}, Kind.EVENT)])
    before = lane.position
    assert await lane.turn() == 2
    with pytest.raises(PositionLost):
        await lane.work.apply(deliveries, position=before, offset=OFFSET)
    assert [await world.count(table) for table in ("telemetry", "event", "telemetry_ledger")] == [1, 1, 1]


async def test_of_two_sessions_in_a_race_one_wins(world: World, lane: Lane) -> None:
    device = await world.device()
    batches = [[say(device, {"t": float(n)})] for n in range(20)]
    rival = await open_lane(world)
    try:
        for racing in (lane, rival):
            racing.publish(*batches)
        ends = await asyncio.gather(lane.turn(), rival.turn(), return_exceptions=True)
    finally:
        rival.session.terminate()
    assert sorted(type(end).__name__ for end in ends) == ["PositionLost", "int"]
    assert sorted(message["t"] for message in await world.messages(device)) == [float(n) for n in range(20)]


async def test_a_crash_in_any_statement_leaves_nothing_and_the_next_session_does_it_all(world: World) -> None:
    """The session is killed at each statement in turn; another one takes over where the position says."""
    tenant = await world.tenants()
    device = await world.device(tenant)
    batches = [
        [
            say(device, {"t": 1.0, "s": "x"}),
            say(device, {"name": "e"}, Kind.EVENT),
            say(device, {"fw": 1}, Kind.ATTRIBUTES),
            say(device, {"t": 2.0}, flags=Flag.RESENT),
            say(device, {}, 99),
        ],
        b"garbage",
    ]
    tables = ("telemetry", "event", "telemetry_latest", "device_state", "telemetry_ledger")
    deaths = 0
    while True:
        opened = await open_lane(world)
        opened.publish(*batches)
        killer = Killer(opened.session, deaths)
        opened.work = StoreWork(killer, 0, world.parts)
        try:
            while opened.waiting:
                await opened.turn()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            assert [await world.count(table) for table in tables] == [0] * len(tables)
            assert await world.positions() == {0: 0}
            deaths += 1
            continue
        finally:
            opened.session.terminate()
        break
    assert deaths > 12, "there are more statements than that"
    assert [await world.count(table) for table in tables] == [2, 1, 2, 1, 1]
    assert await world.positions() == {0: 1_002}
    assert world.codes() == {"store-0-1001-4": "record.unknown_kind", "store-0-2": "record.undecodable"}


class Killer:
    """A session that is lost, as the server sees it, before one of its statements."""

    def __init__(self, session: Any, after: int) -> None:
        self._session = session
        self._left = after

    def transaction(self) -> Any:
        return self._session.transaction()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._session, name)
        if name not in {"execute", "fetch", "fetchval", "copy_to_table"}:
            return method

        async def perhaps(*arguments: Any, **options: Any) -> Any:
            if self._left == 0:
                self._session.terminate()
            self._left -= 1
            return await method(*arguments, **options)

        return perhaps


async def test_a_dead_letter_that_cannot_be_stored_holds_its_batch_back(world: World, lane: Lane) -> None:
    device = await world.device()
    world.dead_letters_fail = True
    lane.publish([say(device, {"t": 1.0}), say(device, {}, 99)])
    with pytest.raises(TimeoutError):
        await lane.turn()
    assert (await world.count("telemetry"), await world.positions()) == (0, {0: 0})
    world.dead_letters_fail = False
    assert await lane.turn() == 1
    assert (await world.count("telemetry"), world.codes()) == (1, {"store-0-1001-1": "record.unknown_kind"})


async def test_a_session_that_ends_keeps_no_transaction_open(world: World, lane: Lane) -> None:
    device = await world.device()
    await lane.store([say(device, {"t": 1.0})])
    world.dead_letters_fail = True
    lane.publish([say(device, {}, 99)])
    with pytest.raises(TimeoutError):
        await lane.turn()
    assert not lane.session.is_in_transaction()


# --- repetitions ----------------------------------------------------------------------------------------------------


async def test_a_repetition_is_stored_once(world: World, lane: Lane) -> None:
    device = await world.device()
    body = {"t": 1.5, "s": "x", "n": 2**60}
    first = say(device, body)
    again = say(device, body, epoch=2, received_at=NOW + 9, flags=Flag.RESENT)
    event = {"name": "e", "data": Ext(EXT_JSON, b'{"a": 1}')}
    await lane.store([first, say(device, event, Kind.EVENT)])
    await lane.store([again, again, say(device, event, Kind.EVENT, flags=Flag.RESENT)])
    await lane.store([say(device, {"t": 7.0}, flags=Flag.RESENT), say(device, {"t": 7.0}, flags=Flag.RESENT)])
    await lane.store([say(device, {"name": "f"}, Kind.EVENT, flags=Flag.RESENT)] * 2)
    assert (await world.count("telemetry"), await world.count("event")) == (2, 2)
    # Without the flag two alike are two, and so are those that differ in anything.
    await lane.store([first, say(device, body, observed_at=NOW + 1, flags=Flag.RESENT)])
    await lane.store([say(device, body | {"t": 2.5}, flags=Flag.RESENT), say(device, {"s": "x"}, flags=Flag.RESENT)])
    await lane.store([say(device, event | {"data": None}, Kind.EVENT, flags=Flag.RESENT)])
    assert (await world.count("telemetry"), await world.count("event")) == (6, 3)


async def test_a_repetition_and_its_first_copy_in_one_round(world: World, lane: Lane) -> None:
    device = await world.device()
    first, again = say(device, {"t": 1.5}), say(device, {"t": 1.5}, epoch=2, flags=Flag.RESENT)
    await lane.store([first], [again], [say(device, {"t": 2.5})])
    assert [message["t"] for message in await world.messages(device)] == [1.5, 2.5]
    await lane.store([first, again])
    assert await world.count("telemetry") == 3


async def test_a_repetition_waits_for_what_is_older_in_other_lanes(world: World, lane: Lane) -> None:
    device = await world.device()
    body = {"t": 1.5}
    other = await open_lane(world, 1)
    try:
        other.last, lane.last = 4, 5  # the first copy is the fifth message of the stream
        other.publish([say(device, body)])
        lane.publish([say(device, {"t": 9.0})], [say(device, body, epoch=2, flags=Flag.RESENT)], [say(device, {"t": 8.0})])
        world.others.pending = 5
        assert await lane.turn() == 1, "what came before it need not wait"
        assert await lane.turn() == 0
        assert await lane.turn() == 0
        assert await world.count("telemetry") == 1
        assert await other.turn() == 1
        world.others.pending = 8
        assert await lane.turn() == 1, "as far as the others are"
        world.others.pending = None
        assert await lane.turn() == 1
    finally:
        other.session.terminate()
    assert sorted(message["t"] for message in await world.messages(device)) == [1.5, 8.0, 9.0]


# --- what cannot be stored ------------------------------------------------------------------------------------------


async def refuse(world: World, table: str, condition: str) -> None:
    await world.owner.execute(f"ALTER TABLE {table} ADD CONSTRAINT dislike CHECK ({condition})")


async def test_a_record_that_the_database_refuses_is_found_and_left_out(world: World, lane: Lane) -> None:
    tenant = await world.tenants()
    devices = [await world.device(tenant) for _ in range(3)]
    await refuse(world, "telemetry", "NOT 13 = ANY (numbers)")
    records = [
        say(devices[n % 3], {"n": n, "t": float(n)}, observed_at=NOW + n, flags=Flag.RESENT if n % 5 == 0 else 0)
        for n in range(1, 40)
    ]
    unknown, event = say(devices[0], {}, 99), say(devices[0], {"name": "e"}, Kind.EVENT)
    attributes = say(devices[0], {"fw": "1"}, Kind.ATTRIBUTES)
    await lane.store([*records[:20], unknown], [event, attributes, *records[20:]])
    stored = [message["n"] for device in devices for message in await world.messages(device)]
    assert sorted(stored) == [n for n in range(1, 40) if n != 13]
    assert [(await world.latest(device))["n"] for device in devices] == [39, 37, 38]
    assert (await world.count("event"), await reported(world, devices[0])) == (1, {"fw": "1"})
    assert world.codes() == {"store-0-1001-20": "record.unknown_kind", "store-0-1001-12": "record.refused_by_database"}
    letter = world.letters[subjects.dead(tenant), "store-0-1001-12"]
    assert decode_batch(letter.payload) == [records[12]]
    assert "dislike" in letter.detail
    assert world.counts.dead_letters == 2
    assert await world.owner.fetchval("SELECT sum(rows) FROM telemetry_ledger") == 38


@pytest.mark.parametrize("table", ["event", "telemetry_latest", "device_state"])
async def test_whatever_table_refuses_the_rest_is_stored(world: World, lane: Lane, table: str) -> None:
    tenant = await world.tenants()
    good, bad = await world.device(tenant), await world.device(tenant)
    await refuse(world, table, f"device_id <> '{bad.id}'")
    lane.publish(
        *(
            [say(device, {"t": 1.0}), say(device, {"name": "e"}, Kind.EVENT), say(device, {"fw": 1}, Kind.ATTRIBUTES)]
            for device in (good, bad, good)
        )
    )
    assert await lane.turn() == 3
    counted = {name: await world.count(name) for name in ("telemetry", "event", "telemetry_latest", "device_state")}
    everything = {"telemetry": 3, "event": 3, "telemetry_latest": 2, "device_state": 2}
    # What stands in two tables is left out of both.
    left_out = {"telemetry_latest": {"telemetry": 2, "telemetry_latest": 1}}.get(table, {table: everything[table] - 1})
    assert counted == everything | left_out
    assert list(world.codes().values()) == ["record.refused_by_database"]


async def test_what_cannot_be_decoded_goes_to_the_platform_and_the_lane_goes_on(world: World, lane: Lane) -> None:
    device = await world.device()
    good = encode_batch([say(device, {"t": 1.0})])
    await lane.store(good, b"", b"garbage", b"\x92\x02\x90", good[:-3], good)
    assert await world.count("telemetry") == 2
    assert world.codes() == {f"store-0-{sequence}": "record.undecodable" for sequence in (2, 3, 4, 5)}
    assert {subject for subject, _ in world.letters} == {subjects.dead(PLATFORM)}
    assert world.letters[subjects.dead(PLATFORM), "store-0-3"].payload == b"garbage"


async def test_a_record_that_is_none_does_not_take_its_batch_along(world: World, lane: Lane) -> None:
    device = await world.device()
    text = say(device, {"t": "abc"})
    records = [say(device, {"t": 1.0}), text, say(device, {"t": 2.0}), say(device, {}, 99)]
    batch = encode_batch(records).replace(b"\xa3abc", b"\xa3\xed\xa0\x80")  # a lone surrogate
    await lane.store(batch)
    assert [message["t"] for message in await world.messages(device)] == [1.0, 2.0]
    assert world.codes() == {"store-0-1001-1": "record.undecodable", "store-0-1001-3": "record.unknown_kind"}
    payload = world.letters[subjects.dead(PLATFORM), "store-0-1001-1"].payload
    assert decode_batch(payload.replace(b"\xed\xa0\x80", b"abc")) == [text]


async def test_two_bad_records_of_a_batch_have_a_letter_each(world: World, lane: Lane) -> None:
    """Also where one is taken out before the other is found: their places are those in the batch."""
    device, gone = await world.device(), await world.device()
    await world.owner.execute("DELETE FROM device WHERE id = $1", gone.id)
    records = [
        say(device, {}, 99), say(device, {"t": 1.0}, observed_at=2**62), say(gone, {"t": 1.0}), say(device, {}, 98),
        say(device, {"t": 2.0}), say(device, {}, 97),
    ]  # fmt: skip
    await lane.store(records)
    places = {int(message_id.rpartition("-")[2]): letter for (_, message_id), letter in world.letters.items()}
    assert {place: decode_batch(letter.payload) for place, letter in places.items()} == {
        place: [records[place]] for place in (0, 1, 3, 5)
    }
    assert (world.counts.dead_letters, world.counts.dropped) == (4, 1)
    assert await world.messages(device) == [{"t": 2.0}]


def json_text(text: bytes) -> Ext:
    return Ext(EXT_JSON, text)


_INT64_END = 2**63
POISON: dict[str, dict[str, Any]] = {
    "far future": {"observed_at": 2**62},
    "far past": {"observed_at": -(2**62)},
    "no time at all": {"observed_at": _INT64_END},
    "received in no time": {"received_at": _INT64_END},
    "received in the far future": {"received_at": 2**62},
    "an epoch too large": {"epoch": _INT64_END},
    "a sequence too large": {"sequence": 2**64 - 1},
    "a tenant that is none": {"tenant": b"t"},
    "a device that is none": {"device": b""},
    "no name": {"body": {"": 1.0}},
    "a long name": {"body": {"n" * 10_000: 1.0}},
    "NUL in a name": {"body": {"a\0b": 1.0}},
    "bytes": {"body": {"t": b"bytes"}},
    "no JSON": {"body": {"t": json_text(b"{")}},
    "NUL in what is no JSON": {"body": {"t": json_text(b'{"\\u0000": ')}},
    "JSON deeper than any stack": {"body": {"t": json_text(b"[" * 20_000 + b"]" * 20_000)}},
    "a number beyond numeric": {"body": {"t": json_text(b"1e131072")}},
    "a number below numeric": {"body": {"t": json_text(b"1e-99999")}},
    "half a surrogate": {"body": {"t": json_text(b'"\\ud800"')}},
    "no location": {"body": {"t": Ext(EXT_LOCATION, b"\xc1")}},
    "a type to come": {"body": {"t": Ext(9, b"")}},
    "an event's deep data": {"kind": Kind.EVENT, "body": {"name": "e", "data": json_text(b"[" * 20_000)}},
    "an attribute beyond float": {"kind": Kind.ATTRIBUTES, "body": {"a": json_text(b'{"x": 1e400}')}},
    "an attribute that is none": {"kind": Kind.ATTRIBUTES, "body": {"a": [1]}},
    "a deep attribute": {"kind": Kind.ATTRIBUTES, "body": {"a": json_text(b'{"a":' * 900 + b"1" + b"}" * 900)}},
}


async def test_poison_stops_no_lane(world: World, lane: Lane) -> None:
    tenant = await world.tenants()
    usual = {"t": 1.0}
    for name, poison in POISON.items():
        device = await world.device(tenant)
        bad = say(device, **{"body": usual} | poison)
        await lane.store([say(device, usual), bad, say(device, usual)], [say(device, usual)])
        assert await world.messages(device) == [usual] * 3, name
        assert await world.latest(device) == usual, name
        await lane.store([say(device, {"fine": True}, Kind.ATTRIBUTES)])
        assert await reported(world, device) == {"fine": True}, name
        ((letter_id, letter),) = world.letters.items()
        assert letter_id[1] == f"store-0-{OFFSET + lane.last - 2}-1", name
        assert decode_batch(letter.payload)[0].kind == bad.kind, name
        world.letters.clear()


async def test_long_texts_and_large_documents_are_stored(world: World, lane: Lane) -> None:
    device = await world.device()
    body = {"s": "\u20ac" * 65_536, "j": Ext(EXT_JSON, msgspec.json.encode(["x" * 60_000] * 4)), "n" * 200: 1.0}
    await lane.store([say(device, body), say(device, {"name": "e" * 100_000, "data": body["j"]}, Kind.EVENT)])
    assert await world.messages(device) == [body | {"j": ["x" * 60_000] * 4}]
    await lane.store([say(device, body, Kind.ATTRIBUTES)])
    assert await reported(world, device) == body | {"j": ["x" * 60_000] * 4}
    assert world.letters == {}


# --- devices --------------------------------------------------------------------------------------------------------


async def test_the_first_message_activates_a_device(world: World, lane: Lane) -> None:
    tenant = await world.tenants()
    first, suspended, second = [await world.device(tenant) for _ in range(3)]
    await world.owner.execute("UPDATE device SET status = 'suspended' WHERE id = $1", suspended.id)
    await lane.store([say(one, {"t": 1.0}) for one in (first, suspended)])
    rows = await world.owner.fetch("SELECT id, status, version FROM device")
    assert {row["id"]: (row["status"], row["version"]) for row in rows} == {
        first.id: ("active", 2), suspended.id: ("suspended", 1), second.id: ("registered", 1),
    }  # fmt: skip
    await lane.store([say(first, {"t": 1.0}), say(second, {"fw": 1}, Kind.ATTRIBUTES)])
    rows = await world.owner.fetch("SELECT status, version FROM device WHERE id <> $1", suspended.id)
    assert {tuple(row) for row in rows} == {("active", 2)}


async def test_records_of_deleted_devices_and_tenants_are_dropped_and_counted(world: World, lane: Lane) -> None:
    kept, gone, other = await world.device(), await world.device(), await world.device()
    await world.owner.execute("DELETE FROM device WHERE id = $1", gone.id)
    await world.owner.execute("DELETE FROM tenant WHERE id = $1", other.tenant_id)
    foreign = say(kept, {"t": 5.0}, tenant=gone.tenant_id.bytes)
    never = say(Device(uuid7(), kept.tenant_id, "", uuid7(), ""), {"t": 6.0})
    await lane.store([say(gone, {"t": 1.0}), say(kept, {"t": 2.0}), say(other, {"new": 3.0})], [foreign, never])
    assert (await world.count("telemetry"), await world.messages(kept)) == (1, [{"t": 2.0}])
    assert (world.counts.dropped, world.letters) == (4, {})


async def test_a_tenant_that_is_deleted_while_its_devices_are_known_stops_nobody(world: World, lane: Lane) -> None:
    kept, gone = await world.device(), await world.device()
    await lane.store([say(kept, {"t": 1.0}), say(gone, {"t": 1.0})])
    await world.owner.execute("DELETE FROM tenant WHERE id = $1", gone.tenant_id)
    await lane.store([say(gone, {"new": 1.0}), say(kept, {"t": 2.0}), say(gone, {"fw": 1}, Kind.ATTRIBUTES)])
    assert await world.messages(kept) == [{"t": 1.0}, {"t": 2.0}]
    assert list(world.codes().values()) == ["metric.quota_exceeded"]
    world.parts.known.forget(gone.id.bytes)
    await lane.store([say(gone, {"t": 3.0})])
    assert world.counts.dropped == 1


async def test_a_device_that_is_deleted_in_the_middle_of_its_batch(world: World, lane: Lane) -> None:
    tenant = await world.tenants()
    going, staying = await world.device(tenant), await world.device(tenant)
    await lane.store([say(one, {"t": 1.0}) for one in (going, staying)])
    deletion = world.owner.transaction()
    await deletion.start()
    await world.owner.execute("DELETE FROM device WHERE id = $1", going.id)
    lane.publish([say(one, {"fw": 1}, Kind.ATTRIBUTES) for one in (going, staying)])
    turn = asyncio.create_task(lane.turn())
    watcher: Any = await asyncpg.connect(world.urls.owner)
    try:
        await eventually(
            lambda: watcher.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"),
            "the writer waits",
        )
        await deletion.commit()
        assert await turn == 1
    finally:
        await watcher.close()
    assert [await reported(world, one) for one in (going, staying)] == [{}, {"fw": 1}]
    assert world.letters == {}


# --- metrics --------------------------------------------------------------------------------------------------------


async def test_a_tenant_has_as_many_metrics_as_its_quota_allows(world: World, lane: Lane) -> None:
    tenant = await world.tenants("small", quotas={"metrics_max": 3})
    device, other = await world.device(tenant), await world.device()
    await lane.store([say(device, {"a": 1.0}), say(device, {"a": 1, "b": 1.0})])
    await lane.store([say(device, {"c": 1.0}), say(device, {"b": 2.0}), say(other, {"c": 3.0})], [say(device, {"c": 4.0})])
    assert (await world.messages(device), await world.messages(other)) == (
        [{"a": 1.0}, {"a": 1, "b": 1.0}, {"b": 2.0}], [{"c": 3.0}]
    )  # fmt: skip
    assert world.codes() == {f"store-0-{place}": "metric.quota_exceeded" for place in ("1002-0", "1003-0")}
    # More quota, and the refusal forgotten: a session later it goes.
    await world.owner.execute("""UPDATE tenant SET quotas = '{"metrics_max": 4}' WHERE id = $1""", tenant)
    lane.work = StoreWork(lane.session, 0, world.parts)
    await lane.store([say(device, {"c": 5.0})])
    assert await world.count("metric") == 5


async def test_lanes_that_meet_the_same_new_names_agree(world: World) -> None:
    tenant = await world.tenants("small", quotas={"metrics_max": 40})
    device = await world.device(tenant)
    lanes = [await open_lane(world, number) for number in range(4)]
    try:
        for one in lanes:
            one.publish(*([say(device, {f"m{n}": float(n), f"m{n + 1}": 1.0})] for n in range(30)))
        await asyncio.gather(*(one.turn() for one in lanes))
    finally:
        for one in lanes:
            one.session.terminate()
    assert (await world.count("metric"), await world.count("telemetry"), world.letters) == (31, 120, {})


async def test_a_memory_for_metrics_that_is_too_small_refuses_nothing(
    world: World, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "KNOWN_MAX", 4)
    device, other = await world.device(), await world.device()
    await lane.store([say(device, {"old": 1.0}), say(other, {"old": 1.0})])
    for number in range(6):
        await lane.store(
            [say(device, {"old": 2.0, f"n{number}": 1.0}), say(other, {"old": 2.0, f"n{number}": 1.0, f"o{number}": 1.0})]
        )
    await lane.store([say(device, {f"n{number}": float(number) for number in range(6)})])
    assert world.letters == {}
    assert await world.count("telemetry") == 15


async def test_thousands_of_refusals_are_many_letters_and_no_long_wait(world: World, lane: Lane) -> None:
    device = await world.device(await world.tenants("small", quotas={"metrics_max": 1}))
    now = most = 0
    keep = world.keep_letter

    async def slowly(subject: str, payload: bytes, message_id: str) -> object:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return await keep(subject, payload, message_id)

    world.keep_letter = slowly  # type: ignore[method-assign]  # the same letters, as slow as a disk
    await lane.store([say(device, {f"m{number}": 1.0}) for number in range(1_001)])
    assert (len(world.letters), await world.count("telemetry")) == (1_000, 1)
    assert 16 < most <= 64

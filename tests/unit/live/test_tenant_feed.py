from __future__ import annotations

import json
from uuid import UUID

import msgspec

from headwater.live.event import EventKind
from headwater.live.ports import Wanted
from headwater.live.selection import Selection, Subscriber
from headwater.live.tenant_feed import INDEXED_MAX, TenantFeed
from headwater.stream.envelope import EXT_JSON, EXT_LOCATION, Kind, Record, encode_batch
from headwater.tenancy.scope import system_scope

TENANT = UUID(int=1)
PUMP, VALVE = UUID(int=2), UUID(int=3)
SCOPE = system_scope(TENANT, "test")
NOON = 1_795_478_400_000_000


def record(device: UUID, body: dict[str, object], kind: Kind = Kind.TELEMETRY) -> Record:
    return Record(TENANT.bytes, device.bytes, kind, NOON, NOON + 1, 7, 1, body)


def watch(
    feed: TenantFeed, devices: frozenset[bytes] | None, kinds: tuple[EventKind, ...] = tuple(EventKind),
    metrics: frozenset[str] | None = None, wanted: Wanted | None = None,
) -> Subscriber:  # fmt: skip
    named = None if devices is None else frozenset(UUID(bytes=d) for d in list(devices)[:3])
    selection = Selection(SCOPE, wanted or Wanted(devices=named), devices)
    subscriber = Subscriber(feed.selections.get(selection.key, selection), kinds, metrics)
    feed.add(subscriber)
    return subscriber


async def seen(subscriber: Subscriber) -> list[dict[str, object]]:
    return [json.loads(event) for event in await subscriber.mailbox.take()] if len(subscriber.mailbox) else []


async def test_an_event_says_all_types_of_value() -> None:
    feed = TenantFeed()
    everybody = watch(feed, None)
    place = msgspec.msgpack.Ext(EXT_LOCATION, msgspec.msgpack.encode([47.5, 8.5, 400.0]))
    tree = msgspec.msgpack.Ext(EXT_JSON, b'{"a":[1,{}]}')
    body = {"t": 21.5, "n": 3, "on": True, "word": "12", "place": place, "tree": tree}
    feed.receive(10, 0, encode_batch([record(PUMP, body)]))
    (event,) = await seen(everybody)
    assert event == {
        "type": "telemetry",
        "id": "10-0",
        "device_id": str(PUMP),
        "observed_at": "2026-11-24T00:00:00Z",
        "received_at": "2026-11-24T00:00:00.000001Z",
        "values": {
            "t": 21.5, "n": 3, "on": True, "word": "12",
            "place": {"latitude": 47.5, "longitude": 8.5, "altitude_m": 400.0}, "tree": {"a": [1, {}]},
        },
    }  # fmt: skip


async def test_each_watcher_sees_its_devices_kinds_and_metrics() -> None:
    feed = TenantFeed()
    pump = watch(feed, frozenset({PUMP.bytes}))
    presence = watch(feed, None, (EventKind.PRESENCE,))
    temperature = watch(feed, None, (EventKind.TELEMETRY,), frozenset({"t"}))
    feed.receive(5, 0, encode_batch([
        record(PUMP, {"t": 1.0, "p": 2.0}),
        record(VALVE, {"p": 3.0}),
        record(VALVE, {"gateway": "", "reason": "keep_alive"}, Kind.DISCONNECTED),
        record(PUMP, {"name": "leak", "data": msgspec.msgpack.Ext(EXT_JSON, b"[1]")}, Kind.EVENT),
    ]))  # fmt: skip
    assert [(e["type"], e["id"]) for e in await seen(pump)] == [("telemetry", "5-0"), ("event", "5-3")]
    (gone,) = await seen(presence)
    assert (gone["connected"], gone["reason"], gone["epoch"], gone["device_id"]) == (False, "keep_alive", 7, str(VALVE))
    assert [e["values"] for e in await seen(temperature)] == [{"t": 1.0}]


async def test_a_wide_selection_sees_its_devices_only() -> None:
    feed = TenantFeed()
    many = frozenset(UUID(int=i).bytes for i in range(10, 12 + INDEXED_MAX))
    group = watch(feed, many, wanted=Wanted(query="x"))
    feed.receive(1, 0, encode_batch([record(PUMP, {"t": 1.0}), record(UUID(int=11), {"t": 2.0})]))
    assert [e["id"] for e in await seen(group)] == ["1-1"]


async def test_a_lost_batch_is_said() -> None:
    feed = TenantFeed()
    watcher = watch(feed, None)
    feed.receive(10, 4, encode_batch([record(PUMP, {"t": 1.0})]))
    feed.receive(15, 12, encode_batch([record(PUMP, {"t": 2.0})]))
    feed.receive(15, 12, encode_batch([record(PUMP, {"t": 2.0})]))
    feed.receive(16, 15, encode_batch([]))
    events = await seen(watcher)
    assert [e.get("id", e["type"]) for e in events] == ["10-0", "missed", "15-0", "missed"]
    assert events[1]["count"] is None


async def test_changed_devices_and_leaving() -> None:
    feed = TenantFeed()
    wanted = Wanted(query="site = north")
    first = watch(feed, frozenset({PUMP.bytes}), wanted=wanted)
    selection = first.selection
    feed.change_devices(selection, frozenset({VALVE.bytes}))
    feed.receive(1, 0, encode_batch([record(PUMP, {"t": 1.0}), record(VALVE, {"t": 2.0})]))
    assert [e["id"] for e in await seen(first)] == ["1-1"]
    second = Subscriber(selection, tuple(EventKind), None)
    feed.add(second)
    assert feed.remove(first) is False
    assert feed.remove(second) is True
    assert feed.is_empty

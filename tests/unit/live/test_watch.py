from __future__ import annotations

from headwater.live.watch import DEVICES_MAX, LINGER_S, Announcement, Interest, WatchList, decode, encode
from headwater.stream.envelope import Kind, Record

TENANT, OTHER = b"t" * 16, b"o" * 16
PUMP, VALVE = b"p" * 16, b"v" * 16


def record(tenant: bytes, device: bytes, sequence: int = 0) -> Record:
    return Record(tenant, device, Kind.TELEMETRY, 1, 1, 1, sequence, {"t": 1.0})


def says(api: str, tenant: bytes, devices: list[bytes] | None) -> Announcement:
    return decode(encode(Announcement(api, {tenant.hex(): devices})))


def test_nobody_watching_selects_nothing() -> None:
    watch_list = WatchList()
    assert watch_list.is_empty
    assert watch_list.select([record(TENANT, PUMP)]) == {}
    assert not watch_list.wanted(TENANT, PUMP)


def test_selects_watched_records_by_tenant_in_their_order() -> None:
    watch_list = WatchList()
    watch_list.hear(says("a", TENANT, [PUMP]), 0)
    watch_list.hear(says("b", OTHER, None), 0)
    records = [record(TENANT, PUMP, 1), record(TENANT, VALVE, 2), record(OTHER, VALVE, 3), record(TENANT, PUMP, 4)]
    selected = watch_list.select(records)
    assert {t: [r.sequence for r in rs] for t, rs in selected.items()} == {TENANT: [1, 4], OTHER: [3]}


def test_lists_of_several_servers_are_merged() -> None:
    watch_list = WatchList()
    watch_list.hear(says("a", TENANT, [PUMP]), 0)
    watch_list.hear(says("b", TENANT, [VALVE]), 0)
    assert watch_list.wanted(TENANT, PUMP)
    assert watch_list.wanted(TENANT, VALVE)
    watch_list.hear(Announcement("b", {}), 1)
    assert not watch_list.wanted(TENANT, VALVE)
    watch_list.hear(says("b", TENANT, None), 2)
    assert watch_list.wanted(TENANT, b"x" * 16)


def test_a_list_outlives_its_server_by_the_linger() -> None:
    watch_list = WatchList()
    watch_list.hear(says("a", TENANT, [PUMP]), 10)
    watch_list.expire(10 + LINGER_S - 1)
    assert watch_list.wanted(TENANT, PUMP)
    watch_list.expire(10 + LINGER_S)
    assert watch_list.is_empty


def test_interest_lingers_after_the_last_watcher() -> None:
    interest = Interest()
    interest.hold(TENANT, frozenset({PUMP}), 0)
    interest.hold(TENANT, frozenset({PUMP}), 5)
    interest.release(TENANT, frozenset({PUMP}), 10)
    assert interest.tenants(10 + LINGER_S) == {TENANT.hex(): [PUMP]}, "one watcher is still there"
    interest.release(TENANT, frozenset({PUMP}), 20)
    assert interest.tenants(20 + LINGER_S - 1) == {TENANT.hex(): [PUMP]}
    assert interest.tenants(20 + LINGER_S) == {}


def test_interest_knows_since_when_it_has_had_no_gap() -> None:
    interest = Interest()
    both = frozenset({PUMP, VALVE})
    interest.hold(TENANT, frozenset({PUMP}), 1)
    assert interest.covered_since(TENANT, both) is None
    interest.hold(TENANT, frozenset({VALVE}), 7)
    assert interest.covered_since(TENANT, both) == 7
    interest.hold(TENANT, None, 9)
    assert interest.covered_since(TENANT, frozenset({b"x" * 16})) == 9
    interest.release(TENANT, frozenset({PUMP}), 10)
    interest.hold(TENANT, frozenset({PUMP}), 11)
    assert interest.covered_since(OTHER, both) is None


def test_many_devices_become_the_whole_tenant() -> None:
    interest = Interest()
    many = [i.to_bytes(16, "big") for i in range(DEVICES_MAX + 1)]
    interest.hold(TENANT, frozenset(many[:DEVICES_MAX]), 0)
    assert len(interest.tenants(0)[TENANT.hex()] or ()) == DEVICES_MAX
    interest.hold(TENANT, frozenset(many[DEVICES_MAX:]), 0)
    assert interest.tenants(0) == {TENANT.hex(): None}
    interest.hold(OTHER, frozenset(many), 0)
    assert interest.tenants(0)[OTHER.hex()] is None
    interest.release(OTHER, frozenset(many), 0)
    assert OTHER.hex() not in interest.tenants(LINGER_S)

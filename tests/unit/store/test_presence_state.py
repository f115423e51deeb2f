"""What a control record makes of a device's presence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.clock import to_datetime
from headwater.device.presence import Ended
from headwater.ids import uuid7
from headwater.store.columns import TIME_MAX_US, TIME_MIN_US
from headwater.store.presence_state import BIGINT_MAX, TEXT_LENGTH_MAX, State, Unreadable, advance, read
from headwater.stream.envelope import Kind, Record

TENANT, DEVICE, GATEWAY = uuid7(), uuid7(), uuid7()
T0 = 1_800_000_000_000_000


@dataclass
class Said:
    """A record with everything in order, unless said otherwise."""

    kind: Kind
    at: int = 0
    epoch: int = 1
    sequence: int = 0

    def record(self, **body: Any) -> Record:
        words = (
            {"reason": "connection_lost", "detail": "closed by the device"}
            if self.kind is Kind.DISCONNECTED
            else {"client_id": "c-1", "protocol": "mqtt/5", "address": "203.0.113.7:1"}
        )
        return Record(
            TENANT.bytes, DEVICE.bytes, self.kind, T0 + self.at, T0 + self.at + 1, self.epoch, self.sequence,
            {"gateway": GATEWAY.hex} | words | body,
        )  # fmt: skip


def at(us: int) -> datetime:
    return to_datetime(T0 + us)


def after(*records: Record) -> State:
    return reduce(advance, map(read, records), State())


def test_it_connects_and_leaves() -> None:
    came, left = Said(Kind.CONNECTED).record(), Said(Kind.DISCONNECTED, 50, sequence=9).record()
    of_connection = ("c-1", "mqtt/5", "203.0.113.7:1")
    assert after(came) == State(True, 1, 0, at(0), "", "", GATEWAY, *of_connection, at(1))
    why = ("connection_lost", "closed by the device")
    assert after(came, left) == State(False, 1, 9, at(50), *why, GATEWAY, *of_connection, at(51))


def test_a_new_connection_clears_the_reason() -> None:
    state = after(
        Said(Kind.CONNECTED).record(),
        Said(Kind.DISCONNECTED, 50, sequence=9).record(),
        Said(Kind.CONNECTED, 70, epoch=2).record(protocol="mqtt/4"),
    )
    assert (state.connected, state.changed_at, state.reason, state.protocol) == (True, at(70), "", "mqtt/4")


def test_the_end_of_an_older_connection_is_no_news() -> None:
    newer = after(Said(Kind.CONNECTED, 10, epoch=2).record())
    assert advance(newer, read(Said(Kind.DISCONNECTED, 99, epoch=1, sequence=500).record())) is newer


def test_the_same_word_again_is_no_news() -> None:
    left = Said(Kind.DISCONNECTED, sequence=3).record()
    state = after(Said(Kind.CONNECTED).record(), left)
    assert advance(state, read(left)) is state


def test_a_connection_that_takes_over_is_no_change_of_being_connected() -> None:
    state = after(Said(Kind.CONNECTED, 10).record(), Said(Kind.CONNECTED, 20, epoch=2).record())
    assert (state.connected, state.epoch, state.changed_at, state.last_seen_at) == (True, 2, at(10), at(21))


def test_it_changed_when_it_came_back_within_one_batch() -> None:
    state = after(
        Said(Kind.CONNECTED, 10).record(),
        Said(Kind.DISCONNECTED, 20, sequence=1).record(),
        Said(Kind.CONNECTED, 30, epoch=2).record(),
    )
    assert (state.connected, state.changed_at) == (True, at(30))


def test_who_speaks_for_a_lost_gateway_has_not_seen_the_device() -> None:
    state = after(Said(Kind.CONNECTED).record(), Said(Kind.DISCONNECTED, 60, sequence=1).record(reason=Ended.GATEWAY_LOST))
    assert (state.connected, state.changed_at, state.last_seen_at) == (False, at(60), at(1))


def test_last_seen_only_rises() -> None:
    state = after(Said(Kind.CONNECTED, 100).record(), Said(Kind.CONNECTED, 5, epoch=2).record())
    assert (state.epoch, state.last_seen_at) == (2, at(101))


def test_text_is_what_a_column_takes() -> None:
    state = after(Said(Kind.DISCONNECTED).record(reason="a\0b" + "c" * 1000))
    assert state.reason == ("a\ufffdb" + "c" * 1000)[:TEXT_LENGTH_MAX]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenant", b"short"),
        ("device", b""),
        ("observed_at", TIME_MAX_US + 1),
        ("received_at", TIME_MIN_US - 1),
        ("epoch", -1),
        ("epoch", BIGINT_MAX + 1),
        ("sequence", -1),
        ("sequence", BIGINT_MAX),
        ("body", {}),
        ("body", {"gateway": "no hexadecimal digits"}),
        ("body", {"gateway": 7}),
        ("body", {"gateway": GATEWAY.hex, "protocol": ["mqtt"]}),
        ("body", {"gateway": GATEWAY.hex, "reason": 3}),
    ],
)
def test_what_no_row_can_hold(field: str, value: object) -> None:
    record = Said(Kind.CONNECTED).record()
    setattr(record, field, value)
    with pytest.raises(Unreadable):
        read(record)


def test_behind_the_last_place_of_a_connection_somebody_can_still_say_that_it_ended() -> None:
    assert read(Said(Kind.CONNECTED, sequence=BIGINT_MAX - 1).record()).sequence == BIGINT_MAX - 1
    assert read(Said(Kind.DISCONNECTED, sequence=BIGINT_MAX).record()).sequence == BIGINT_MAX


STAMPS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4)), min_size=1, unique=True)


@given(STAMPS, st.data())
def test_the_newest_word_counts_in_any_order_and_however_often(stamps: list[tuple[int, int]], data: st.DataObject) -> None:
    """Even sequences are CONNECTED, odd ones DISCONNECTED, as one stamp is one record."""
    records = [
        Said((Kind.CONNECTED, Kind.DISCONNECTED)[sequence % 2], 10 * epoch + sequence, epoch, sequence).record()
        for epoch, sequence in stamps
    ]
    shuffled = data.draw(st.permutations(records + data.draw(st.lists(st.sampled_from(records)))))
    state, newest = after(*shuffled), read(max(records, key=lambda r: (r.epoch, r.sequence)))
    assert (state.connected, state.epoch, state.sequence) == (newest.connected, newest.epoch, newest.sequence)
    assert state.reason == ("" if newest.connected else newest.reason)
    assert (state.changed_at is not None) == any(read(r).connected for r in accepted(shuffled))


def accepted(records: list[Record]) -> list[Record]:
    """Those that were news when they came."""
    return [r for i, r in enumerate(records) if all((r.epoch, r.sequence) > (o.epoch, o.sequence) for o in records[:i])]

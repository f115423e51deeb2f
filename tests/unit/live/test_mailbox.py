from __future__ import annotations

import asyncio

import pytest

from headwater.live.errors import HubClosed
from headwater.live.mailbox import Mailbox

MISSED_2 = b'{"type":"missed","count":2}'
MISSED_UNKNOWN = b'{"type":"missed","count":null}'


async def test_gives_everything_in_order() -> None:
    mailbox = Mailbox()
    for event in (b"1", b"2", b"3"):
        mailbox.put(event)
    assert await mailbox.take() == [b"1", b"2", b"3"]
    assert len(mailbox) == 0


async def test_overflow_drops_the_oldest_and_says_how_many() -> None:
    mailbox = Mailbox(events_max=3)
    for event in (b"1", b"2", b"3", b"4", b"5"):
        mailbox.put(event)
    assert await mailbox.take() == [MISSED_2, b"3", b"4", b"5"]
    mailbox.put(b"6")
    assert await mailbox.take() == [b"6"]


async def test_overflow_by_size() -> None:
    mailbox = Mailbox(bytes_max=10)
    for event in (b"aaaa", b"bbbb", b"cccc", b"dddddddd"):
        mailbox.put(event)
    assert await mailbox.take() == [b'{"type":"missed","count":3}', b"dddddddd"]


async def test_a_gap_stands_in_its_place() -> None:
    mailbox = Mailbox()
    mailbox.put(b"1")
    mailbox.missed(1)
    mailbox.missed(1)
    mailbox.put(b"2")
    mailbox.missed(None)
    assert await mailbox.take() == [b"1", MISSED_2, b"2", MISSED_UNKNOWN]


async def test_a_gap_that_is_dropped_counts_on() -> None:
    mailbox = Mailbox(events_max=2)
    mailbox.missed(None)
    for event in (b"1", b"2"):
        mailbox.put(event)
    assert await mailbox.take() == [MISSED_UNKNOWN, b"1", b"2"]


async def test_absorbs_what_waited_behind_a_replay() -> None:
    front, behind = Mailbox(), Mailbox(events_max=1)
    front.put(b"old")
    for event in (b"1", b"2", b"3"):
        behind.put(event)
    front.absorb(behind)
    assert await front.take() == [b"old", MISSED_2, b"3"]


async def test_take_waits_for_the_first_event() -> None:
    mailbox = Mailbox()
    taking = asyncio.ensure_future(mailbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    mailbox.put(b"1")
    assert await taking == [b"1"]


async def test_close_lets_what_waits_be_taken_first() -> None:
    mailbox = Mailbox()
    mailbox.put(b"1")
    mailbox.close(HubClosed("bye"))
    assert await mailbox.take() == [b"1"]
    with pytest.raises(HubClosed):
        await mailbox.take()


async def test_drained_waits_until_everything_was_taken() -> None:
    mailbox = Mailbox()
    mailbox.put(b"1")
    draining = asyncio.ensure_future(mailbox.drained())
    await asyncio.sleep(0)
    assert not draining.done()
    await mailbox.take()
    await draining

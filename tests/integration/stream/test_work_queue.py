"""A queue that workers share: what is finished is gone, what is not comes again, whatever happens to NATS."""

from __future__ import annotations

import contextlib

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NATSError
from tests.support.gateways import eventually
from tests.support.killable_nats import KillableNATS

from headwater.stream import subjects, work_queue
from headwater.stream.publisher import Publisher
from headwater.stream.topology import TIMELINE_STREAM, Topology, ensure
from headwater.stream.work_queue import WorkQueue

TOPOLOGY = Topology(uplink_bytes_max=1 << 26, dead_bytes_max=1 << 26, timeline_bytes_max=1 << 20)


def queue(client: Client) -> WorkQueue:
    return WorkQueue(client, stream=TIMELINE_STREAM, subject=subjects.TIMELINE, name="timeline")


async def take_all(opened: WorkQueue, count: int) -> list[Msg]:
    """Opens it anew where NATS is away, as the worker does (store/timeline.py)."""
    taken: list[Msg] = []

    async def all_of_them() -> bool:
        try:
            taken.extend(await opened.take(messages_max=10, wait_s=0.5))
        except (NATSError, TimeoutError):
            with contextlib.suppress(NATSError, TimeoutError):
                await opened.open()
        return len(taken) >= count

    await eventually(all_of_them, f"{count} messages", 30)
    return taken


async def test_each_message_goes_to_one_of_several(client: Client) -> None:
    await ensure(client.jetstream(), TOPOLOGY)
    publisher = Publisher(client.jetstream())
    one, other = queue(client), queue(client)
    await one.open()
    await other.open()
    for n in range(30):
        await publisher.publish(subjects.TIMELINE, b"%d" % n)
    first = await one.take(messages_max=10, wait_s=5)
    second = await take_all(other, 30 - len(first))
    assert sorted(int(message.data) for message in [*first, *second]) == list(range(30))
    await one.finish(first)
    await other.finish(second)
    await client.flush()

    async def empty() -> bool:
        return (await client.jetstream().stream_info(TIMELINE_STREAM)).state.messages == 0

    await eventually(empty, "what is finished is gone")
    assert await one.take(messages_max=10, wait_s=0.2) == []
    await one.close()
    await other.close()


async def test_what_is_not_finished_comes_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "ACK_WAIT_S", 0.2)
    await ensure(client.jetstream(), TOPOLOGY)
    await Publisher(client.jetstream()).publish(subjects.TIMELINE, b"x")
    dying, heir = queue(client), queue(client)
    await dying.open()
    assert [message.data for message in await dying.take(messages_max=10, wait_s=5)] == [b"x"]
    await dying.close()
    await heir.open()
    assert [message.data for message in await take_all(heir, 1)] == [b"x"]


async def test_it_goes_on_when_nats_was_killed(server: KillableNATS, client: Client) -> None:
    await ensure(client.jetstream(), TOPOLOGY)
    publisher, opened = Publisher(client.jetstream()), queue(client)
    await opened.open()
    await publisher.publish(subjects.TIMELINE, b"before")
    await opened.finish(await take_all(opened, 1))
    await client.flush()
    await publisher.publish(subjects.TIMELINE, b"waiting")
    await server.start_again()
    await publisher.publish(subjects.TIMELINE, b"after")
    assert {message.data for message in await take_all(opened, 2)} == {b"waiting", b"after"}


async def test_when_it_is_full_the_oldest_go(client: Client) -> None:
    await ensure(client.jetstream(), TOPOLOGY)
    publisher, opened = Publisher(client.jetstream()), queue(client)
    for n in range(30):
        await publisher.publish(subjects.TIMELINE, n.to_bytes(2, "big") + bytes(100_000))
    await opened.open()
    kept = await opened.take(messages_max=30, wait_s=5)
    assert [int.from_bytes(message.data[:2], "big") for message in kept] == list(range(30 - len(kept), 30))
    assert 0 < len(kept) < 30

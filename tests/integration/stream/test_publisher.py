"""Publishing over an outage: what was given up stays away, what was repeated is stored once."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client
from tests.support.killable_nats import KillableNATS

from headwater.ingest.ports import StreamUnavailable
from headwater.stream import publisher as module
from headwater.stream import subjects
from headwater.stream.publisher import Publisher
from headwater.stream.topology import UPLINK_STREAM


async def stored(client: Client) -> int:
    return (await client.jetstream().stream_info(UPLINK_STREAM)).state.messages


async def test_what_was_given_up_is_not_stored_when_nats_is_back(
    client: Client, server: KillableNATS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GIVE_UP_S", 1.0)
    publisher = Publisher(client.jetstream())
    await publisher.publish(subjects.up(0), b"before")
    await disconnect(client, server)
    with pytest.raises(StreamUnavailable):
        await publisher.publish(subjects.up(0), b"given up")
    await server.start()
    await publisher.publish(subjects.up(0), b"after")
    assert await stored(client) == 2


async def test_what_is_published_meanwhile_is_stored_once_when_nats_is_back(client: Client, server: KillableNATS) -> None:
    publisher = Publisher(client.jetstream())
    await disconnect(client, server)
    under_way = [asyncio.create_task(publisher.publish(subjects.up(0), b"x")) for _ in range(20)]
    await asyncio.sleep(0)
    await server.start()
    assert len(set(await asyncio.gather(*under_way))) == 20
    assert await stored(client) == 20


async def disconnect(client: Client, server: KillableNATS) -> None:
    server.kill()
    async with asyncio.timeout(10):
        while client.is_connected:  # noqa: ASYNC110  # the client tells nobody whom we could wait for
            await asyncio.sleep(0.01)

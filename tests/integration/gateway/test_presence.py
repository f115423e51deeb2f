"""What a gateway says of its devices: of one with several connections, and when the stream takes nothing for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import nats
import pytest
from nats.aio.client import Client
from tests.support.engines import DatabaseURLs
from tests.support.gateways import Device, add_device, eventually, running_gateway
from tests.support.tenants import TenantFactory

from headwater.gateway import presence
from headwater.stream import subjects
from headwater.stream.envelope import Kind, Record, decode_batch
from headwater.stream.topology import UPLINK_STREAM, Topology, ensure


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    connection = await nats.connect(nats_url)
    yield connection
    await connection.close()


async def said(client: Client, device: Device) -> list[Record]:
    """In order."""
    jetstream = client.jetstream()
    found = []
    for sequence in range(1, (await jetstream.stream_info(UPLINK_STREAM)).state.last_seq + 1):
        message = await jetstream.get_msg(UPLINK_STREAM, sequence)
        if (message.subject or "").startswith(subjects.CONTROL):
            found += [record for record in decode_batch(message.data or b"") if record.device == device.id.bytes]
    return found


@pytest.mark.parametrize("newer_leaves_first", [True, False])
async def test_the_last_of_several_connections_has_the_last_word(
    client: Client, database_urls: DatabaseURLs, nats_url: str, tenant_factory: TenantFactory, newer_leaves_first: bool
) -> None:
    device = await add_device(database_urls.owner, await tenant_factory())
    async with running_gateway(database_urls, nats_url) as gateway:
        older = gateway.client(device, client_id="older", reconnect=False)
        newer = gateway.client(device, client_id="newer", reconnect=False)
        await older.connect()
        await newer.connect()
        first, last = (newer, older) if newer_leaves_first else (older, newer)
        await first.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)
        await first.close()
        # An answer on the last one comes after the end of the first.
        await last.publish(f"{device.prefix}telemetry", b'{"t":1}', qos=1)
        await last.close()

        async def told() -> list[Record]:
            records = await said(client, device)
            return records if records and records[-1].kind == Kind.DISCONNECTED else []

        records = await eventually(told, "the end")
    assert [record.kind for record in records] == [Kind.CONNECTED, Kind.CONNECTED, Kind.DISCONNECTED]
    assert max(records, key=lambda record: (record.epoch, record.sequence)) is records[-1]


async def test_words_that_the_stream_refused_are_said_again_the_newest_of_each_device(
    client: Client,
    database_urls: DatabaseURLs,
    nats_url: str,
    tenant_factory: TenantFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence, "AGAIN_S", 0.05)
    tenant = await tenant_factory()
    staying, leaving = await add_device(database_urls.owner, tenant), await add_device(database_urls.owner, tenant)
    async with running_gateway(database_urls, nats_url) as gateway:
        await ensure(client.jetstream(), replace(Topology(), uplink_bytes_max=1))
        async with gateway.client(staying, reconnect=False):
            async with gateway.client(leaving, reconnect=False):
                pass
            await ensure(client.jetstream(), Topology())

            async def told() -> bool:
                kinds = [[record.kind for record in await said(client, device)] for device in (staying, leaving)]
                return kinds == [[Kind.CONNECTED], [Kind.DISCONNECTED]]

            await eventually(told, "what was refused")

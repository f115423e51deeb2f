"""What Prometheus reads of a role that runs."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest
from tests.support.engines import DatabaseURLs
from tests.support.gateways import add_device, eventually, running_gateway
from tests.support.tenants import TenantFactory

from headwater.app import settings, worker
from headwater.app.engines.ports import PortTaken, free_port
from headwater.app.metrics import Figure, serve_metrics


async def scrape(port: int) -> dict[str, float]:
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines() if line.startswith("headwater_"))
    }


async def test_a_message_is_counted_by_gateway_and_worker(
    database_urls: DatabaseURLs, nats_url: str, tenant_factory: TenantFactory
) -> None:
    device = await add_device(database_urls.owner, await tenant_factory())
    ports, stop = (free_port(), free_port()), asyncio.Event()
    configured = settings.read(
        {
            "HEADWATER_DATABASE_WRITER_URL": database_urls.writer,
            "HEADWATER_NATS_URL": nats_url,
            "HEADWATER_WORKER_METRICS_PORT": str(ports[1]),
        }
    )
    async with running_gateway(database_urls, nats_url, HEADWATER_GATEWAY_METRICS_PORT=str(ports[0])) as gateway:
        working = asyncio.create_task(worker.run(configured, stop))
        async with gateway.client(device, version=5) as client:
            await client.publish(f"{device.prefix}telemetry", b'{"a":1}', qos=1)
            figures = await scrape(ports[0])
            assert figures["headwater_mqtt_connections"] == 1
            assert figures["headwater_mqtt_connections_accepted_total"] == 2  # one only looked whether the port answers
            assert figures["headwater_uplink_records_stored_total"] == 1

        async def stored() -> bool:
            return (await scrape(ports[1])).get("headwater_store_records_total") == 1

        await eventually(lambda: not working.done() and port_answers(ports[1]), "the worker's port")
        await eventually(stored, "the record in the store")
        figures = await scrape(ports[1])
        assert any(name.startswith('headwater_lane_position{consumer="store"') for name in figures)
        stop.set()
        await working


async def port_answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def test_a_port_that_is_taken_names_the_setting() -> None:
    port = free_port()
    with (
        serve_metrics(port, lambda: [Figure("gauge", "a", "", 1)], "GATEWAY_METRICS_PORT"),
        pytest.raises(PortTaken, match="HEADWATER_GATEWAY_METRICS_PORT"),
        serve_metrics(port, lambda: [], "GATEWAY_METRICS_PORT"),
    ):
        pass

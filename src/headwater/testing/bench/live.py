"""(c) How soon a person sees it: from a publish to a WebSocket, and from a publish to an answer of the telemetry API."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec

from headwater.testing.bench.context import Bench, BenchFailed, until
from headwater.testing.bench.generator import publish
from headwater.testing.bench.installation import Installation, answer, installation
from headwater.testing.bench.processes import Usage
from headwater.testing.bench.report import Outcome, Row, at_most, milliseconds, nothing_lost, percentiles_ms, spread
from headwater.testing.load import Credentials, read_credentials
from headwater.testing.mqtt_client import MQTTClient

CONNECTIONS, WINDOW = 100, 20
PROBES = 2
"""Devices whose messages are asked for over and over, at once."""
ASK_S = 0.04
"""Between two questions of a probe: two probes stay far below a token's 200 requests/s, and cost a tenth of a core."""
PROBE_S = 30.0
LAST_EVENT_S = 10.0
WEBSOCKET_MS_MAX = 50.0
QUERYABLE_MS_MAX = 1_000.0


@dataclass(slots=True)
class _Watcher:
    """Hears every telemetry event of the tenant.

    seen       `sent_us` of the messages of the load generator
    missed     events that the server says it has left out
    """

    latencies_s: list[float] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    missed: int = 0
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, api: aiohttp.ClientSession) -> None:
        """Until it is cancelled. Raises BenchFailed."""
        decoder = msgspec.json.Decoder()
        async with api.ws_connect("live", max_msg_size=0) as socket:
            await socket.send_json({"type": "subscribe", "kinds": ["telemetry"]})
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                now_s = time.time()
                event = decoder.decode(message.data)
                self._heard(event, now_s)
        raise BenchFailed("the WebSocket was closed")

    async def has_seen(self, count: int) -> None:
        """Raises TimeoutError."""

        async def enough() -> bool:
            return len(self.seen) >= count

        await until(enough, LAST_EVENT_S)

    def _heard(self, event: dict[str, Any], now_s: float) -> None:
        match event["type"]:
            case "telemetry":
                sent_us = event["values"].get("sent_us")
                if sent_us is not None:
                    self.seen.add(sent_us)
                    self.latencies_s.append(now_s - sent_us / 1e6)
            case "missed":
                self.missed += event["count"] or 1
            case "subscribed":
                self.subscribed.set()
            case "error":
                raise BenchFailed(f"the live API refused: {event['problem']}")


async def measure(bench: Bench) -> Outcome:
    options = bench.options
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(installation(bench, gateways=options.gateways[0]))
        credentials = await up.devices(CONNECTIONS + PROBES)
        api = await stack.enter_async_context(up.api())
        watcher, queryable_s = _Watcher(), list[float]()
        watching = asyncio.create_task(watcher.run(api))
        stack.callback(watching.cancel)
        await _within(LAST_EVENT_S, watching, watcher.subscribed.wait())
        bench.say(f"publishing {options.live_rate:,.0f} messages/s for {options.live_s:g} s, one WebSocket, {PROBES} probes")
        async with Usage(up.programs()) as usage:
            probes = [
                asyncio.create_task(_probe(up, api, person, queryable_s))
                for person in read_credentials(credentials)[CONNECTIONS:]
            ]
            result = await publish(
                up.mqtt_port, CONNECTIONS, WINDOW, options.live_s, rate=options.live_rate, credentials=credentials
            )
            for probe in probes:
                probe.cancel()
            for ended in await asyncio.gather(*probes, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended
            with suppress(TimeoutError):
                await _within(LAST_EVENT_S, watching, watcher.has_seen(result.acknowledged))
    websocket, queryable = percentiles_ms(watcher.latencies_s), percentiles_ms(queryable_s)
    unseen = max(0, result.acknowledged - len(watcher.seen))
    judged = not options.quick
    return Outcome(
        "live",
        rows=[
            Row(
                "PUBACK",
                spread([result.acknowledged_per_s]),
                milliseconds(result.latency_us),
                result.sent - result.acknowledged,
            ),
            Row("WebSocket", None, websocket, unseen),
            Row("telemetry API", None, queryable, note=f"{len(queryable_s)} probes, asked every {ASK_S * 1e3:.0f} ms"),
        ],
        bars=[
            at_most("publish to WebSocket, p99", websocket.get("p99"), WEBSOCKET_MS_MAX, judged=judged, unit="ms"),
            at_most("publish to queryable, p99", queryable.get("p99"), QUERYABLE_MS_MAX, judged=judged, unit="ms"),
            nothing_lost("messages that the WebSocket did not see", unseen),
            nothing_lost("messages without an acknowledgement", result.sent - result.acknowledged),
        ],
        processes=usage.processes,
        figures={"events_missed": watcher.missed, "probes": len(queryable_s)},
    )


async def _probe(up: Installation, api: aiohttp.ClientSession, person: Credentials, latencies_s: list[float]) -> None:
    """Publish, ask until it is there, again: until cancelled. Raises BenchFailed."""
    device = person.username
    async with MQTTClient(
        "127.0.0.1", up.mqtt_port, client_id=person.client_id, username=person.username, password=person.password
    ) as client:
        while True:
            start, number = time.perf_counter(), time.time_ns() // 1000
            payload = msgspec.json.encode({"ts": number // 1000, "values": {"probe": number}})
            await client.publish("v1/devices/me/telemetry", payload, qos=1)
            query = {
                "metric": "probe", "order": "desc", "limit": "1",
                "from": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(timespec="milliseconds"),
            }  # fmt: skip
            while True:
                items = (await answer(api, "GET", f"devices/{device}/telemetry", query=query))["items"]
                if items and items[0]["values"].get("probe") == number:
                    break
                if time.perf_counter() - start > PROBE_S:
                    raise BenchFailed(f"a message could not be queried {PROBE_S:.0f} s after it was sent")
                await asyncio.sleep(ASK_S)
            latencies_s.append(time.perf_counter() - start)


async def _within(seconds: float, watching: asyncio.Task[None], wanted: Any) -> None:
    """Wait for `wanted` while somebody watches. Raises TimeoutError, and whatever ended the watching."""
    waiting = asyncio.ensure_future(wanted)
    done, _ = await asyncio.wait((waiting, watching), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if waiting not in done:
        waiting.cancel()
    if watching in done:
        watching.result()
    if not done:
        raise TimeoutError

"""Devices that go on through everything, and remember what they were told.

Each message carries its number as `sent_us` (the bench's profile declares it) and a time of its device's own, so that the
store can tell a repetition. A device sends the same message until it is acknowledged, and stops only when it is told to.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from headwater.testing.load import Credentials
from headwater.testing.mqtt_client import MQTTClient
from tests.chaos.waiting import until

TOPIC = "v1/devices/me/telemetry"
WINDOW = 4
"""Messages under way of a device: with one at a time there would be no order to lose."""
PERIOD_S = 0.4
"""Between two rounds of WINDOW messages, when nothing holds a device up."""
KEEP_ALIVE_S = 10
ANSWERED_S = 120.0
"""For the last acknowledgements: back-off of a client, back-off of what was killed, and what gathered meanwhile."""


@dataclass
class Device:
    """sent, acknowledged  how many messages; they are numbered from 0"""

    external_id: str
    client: MQTTClient
    sent: int = 0
    acknowledged: set[int] = field(default_factory=set)

    async def send(self, number: int) -> None:
        body = {"ts": time.time_ns() // 1_000_000, "values": {"temp": 20.5, "hum": 40.25, "sent_us": number}}
        await self.client.publish(TOPIC, json.dumps(body).encode(), qos=1)
        self.acknowledged.add(number)

    async def send_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            first, self.sent = self.sent, self.sent + WINDOW
            await asyncio.gather(*(self.send(number) for number in range(first, self.sent)))
            await asyncio.sleep(PERIOD_S * random.uniform(0.5, 1.5))


class Fleet:
    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = devices
        self._stop = asyncio.Event()
        self._sending = [asyncio.create_task(device.send_until(self._stop)) for device in devices]

    @property
    def acknowledged(self) -> int:
        return sum(len(device.acknowledged) for device in self.devices)

    async def acknowledges(self, messages: int, within_s: float = ANSWERED_S) -> None:
        """Returns when so many more messages are acknowledged than are now."""
        wanted = self.acknowledged + messages
        await until(lambda: self.acknowledged >= wanted, within_s, lambda: f"{self.acknowledged} of {wanted} acknowledged")

    async def finish(self) -> None:
        """Send nothing new, and wait until each message is acknowledged."""
        self._stop.set()
        done, waiting = await asyncio.wait(self._sending, timeout=ANSWERED_S)
        for task in done:
            task.result()
        assert not waiting, f"{len(waiting)} devices still wait for an acknowledgement"
        assert all(len(device.acknowledged) == device.sent for device in self.devices)
        assert sum(device.client.acks_out_of_order for device in self.devices) == 0  # [MQTT-4.6.0-2]

    def cancel(self) -> None:
        for task in self._sending:
            task.cancel()


@asynccontextmanager
async def fleet(port: int, credentials: dict[str, Credentials]) -> AsyncIterator[Fleet]:
    """credentials  by external id"""
    async with AsyncExitStack() as stack:
        devices = []
        for external_id, its in credentials.items():
            client = MQTTClient(
                "127.0.0.1", port, client_id=its.client_id, username=its.username, password=its.password,
                window=WINDOW, keep_alive_s=KEEP_ALIVE_S,
            )  # fmt: skip
            devices.append(Device(external_id, await stack.enter_async_context(client)))
        made = Fleet(devices)
        stack.callback(made.cancel)
        yield made

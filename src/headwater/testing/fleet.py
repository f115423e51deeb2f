"""A fleet of simulated devices of several makes, each speaking as its own firmware does.

    python -m headwater.testing.fleet --ready-json FILE --devices 21 --rate 10

Reads where the platform is, registers itself where it is not registered yet, and sends until it is stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
import urllib.parse
import zlib
from pathlib import Path

import aiohttp
import msgspec
import structlog

from headwater.protocols.mqtt import Properties
from headwater.testing.fleet_provision import Member, ProvisioningFailed, Ready, provision
from headwater.testing.mqtt_client import ConnectionLost, ConnectionRefused, MQTTClient, PublishRefused

log = structlog.get_logger(__name__)

READY_S = 120.0
"""How long to wait for the ready file, and for an API that answers: a first start makes a database."""
BACK_OFF_S = 5.0
SEND_S = 60.0


class Fleet:
    """sent, refused: messages that the platform has acknowledged, and that it has not wanted"""

    def __init__(self, ready: Ready, members: list[Member], rate: float) -> None:
        self._ready = ready
        self._members = members
        self._period_s = len(members) / rate
        self._timeout = aiohttp.ClientTimeout(total=SEND_S)
        self.sent = 0
        self.refused = 0

    async def run(self) -> None:
        async with (
            aiohttp.ClientSession(self._ready.ingest_url, timeout=self._timeout) as http,
            asyncio.TaskGroup() as group,
        ):
            for member in self._members:
                group.create_task(self._live(member, http))

    async def _live(self, member: Member, http: aiohttp.ClientSession) -> None:
        """One device, from its place in the period to the end."""
        chance = random.Random(zlib.crc32(member.identity.external_id.encode()))  # noqa: S311  # a simulation, repeatable
        await asyncio.sleep(chance.uniform(0, min(self._period_s, 10.0)))
        while True:
            try:
                if member.make.transport == "http":
                    await self._send_over_http(member, chance, http)
                else:
                    await self._send_over_mqtt(member, chance)
            except (OSError, TimeoutError, ConnectionLost, ConnectionRefused, aiohttp.ClientError) as error:
                log.warning("device_lost_platform", device=member.identity.external_id, error=repr(error))
                await asyncio.sleep(BACK_OFF_S * chance.uniform(0.5, 1.5))

    async def _send_over_mqtt(self, member: Member, chance: random.Random) -> None:
        address = urllib.parse.urlsplit(self._ready.mqtt_url)
        credential, alone = member.credential, member.make.alone
        client = MQTTClient(
            address.hostname or "127.0.0.1",
            address.port or 1883,
            client_id=credential.client_id,
            username=credential.password if alone else credential.username,
            password=None if alone else credential.password,
            version=5 if member.make.transport == "mqtt5" else 4,
            keep_alive_s=60,
        )
        async with client:
            simulate, last = member.make.simulate(member.identity, chance), time.time() - self._period_s
            while True:
                now = time.time()
                message, last = simulate(now, now - last), now
                properties = Properties(content_type=message.content_type) if message.content_type else None
                try:
                    await client.publish(message.topic, message.payload, qos=1, properties=properties)
                    self.sent += 1
                except PublishRefused as error:
                    self._refused(member, str(error))
                await asyncio.sleep(max(0.0, now + self._period_s * chance.uniform(0.9, 1.1) - time.time()))

    async def _send_over_http(self, member: Member, chance: random.Random, http: aiohttp.ClientSession) -> None:
        simulate, last = member.make.simulate(member.identity, chance), time.time() - self._period_s
        authorization = f"Bearer {member.credential.password}"
        while True:
            now = time.time()
            message, last = simulate(now, now - last), now
            headers = {"Authorization": authorization, "Content-Type": message.content_type or "application/json"}
            async with http.post(message.topic, data=message.payload, headers=headers) as response:
                if response.status == 202:
                    self.sent += 1
                else:
                    self._refused(member, f"{response.status} {(await response.text())[:200]}")
            await asyncio.sleep(max(0.0, now + self._period_s * chance.uniform(0.9, 1.1) - time.time()))

    def _refused(self, member: Member, why: str) -> None:
        self.refused += 1
        if self.refused <= 10 or self.refused % 1000 == 0:
            log.warning("message_refused", device=member.identity.external_id, why=why, refused=self.refused)


async def read_ready(path: Path) -> Ready:
    """Waits for the file: the fleet may be started together with the platform."""
    async with asyncio.timeout(READY_S):
        while True:
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                return msgspec.json.decode(path.read_bytes(), type=Ready)  # noqa: ASYNC240  # a few bytes, once
            await asyncio.sleep(0.2)


async def join(ready: Ready, devices: int, secrets_file: Path) -> list[Member]:
    give_up = time.monotonic() + READY_S
    while True:
        try:
            return await provision(ready, devices, secrets_file)
        except (aiohttp.ClientConnectionError, TimeoutError):
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(1)


async def main(ready_json: Path, devices: int, rate: float) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ready = await read_ready(ready_json)
    fleet = Fleet(ready, await join(ready, devices, ready_json.with_name("fleet-credentials.json")), rate)
    log.info("fleet_sends", devices=devices, messages_per_s=rate, mqtt_url=ready.mqtt_url)
    sending, stopping = asyncio.ensure_future(fleet.run()), asyncio.ensure_future(stop.wait())
    await asyncio.wait((sending, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    sending.cancel()
    await asyncio.wait((sending,), timeout=5)
    log.info("fleet_stopped", sent=fleet.sent, refused=fleet.refused)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m headwater.testing.fleet", description=__doc__)
    parser.add_argument("--ready-json", type=Path, required=True, help="what `headwater up --ready-json` writes")
    parser.add_argument("--devices", type=int, default=21, help="how many (default 21: three of each make)")
    parser.add_argument("--rate", type=float, default=10.0, help="messages per second of the whole fleet (default 10)")
    options = parser.parse_args()
    try:
        asyncio.run(main(options.ready_json, max(1, options.devices), max(0.001, options.rate)))
    except ProvisioningFailed as failure:
        sys.exit(f"the fleet could not be registered: {failure}")

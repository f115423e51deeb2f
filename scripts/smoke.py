"""One message through an installation that runs: over MQTT and over HTTP, until the API shows it.

python scripts/smoke.py READY_JSON
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from headwater.testing.mqtt_client import MQTTClient

VISIBLE_S = 15.0


async def main(ready_file: Path) -> None:
    ready = msgspec.json.decode(ready_file.read_bytes())  # noqa: ASYNC240  # a few bytes, once
    headers = {"Authorization": f"Bearer {ready['admin_token']}"}
    async with aiohttp.ClientSession(ready["http_url"], headers=headers, raise_for_status=True) as api:
        device = await _post(api, "/api/v1/devices", {"external_id": f"smoke-{uuid.uuid4()}"})
        credential = await _post(api, f"/api/v1/devices/{device['id']}/credentials", {})
        await publish_mqtt(ready, credential)
        await publish_http(ready, credential)
        latest = await until_latest(api, device["id"], {"over_mqtt", "over_http"})
        print(f"published 2 messages, stored and shown: {', '.join(sorted(latest))}")  # noqa: T201  # a program's answer


async def publish_mqtt(ready: Any, credential: Any) -> None:
    address = urlsplit(ready["mqtt_url"])
    async with MQTTClient(
        address.hostname or "", address.port or 1883, client_id=credential["client_id"],
        username=credential["username"], password=credential["password"].encode(),
    ) as client:  # fmt: skip
        await client.publish("v1/devices/me/telemetry", b'{"over_mqtt": 1.5}', qos=1)


async def publish_http(ready: Any, credential: Any) -> None:
    headers = {"Authorization": f"Bearer {credential['password']}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.post(f"{ready['ingest_url']}/v1/telemetry", json={"over_http": 2.5}) as response,
    ):
        if response.status != 202:
            raise SystemExit(f"the HTTP ingest answered {response.status}: {await response.text()}")


async def until_latest(api: aiohttp.ClientSession, device_id: str, wanted: set[str]) -> set[str]:
    async with asyncio.timeout(VISIBLE_S):
        while True:
            async with api.get(f"/api/v1/devices/{device_id}/latest") as response:
                found = await response.text()
            if all(f'"{name}"' in found for name in wanted):
                return wanted
            await asyncio.sleep(0.1)


async def _post(api: aiohttp.ClientSession, path: str, body: Any) -> Any:
    async with api.post(path, json=body) as response:
        return await response.json()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

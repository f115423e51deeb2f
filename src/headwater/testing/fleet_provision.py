"""The fleet's place in the registry: profiles, devices and credentials, made where they are missing.

Secrets are kept beside the ready file, readable by the owner only; a platform that was made anew has other devices, whose
ids differ, and what is kept of the old ones is not used.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from headwater.testing.fleet_makes import MAKES, Identity, Make

API_S = 30.0
PLACES = ("north", "south", "east", "west")
_LABEL = "fleet"
_VALUE = "demo"


class Ready(msgspec.Struct):
    """What `headwater up` says of itself; the members that a fleet needs."""

    http_url: str
    mqtt_url: str
    ingest_url: str
    tenant: str
    admin_token: str


class Credential(msgspec.Struct):
    device_id: str
    client_id: str
    username: str
    password: str


class ProvisioningFailed(Exception):
    """The API refused; the text is its problem."""


@dataclass(frozen=True, slots=True)
class Member:
    """One device of the fleet, ready to send."""

    identity: Identity
    make: Make
    credential: Credential


def plan(devices: int) -> Iterator[tuple[str, str, Make, str]]:
    """(external_id, name, make, place) of each device: makes in turn, so that any number shows all of them."""
    for number in range(devices):
        make, round_ = MAKES[number % len(MAKES)], number // len(MAKES) + 1
        yield f"{make.name}-{round_:04d}", f"{make.title} {round_}", make, PLACES[round_ % len(PLACES)]


async def provision(ready: Ready, devices: int, secrets_file: Path) -> list[Member]:
    kept = _read(secrets_file)
    headers = {"Authorization": f"Bearer {ready.admin_token}"}
    timeout = aiohttp.ClientTimeout(total=API_S)
    async with aiohttp.ClientSession(f"{ready.http_url}/api/v1/", headers=headers, timeout=timeout) as session:
        await _profiles(session)
        known = {d["external_id"]: d["id"] async for d in _all(session, "devices", q=f"labels.{_LABEL} = {_VALUE}")}
        slots = asyncio.Semaphore(4)  # a newcomer's API has better things to do than our provisioning

        async def member(external_id: str, name: str, make: Make, place: str) -> Member:
            async with slots:
                device_id = known.get(external_id) or await _device(session, external_id, name, make, place)
                credential = kept.get(external_id)
                if credential is None or credential.device_id != device_id:
                    made = await _call(session, "POST", f"devices/{device_id}/credentials", {})
                    credential = Credential(device_id, made["client_id"], made["username"], made["password"])
                    kept[external_id] = credential
            return Member(Identity(external_id, f"d/{ready.tenant}/{device_id}/", place), make, credential)

        try:
            return await asyncio.gather(*(member(*row) for row in plan(devices)))
        finally:
            _write(secrets_file, kept)


async def _profiles(session: aiohttp.ClientSession) -> None:
    known = {profile["name"] async for profile in _all(session, "profiles")}
    for make in MAKES:
        if make.name not in known:
            await _call(session, "POST", "profiles", {"name": make.name, "definition": make.profile})


async def _device(session: aiohttp.ClientSession, external_id: str, name: str, make: Make, place: str) -> str:
    labels = {_LABEL: _VALUE, "site": place}
    body = {"external_id": external_id, "name": name, "profile": make.name, "labels": labels}
    made = await _call(session, "POST", "devices", body)
    return str(made["id"])


async def _all(session: aiohttp.ClientSession, noun: str, **query: str) -> Any:
    while True:
        page = await _call(session, "GET", noun, query={"limit": "500", **query})
        for item in page["items"]:
            yield item
        if page["next_cursor"] is None:
            return
        query["cursor"] = page["next_cursor"]


async def _call(
    session: aiohttp.ClientSession, method: str, path: str, body: Any = None, query: dict[str, str] | None = None
) -> Any:
    while True:
        async with session.request(method, path, json=body, params=query) as response:
            text = await response.text()
            if response.status == 429:
                await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
                continue
            if response.status >= 400:
                raise ProvisioningFailed(f"{method} {path}: {text[:500]}")
            return msgspec.json.decode(text)


def _read(path: Path) -> dict[str, Credential]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Credential])
    except (OSError, msgspec.MsgspecError):
        return {}


def _write(path: Path, credentials: dict[str, Credential]) -> None:
    """In one step, so that a fleet that dies in it has the old file or the new one."""
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(credentials)))
    new.replace(path)

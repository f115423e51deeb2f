"""Which tenants and devices somebody watches, and how gateways learn it.

Every API server says its whole list on `subjects.WATCH` whenever it changes and every `ANNOUNCE_S`. Lists are complete, so
one that was lost costs at most that interval, and nothing has to be agreed on. Interest lingers for `LINGER_S` after its
last watcher has left, and a list after its server has fallen silent: whoever comes back within it finds its events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
import structlog

from headwater.stream import subjects
from headwater.stream.envelope import Record

log = structlog.get_logger(__name__)

ANNOUNCE_S = 5.0
LINGER_S = 120.0
"""A browser that lost its network, or an API server that was restarted, is back within two minutes or not soon."""
DEVICES_MAX = 256
"""Devices named per tenant; beyond it the whole tenant is copied. 256 ids are 4 KiB of each announcement."""
DEVICES_TOTAL_MAX = 16_384
"""Devices named per announcement, which must stay below NATS's max_payload of 1 MiB."""


class Announcement(msgspec.Struct):
    """What one API server watches.

    api      which server
    tenants  tenant, as 32 hexadecimal digits -> 16-byte ids of its watched devices; None = all of them
    clients  tenant -> how many watchers it has there, so that a quota holds across servers
    """

    api: str
    tenants: dict[str, list[bytes] | None]
    clients: dict[str, int] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Announcement)


def encode(announcement: Announcement) -> bytes:
    return _encoder.encode(announcement)


def decode(data: bytes) -> Announcement:
    return _decoder.decode(data)


class Interest:
    """What this API server's watchers want, with those who left lately. Pure: time comes in."""

    def __init__(self) -> None:
        self._holds: dict[bytes, dict[bytes | None, _Hold]] = {}

    def hold(self, tenant: bytes, devices: frozenset[bytes] | None, now: float) -> None:
        """One more watcher. None = all devices of the tenant, which is also what too many devices become."""
        holds = self._holds.setdefault(tenant, {})
        for device in _named(devices):
            hold = holds.get(device)
            if hold is None:
                hold = holds[device] = _Hold(now)
            hold.watchers += 1

    def release(self, tenant: bytes, devices: frozenset[bytes] | None, now: float) -> None:
        holds = self._holds.get(tenant, {})
        for device in _named(devices):
            hold = holds[device]
            hold.watchers -= 1
            hold.left_at = now

    def covered_since(self, tenant: bytes, devices: frozenset[bytes] | None) -> float | None:
        """Since when every one of these devices has been watched without a gap; None = it is not."""
        holds = self._holds.get(tenant, {})
        whole = holds.get(None)
        if whole is not None:
            return whole.since
        found = [holds.get(device) for device in _named(devices)]
        return max((hold.since for hold in found if hold is not None), default=0.0) if all(found) else None

    def tenants(self, now: float) -> dict[str, list[bytes] | None]:
        """The list to announce. Forgets what has lingered long enough."""
        listed: dict[str, list[bytes] | None] = {}
        named = 0
        for tenant in list(self._holds):
            holds = self._holds[tenant]
            for device in [d for d, hold in holds.items() if hold.is_over(now)]:
                del holds[device]
            if not holds:
                del self._holds[tenant]
                continue
            devices = [device for device in holds if device is not None]
            named += len(devices)
            whole = None in holds or len(devices) > DEVICES_MAX or named > DEVICES_TOTAL_MAX
            listed[tenant.hex()] = None if whole else devices
        return listed


class _Hold:
    __slots__ = ("left_at", "since", "watchers")

    def __init__(self, now: float) -> None:
        self.since = now
        self.watchers = 0
        self.left_at = now

    def is_over(self, now: float) -> bool:
        return self.watchers == 0 and now >= self.left_at + LINGER_S


def _named(devices: frozenset[bytes] | None) -> Iterable[bytes | None]:
    return (None,) if devices is None or len(devices) > DEVICES_MAX else devices


class WatchList:
    """What a gateway copies for watchers: the lists of all API servers, merged. Pure: messages and time come in.

    is_empty  nobody watches anything: the only thing that the hot path looks at then
    """

    def __init__(self) -> None:
        self._servers: dict[str, tuple[float, dict[bytes, frozenset[bytes] | None]]] = {}
        self._merged: dict[bytes, frozenset[bytes] | None] = {}
        self.is_empty = True

    def hear(self, announcement: Announcement, now: float) -> None:
        tenants = {
            bytes.fromhex(tenant): None if devices is None else frozenset(devices)
            for tenant, devices in announcement.tenants.items()
        }
        _, before = self._servers.get(announcement.api, (now, None))
        self._servers[announcement.api] = (now, tenants)
        if tenants != before:
            self._merge()

    def expire(self, now: float) -> None:
        silent = [api for api, (heard_at, _) in self._servers.items() if now >= heard_at + LINGER_S]
        for api in silent:
            del self._servers[api]
        if silent:
            self._merge()

    def wanted(self, tenant: bytes, device: bytes) -> bool:
        devices = self._merged.get(tenant, _NOTHING)
        return devices is None or device in devices

    def select(self, records: list[Record]) -> dict[bytes, list[Record]]:
        """The watched ones, by tenant, in their order."""
        selected: dict[bytes, list[Record]] = {}
        if self.is_empty:
            return selected
        merged = self._merged
        for record in records:
            devices = merged.get(record.tenant, _NOTHING)
            if devices is None or record.device in devices:
                of_tenant = selected.get(record.tenant)
                if of_tenant is None:
                    selected[record.tenant] = [record]
                else:
                    of_tenant.append(record)
        return selected

    def _merge(self) -> None:
        merged: dict[bytes, frozenset[bytes] | None] = {}
        for _, tenants in self._servers.values():
            for tenant, devices in tenants.items():
                known = merged.get(tenant, _NOTHING)
                merged[tenant] = None if devices is None or known is None else known | devices
        self._merged = merged
        self.is_empty = not merged


_NOTHING: frozenset[bytes] = frozenset()


class Listening:
    """A gateway's ear on the watch lists; closed with the gateway."""

    def __init__(self, subscription: Any, expiry: asyncio.Task[None]) -> None:
        self._subscription = subscription
        self._expiry = expiry

    async def close(self) -> None:
        self._expiry.cancel()
        await self._subscription.unsubscribe()


async def subscribe(nats: Any, watch_list: WatchList) -> Listening:
    """Keeps the list up to date from now on, and asks the API servers to say theirs at once."""
    loop = asyncio.get_running_loop()

    async def heard(message: Any) -> None:
        try:
            announcement = decode(message.data)
        except msgspec.DecodeError as error:
            log.warning("watch_announcement_unreadable", error=str(error))
        else:
            watch_list.hear(announcement, loop.time())

    async def expire() -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_S)
            watch_list.expire(loop.time())

    subscription = await nats.subscribe(subjects.WATCH, cb=heard)
    await nats.publish(subjects.WATCH_ASK, b"")
    return Listening(subscription, loop.create_task(expire()))

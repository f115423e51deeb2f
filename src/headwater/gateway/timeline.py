"""What happens at this gateway's doors and on its connections, for the timelines of devices.

Owns what is said of it and how much: `say` never waits and never fails, and whoever makes the same thing happen again and
again gets a few entries and then counts ("and 1,234 more"), never a flood of rows. Entries gather for a moment, go to the
stream as batches, and are lost, and counted, where NATS is away for longer than `PENDING_MAX` of them last: nothing here
ever slows down what devices send.

Refuses to know secrets: of a credential that was not good it is told its id at most (device/authentication.py: Claim).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from itertools import islice
from typing import NamedTuple, Protocol
from uuid import UUID

import structlog

from headwater.clock import Clock
from headwater.device.authentication import NO_CLAIM, Claim
from headwater.errors import DomainError
from headwater.ids import uuid7
from headwater.stream import subjects
from headwater.stream.timeline import Event, TimelineEntry, encode_entries

log = structlog.get_logger(__name__)

BURST = 30
"""Entries of one device, or of one address without a device, that are kept one by one: enough to read a story in."""
REFILL_S = 60.0
"""After those, one a minute; the rest of the minute is a count."""
SUMMARY_S = 60.0
"""How often counts become entries."""
HELD_MAX = 20
"""Kinds of one speaker that are counted apart; who claims to be ever somebody else is counted as one."""
SPEAKERS_MAX = 20_000
"""Devices and addresses that are remembered, some 8 MB; beyond it the oldest starts afresh."""
STRANGERS_PER_S = 20.0
STRANGERS_BURST = 500.0
"""Entries of all addresses without a device together: many addresses must not do what one may not."""
PENDING_MAX = 50_000
"""Entries that wait for NATS, some 25 MB: a reconnect of every device of a gateway fits."""
BATCH_MAX = 500
"""Below 1 MiB, NATS's default max_payload, whatever texts are in them."""
GATHER_S = 0.25
RETRY_S = 5.0
CLOSE_S = 5.0
"""For what is still to be said at the end."""
TEXT_LENGTH_MAX = 300

Who = UUID | str
"""A device, or the address of somebody of whom nobody knows."""
EVERYBODY = ""
"""Whose counts they are when there are too many addresses to tell them apart."""


class Stream(Protocol):
    """stream.publisher.Publisher"""

    async def publish(self, subject: str, payload: bytes) -> int:
        """Raises DomainErrors."""


class _Kind(NamedTuple):
    """What is counted together."""

    event: Event
    code: str
    listener: str
    claim: Claim


class _Speaker:
    """Somebody who makes things happen. held: what is only counted, until the next summary."""

    __slots__ = ("allowance", "at", "held")

    def __init__(self, now: float) -> None:
        self.allowance = float(BURST)
        self.at = now
        self.held: dict[_Kind, TimelineEntry] = {}

    def may_speak(self, now: float) -> bool:
        self.refill(now)
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True

    def refill(self, now: float) -> None:
        self.allowance = min(float(BURST), self.allowance + (now - self.at) / REFILL_S)
        self.at = now


class Timeline:
    """counted_total  happenings that have no entry of their own
    lost_total     entries that NATS did not take
    """

    def __init__(self, stream: Stream, gateway_id: UUID, clock: Clock, *, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._gateway = gateway_id.bytes
        self._clock = clock
        self._now = now
        self._speakers: dict[Who, _Speaker] = {}
        self._strangers, self._strangers_at = STRANGERS_BURST, now()
        self._pending: deque[TimelineEntry] = deque()
        self._summary_at = now() + SUMMARY_S
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.said_total = 0
        self.counted_total = 0
        self.lost_total = 0

    # -- saying ---------------------------------------------------------------------------------------------------------

    def say(
        self,
        event: Event,
        *,
        tenant_id: UUID | None = None,
        device_id: UUID | None = None,
        address: str = "",
        client_id: str = "",
        protocol: str = "",
        listener: str = "",
        code: str = "",
        detail: str = "",
        claim: Claim = NO_CLAIM,
    ) -> None:
        """tenant_id and device_id: both or none. claim: who the peer said it is, where its word was not good."""
        self.said_total += 1
        now, at = self._now(), self._clock.now_us()
        host = host_of(address)
        speaker = self._speaker(device_id or _network(host), now)
        kind = _Kind(event, code, listener, claim)
        alone = speaker.may_speak(now)
        if alone and device_id is None and not self._room_for_strangers(now):
            alone, speaker, kind, host, client_id, claim = (
                False, self._speaker(EVERYBODY, now), kind._replace(claim=NO_CLAIM), "", "", NO_CLAIM,
            )  # fmt: skip
        if not alone:
            self.counted_total += 1
            if kind not in speaker.held and len(speaker.held) >= HELD_MAX:
                kind, client_id, claim = kind._replace(claim=NO_CLAIM), "", NO_CLAIM
            held = speaker.held.get(kind)
            if held is not None:  # of a flood, what nearly all come to: a look and an addition
                held.count += 1
                held.at = at
                return
        entry = TimelineEntry(
            id=uuid7().bytes,
            at=at,
            event=event.value,
            tenant=tenant_id.bytes if tenant_id is not None else b"",
            device=device_id.bytes if device_id is not None else b"",
            code=code,
            detail=detail[:TEXT_LENGTH_MAX],
            client_id=client_id[:TEXT_LENGTH_MAX],
            address=host,
            protocol=protocol,
            listener=listener,
            gateway=self._gateway,
            credential=claim.credential_id.bytes if claim.credential_id is not None else b"",
            name=claim.name[:TEXT_LENGTH_MAX],
        )
        if alone:
            self._append(entry)
        else:
            speaker.held[kind] = entry

    def _speaker(self, who: Who, now: float) -> _Speaker:
        speaker = self._speakers.get(who)
        if speaker is None:
            if len(self._speakers) >= SPEAKERS_MAX:
                for entry in self._speakers.pop(next(iter(self._speakers))).held.values():
                    self._append(entry)
            speaker = self._speakers[who] = _Speaker(now)
        return speaker

    def _room_for_strangers(self, now: float) -> bool:
        self._strangers = min(STRANGERS_BURST, self._strangers + (now - self._strangers_at) * STRANGERS_PER_S)
        self._strangers_at = now
        if self._strangers < 1:
            return False
        self._strangers -= 1
        return True

    def _append(self, entry: TimelineEntry) -> None:
        if len(self._pending) >= PENDING_MAX:
            self.lost_total += 1
            return
        self._pending.append(entry)
        self._wake.set()

    # -- to the stream --------------------------------------------------------------------------------------------------

    def open(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """What is still to be said, as far as NATS takes it soon."""
        if self._task is not None:
            self._task.cancel()
        self.summarise()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._publish_pending()
        self.lost_total += len(self._pending)

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._summary_at - self._now())):
                    await self._wake.wait()
            if self._now() >= self._summary_at:
                self.summarise()
            self._wake.clear()
            await asyncio.sleep(GATHER_S)
            if not await self._publish_pending():
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    def summarise(self) -> None:
        """What was only counted becomes entries, and whoever has been quiet is forgotten."""
        now = self._now()
        self._summary_at = now + SUMMARY_S
        for who, speaker in list(self._speakers.items()):
            for entry in speaker.held.values():
                self._append(entry)
            speaker.held.clear()
            speaker.refill(now)
            if speaker.allowance >= BURST:
                del self._speakers[who]

    async def _publish_pending(self) -> bool:
        """False where the stream does not take it now. What is under way stays first in line until it is stored."""
        while self._pending:
            batch = list(islice(self._pending, BATCH_MAX))
            try:
                await self._stream.publish(subjects.TIMELINE, encode_entries(batch))
            except DomainError as error:
                log.warning("timeline_not_stored", waiting=len(self._pending), error=repr(error))
                return False
            except Exception:  # one batch that cannot be sent, whatever is wrong with it, must not keep back the others
                log.exception("timeline_lost", entries=len(batch))
                self.lost_total += len(batch)
            for _ in batch:
                self._pending.popleft()
        return True


def host_of(address: str) -> str:
    """`203.0.113.7:1883`, `[2001:db8::1]:1883` or a bare address, without the port."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def _network(host: str) -> str:
    """Whom an address stands for: of IPv6 its /64, because whoever has one has them all."""
    if ":" not in host:
        return host
    try:
        return str(IPv6Address(int(ip_address(host.partition("%")[0])) >> 64 << 64))
    except ValueError:
        return host

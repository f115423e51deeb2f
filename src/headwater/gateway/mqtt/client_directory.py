"""Who has which client: so that a client's older connection on another gateway gives way to its newer one.

The directory is shared out among the gateways by a hash of the client, and each keeps its part in memory. A gateway tells
the keeper of a client's part that the client came, or left; the keeper tells a gateway whose connection is not the newest
any more. So a connection is told to one gateway, however many there are. Nothing here is stored: when the gateways are
others than before, everybody tells the new keepers of its own connections, and once a minute anyway, which heals what got
lost. A gateway that is alone keeps nothing.

Sessions that outlive their connections do not depend on it: their records say who serves them (gateway/mqtt/sessions.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec
import structlog
from nats.aio.client import Client

from headwater.gateway.roster import Gateway
from headwater.stream import subjects

log = structlog.get_logger(__name__)

PARTS = 512
"""Some ten for each of fifty gateways, so that none has much more to keep than another."""
GATHER_S = 0.005
"""What a moment brings is told in one message to each keeper; longer where there are more than five of them, so that a
gateway sends, and hears, at most a thousand a second."""
GATHER_A_GATEWAY_S = 0.001
TOLD_MAX = 1_000
"""Clients in one message: 50 KiB."""
REFRESH_S = 60.0

ClientKey = bytes
"""32 bytes that stand for a client: its tenant, and its client key (stream/subjects.py)"""
Arrival = int
"""When a connection came: microseconds, and on its gateway higher than those of all earlier ones"""
Word = tuple[ClientKey, Arrival]


class Parcel(msgspec.Struct, array_like=True):
    """What one gateway tells a keeper."""

    gateway: Gateway
    came: list[Word] = []
    left: list[Word] = []


class ClientDirectory:
    """here     the connections of this gateway
    overtaken   ends this gateway's connection of a client where it came before that time
    """

    def __init__(self, nats: Client, gateway_id: UUID) -> None:
        self._nats = nats
        self._me = gateway_id.bytes
        self._gateways: frozenset[Gateway] = frozenset((self._me,))
        self._keepers: list[Gateway] = []
        """by part; empty = this gateway is alone"""
        self._kept: dict[ClientKey, tuple[Arrival, Gateway]] = {}
        self._parcels: dict[Gateway, Parcel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.here: Callable[[], Iterable[Word]] = tuple
        self.overtaken: Callable[[ClientKey, Arrival], object]

    def __len__(self) -> int:
        """Clients whose whereabouts are kept here."""
        return len(self._kept)

    async def open(self) -> None:
        await self._nats.subscribe(subjects.clients(self._me), cb=self._receive)
        await self._nats.subscribe(subjects.overtaken(self._me), cb=self._receive_overtaken)

    async def refresh_for_ever(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self.refresh()

    # -- of this gateway's own clients ----------------------------------------------------------------------------------

    def came(self, word: Word) -> None:
        if self._keepers:
            self._parcel(word).came.append(word)

    def left(self, word: Word) -> None:
        if self._keepers:
            self._parcel(word).left.append(word)

    def _parcel(self, word: Word) -> Parcel:
        if not self._parcels:
            gather_s = max(GATHER_S, GATHER_A_GATEWAY_S * len(self._gateways))
            asyncio.get_running_loop().call_later(gather_s, self._send)
        keeper = self._keepers[_part(word[0])]
        parcel = self._parcels.get(keeper)
        if parcel is None:
            parcel = self._parcels[keeper] = Parcel(self._me)
        return parcel

    def _send(self) -> None:
        parcels, self._parcels = self._parcels, {}
        for keeper, parcel in parcels.items():
            if keeper == self._me:
                self._spawn(self._keep(parcel))
            else:
                self._spawn(self._send_parcel(keeper, parcel))

    async def _send_parcel(self, keeper: Gateway, parcel: Parcel) -> None:
        for start in range(0, max(len(parcel.came), len(parcel.left)), TOLD_MAX):
            part = slice(start, start + TOLD_MAX)
            await self._publish(subjects.clients(keeper), Parcel(self._me, parcel.came[part], parcel.left[part]))

    def refresh(self) -> None:
        """Forget what is not this gateway's to keep, and tell all that is here."""
        keepers = self._keepers
        self._kept = {
            client: known
            for client, known in self._kept.items()
            if known[1] in self._gateways and keepers and keepers[_part(client)] == self._me
        }
        for word in self.here():
            self.came(word)

    def share_out(self, gateways: frozenset[Gateway]) -> None:
        """The gateways are these now."""
        before, self._gateways = self._keepers, gateways
        self._keepers = [_keeper(part, gateways) for part in range(PARTS)] if len(gateways) > 1 else []
        for word in self.here():
            part = _part(word[0])
            if not before or (self._keepers and self._keepers[part] != before[part]):
                self.came(word)

    # -- of the part that is kept here ----------------------------------------------------------------------------------

    async def _receive(self, message: Any) -> None:
        await self._keep(msgspec.msgpack.decode(message.data, type=Parcel))

    async def _keep(self, parcel: Parcel) -> None:
        """Of two gateways that have a client, the one where it came last keeps it."""
        overtaken: dict[Gateway, list[Word]] = {}
        for client, arrival in parcel.came:
            came = (arrival, parcel.gateway)
            known = self._kept.get(client, came)
            self._kept[client] = newer = max(came, known)  # of two in one microsecond, too, one is the newer
            older = min(came, known)
            if older[1] != newer[1]:
                overtaken.setdefault(older[1], []).append((client, max(newer[0], older[0] + 1)))
        for client, arrival in parcel.left:
            if self._kept.get(client) == (arrival, parcel.gateway):
                del self._kept[client]
        for gateway, words in overtaken.items():
            if gateway == self._me:
                self._end(words)
            else:
                await self._publish(subjects.overtaken(gateway), words)

    async def _receive_overtaken(self, message: Any) -> None:
        self._end(msgspec.msgpack.decode(message.data, type=list[Word]))

    def _end(self, words: list[Word]) -> None:
        for client, arrival in words:
            self.overtaken(client, arrival)

    async def _publish(self, subject: str, payload: Any) -> None:
        try:
            await self._nats.publish(subject, msgspec.msgpack.encode(payload))
        except Exception as error:  # NATS is away; once it is back everything is told again
            log.info("client_not_told", error=repr(error))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _part(client: ClientKey) -> int:
    """The key's end is a digest."""
    return int.from_bytes(client[-2:], "big") % PARTS


def _keeper(part: int, gateways: frozenset[Gateway]) -> Gateway:
    """The highest of their digests: where one comes or goes, only its own parts move."""
    return max(gateways, key=lambda gateway: blake2b(gateway, digest_size=8, salt=part.to_bytes(2, "big")).digest())

"""Which gateways there are: each says so once a second, and is believed for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import structlog
from nats.aio.client import Client

from headwater.stream import subjects

log = structlog.get_logger(__name__)

HELLO_S = 1.0
BELIEVED_S = 4.0
"""After the last hello. A gateway that is merely slow comes back into the roster with its next one."""

Gateway = bytes
"""the 16 bytes of its id"""


class Roster:
    """here     all that are believed to be there, this one among them
    changed     is told the new `here`
    """

    def __init__(self, nats: Client, gateway_id: UUID) -> None:
        self._nats = nats
        self._me = gateway_id.bytes
        self._heard: dict[Gateway, float] = {}
        self._clock = asyncio.get_running_loop().time
        self._subscription: Any = None
        self.here: frozenset[Gateway] = frozenset((self._me,))
        self.changed: Callable[[frozenset[Gateway]], object] = _nothing

    async def open(self) -> None:
        self._subscription = await self._nats.subscribe(subjects.GATEWAY_ROSTER, cb=self._receive)
        await self._say(stays=True)

    async def close(self) -> None:
        try:
            await self._subscription.unsubscribe()
            await self._say(stays=False)
            await self._nats.flush(timeout=1)
        except Exception as error:  # NATS is away: the others find out
            log.info("farewell_not_said", error=repr(error))

    async def say_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HELLO_S)
            try:
                await self._say(stays=True)
            except Exception as error:  # NATS is away, and with it all the others
                log.info("hello_not_said", error=repr(error))
            oldest = self._clock() - BELIEVED_S
            self._heard = {gateway: at for gateway, at in self._heard.items() if at > oldest}
            self._look()

    async def _say(self, *, stays: bool) -> None:
        await self._nats.publish(subjects.GATEWAY_ROSTER, msgspec.msgpack.encode((self._me, stays)))

    async def _receive(self, message: Any) -> None:
        gateway, stays = msgspec.msgpack.decode(message.data, type=tuple[bytes, bool])
        if gateway == self._me:
            return
        is_new = gateway not in self._heard
        if stays:
            self._heard[gateway] = self._clock()
        else:
            self._heard.pop(gateway, None)
        self._look()
        if stays and is_new:  # it knows nobody yet
            await self._say(stays=True)

    def _look(self) -> None:
        here = frozenset((self._me, *self._heard))
        if here != self.here:
            self.here = here
            self.changed(here)


def _nothing(_here: frozenset[Gateway]) -> None:
    """Until somebody wants to know."""

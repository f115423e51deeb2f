"""A gateway that stood still with its sockets open: stopped, paused with its machine, starved of CPU.

Others wait RELEASE_S for its answer (gateway/mqtt/sessions.py), and then take its clients' sessions over, and their wills.
What these clients had published here at QoS 2 they publish there again, so nothing of that may still go to the log from
here. Whether a session is ours is asked of its record: one that another gateway has written cannot be written.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from headwater.errors import DomainError
from headwater.gateway.mqtt.kept_session import KeptSession
from headwater.gateway.mqtt.sessions import Sessions
from headwater.stream import subjects
from headwater.stream.batcher import Publishes
from headwater.stream.envelope import decode_messages, encode_messages

log = structlog.get_logger(__name__)

STANDSTILL_S = 3.0
"""Shorter than others wait, with some room for what is said meanwhile."""
PULSE_S = 0.5
NOT_QOS_2 = 0
"""`Message.packet_id` of all others, and a will's"""
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, where there is such a clock."""


class Standstill:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        sessions.is_ours = self.is_ours
        self._suspects: set[KeptSession] = set()
        self._beat = time.clock_gettime(_CLOCK)
        self._clearing: asyncio.Task[None] | None = None

    async def watch_for_ever(self) -> None:
        while True:
            await asyncio.sleep(PULSE_S)
            self.check()
            if self._suspects and (self._clearing is None or self._clearing.done()):
                self._suspects &= self._sessions.kept
                self._clearing = asyncio.ensure_future(self._clear_all())

    def check(self) -> None:
        """Before anything that only the owner of a session may do."""
        now = time.clock_gettime(_CLOCK)
        stood_s, self._beat = now - self._beat, now
        if stood_s > STANDSTILL_S:
            log.warning("stood_still", seconds=round(stood_s, 1))
            self._suspects |= self._sessions.kept

    async def _clear_all(self) -> None:
        """Also what its client does not publish under: a client that has moved finds its old connection closed."""
        try:
            await asyncio.gather(*map(self._ask, list(self._suspects)))
        except DomainError as error:
            log.warning("sessions_not_checked", error=repr(error))

    async def is_ours(self, kept: KeptSession) -> bool:
        """What cannot be known is taken for ours: a will comes rather twice than never."""
        self.check()
        try:
            return await self._ask(kept) if kept in self._suspects else not kept.is_lost
        except DomainError as error:
            log.warning("session_not_checked", error=repr(error))
            return True

    async def _ask(self, kept: KeptSession) -> bool:
        """Raises DomainErrors."""
        is_ours = await kept.is_ours()
        if is_ours:
            self._suspects.discard(kept)
        return is_ours

    async def without_lost(self, subject: str, batch: bytes) -> bytes:
        """What of a tenant's batch may go to the log. b"" = nothing. Raises DomainErrors."""
        self.check()
        lost: set[tuple[bytes, int]] = set()
        for kept in [each for each in self._suspects if each.publishes and subjects.message(each.tenant_id) == subject]:
            if not await self._ask(kept):
                lost.update((kept.connection.client_key, packet_id) for packet_id in kept.publishes - {NOT_QOS_2})
        if not lost:
            return batch
        messages = []
        for message in decode_messages(batch):
            one = (message.sender, message.packet_id)
            if one in lost:
                lost.discard(one)  # another one like it is of the client's next connection
            else:
                messages.append(message)
        return encode_messages(messages) if messages else b""


class OwnMessages:
    """Implements `stream.batcher.Publishes` for ordinary messages."""

    def __init__(self, publisher: Publishes, standstill: Standstill) -> None:
        self._publisher = publisher
        self._standstill = standstill

    async def publish(self, subject: str, payload: bytes) -> int:
        """Returns 0 where nothing was left to publish. Raises DomainErrors."""
        payload = await self._standstill.without_lost(subject, payload)
        return await self._publisher.publish(subject, payload) if payload else 0

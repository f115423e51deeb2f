"""Who may watch: checked when a watcher comes, and again while it stays.

A page that uses EventSource cannot send headers, and a token in a URL ends up in logs. So it asks for a ticket: it holds
its owner's credential encrypted, lives for `TICKET_S`, and is taken once, on whatever API server.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import BadRequestError

from headwater.api import auth
from headwater.clock import Clock, to_datetime
from headwater.errors import Forbidden, Unauthenticated, Unavailable
from headwater.ids import uuid7
from headwater.live.errors import TicketInvalid
from headwater.stream import subjects
from headwater.tenancy.identification import Identification
from headwater.tenancy.identity import Identity

log = structlog.get_logger(__name__)

TICKET_S = 30
"""From the answer that brings it to the connection that uses it."""
TICKET_LENGTH_MAX = 4096
CHECK_S = 25.0
"""A right that was taken away ends its watchers' connections within twice this."""
UNCHECKED_S_MAX = 55.0
"""How long a watcher may stay when nobody can say whether it still may: an engine's restart is shorter."""
_ADMISSION: dict[str, Any] = {"permission": "telemetry:read", "group_scoped": True}
_HEADER = {"alg": "dir", "enc": "A256GCM"}
_WRONG_LAST_SEQUENCE = 10071


class _Claims(msgspec.Struct):
    id: UUID
    expires_at: int
    credential: str


class Ticket(msgspec.Struct):
    """ticket: for `GET /live/events?ticket=`, once."""

    ticket: str
    expires_at: datetime


class Tickets:
    def __init__(self, secret_key: str, jetstream: JetStreamContext | None, clock: Clock) -> None:
        key = hmac.new(secret_key.encode(), b"headwater.live.ticket", hashlib.sha256).digest()
        self._key = OctKey.import_key(key)
        self._jetstream = jetstream
        self._clock = clock

    def issue(self, credential: str) -> Ticket:
        expires_at = self._clock.now_us() + TICKET_S * 1_000_000
        claims = msgspec.json.encode(_Claims(uuid7(), expires_at, credential))
        return Ticket(jwe.encrypt_compact(_HEADER, claims, self._key), to_datetime(expires_at))

    async def redeem(self, ticket: str) -> str:
        """The credential. Raises TicketInvalid, Unavailable."""
        if len(ticket) > TICKET_LENGTH_MAX:
            raise TicketInvalid("not a ticket")
        try:
            claims = msgspec.json.decode(jwe.decrypt_compact(ticket, self._key).plaintext or b"", type=_Claims)
        except (JoseError, msgspec.MsgspecError, ValueError) as error:
            raise TicketInvalid("not a ticket") from error
        if claims.expires_at <= self._clock.now_us():
            raise TicketInvalid("the ticket has expired")
        if self._jetstream is None:
            raise Unavailable("the live stream cannot be reached")
        # The stream takes the first message of a subject only from whoever comes first.
        headers = {str(Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value): "0"}
        try:
            await self._jetstream.publish(subjects.live_ticket(claims.id), b"", headers=headers)
        except BadRequestError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:
                raise TicketInvalid("the ticket has been used") from error
            raise
        return claims.credential


@dataclass(slots=True)
class Access:
    """One watcher's right to be here.

    credential    may be replaced by a younger one of the same tenant while the watcher stays
    confirmed_at  loop time of the last check that said yes
    """

    identification: Identification
    address: str
    credential: str
    confirmed_at: float = 0.0

    async def admit(self, now: float) -> Identity:
        """Raises Unauthenticated, Forbidden and their kin."""
        identity = await self.identification.identify(self.credential, self.address)
        auth.admit(identity, _ADMISSION)
        self.confirmed_at = now
        return identity

    async def check(self, now: float) -> None:
        """Raises what ends the watching; an engine that is away does so only after a while."""
        try:
            await self.admit(now)
        except (Unauthenticated, Forbidden):
            raise
        except Exception as error:  # whatever kind of away it is, the watcher is not to blame
            log.warning("watcher_not_checked", error=repr(error))
            if now - self.confirmed_at > UNCHECKED_S_MAX:
                raise Unavailable("nobody can say now whether you may still watch") from error

    async def replace(self, credential: str, tenant_id: UUID, now: float) -> None:
        """A younger token of the same tenant. Raises what `admit` raises."""
        younger = Access(self.identification, self.address, credential)
        identity = await younger.admit(now)
        assert identity.scope is not None  # admitted
        if identity.scope.tenant_id != tenant_id:
            raise Forbidden("this token is of another tenant; open another connection")
        self.credential, self.confirmed_at = credential, now

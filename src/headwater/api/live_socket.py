"""One WebSocket of a watcher: what it says, what it hears, how it ends. The protocol: docs/reference/live.md.

A task reads, a task writes, a task checks the right to be here; the first that ends, ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import msgspec
import structlog
from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect, WebSocketException
from nats.errors import Error as NATSError

from headwater.api import auth, problems
from headwater.api.context import request_id
from headwater.api.errors import Unexpected
from headwater.api.live_access import CHECK_S, Access
from headwater.api.live_devices import last_id_of, wanted_of
from headwater.database.away import AWAY
from headwater.errors import DomainError, Unauthenticated, Unavailable
from headwater.live.errors import NotUnderstood
from headwater.live.event import EventKind
from headwater.live.hub import Hub
from headwater.live.selection import Subscriber
from headwater.tenancy.identification import Identification
from headwater.tenancy.identity import Identity

log = structlog.get_logger(__name__)

HELLO_S = 10.0
"""A browser has its token ready when it connects."""
MESSAGE_LENGTH_MAX = 65_536
"""1,000 device ids are 39,000 characters."""
PAUSE_S = 0.1
"""Between two messages of a client: each may cost the database a query."""
PROTOCOL = "headwater.live"
CLOSE_CODE_BASE = 4000
"""A connection ends with 4000 + the HTTP status of its error: RFC 6455 leaves 4000 to 4999 to us."""


class Subscribe(msgspec.Struct, tag="subscribe", forbid_unknown_fields=True):
    """Replaces what the connection follows. What is left out does not restrict.

    access_token   needed once, unless the connection came with an Authorization header
    last_event_id  id of the last event that was seen: go on behind it
    batch          a frame is a list of events instead of one event
    """

    access_token: str | None = None
    devices: list[UUID] | None = None
    group: UUID | None = None
    q: str | None = None
    kinds: list[EventKind] | None = None
    metrics: list[str] | None = None
    last_event_id: str | None = None
    batch: bool = False


class Authenticate(msgspec.Struct, tag="authenticate", forbid_unknown_fields=True):
    """A younger token, before the one that the connection has expires."""

    access_token: str


_decoder = msgspec.json.Decoder(Subscribe | Authenticate)


class Subscribed(msgspec.Struct, tag="subscribed", tag_field="type"):
    """id: where to resume when no event has come yet; null where the tenant's stream is empty."""

    id: str | None


class Authenticated(msgspec.Struct, tag="authenticated", tag_field="type"):
    pass


class Conversation:
    def __init__(self, socket: WebSocket[Any, Any, Any], hub: Hub, identification: Identification) -> None:
        self._socket = socket
        self._hub = hub
        self._access = Access(identification, auth.address_of(socket), "")
        self._identity: Identity | None = None
        self._subscriber: Subscriber | None = None
        self._writing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        offered = {p.strip() for p in self._socket.headers.get("sec-websocket-protocol", "").split(",")}
        await self._socket.accept(subprotocols=PROTOCOL if PROTOCOL in offered else None)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._greet()
            tasks = [self._start(self._keep_reading()), self._start(self._keep_checking())]
            await self._ended
        except WebSocketDisconnect:
            pass
        except Exception as error:  # the end of the connection, whatever it was: said where it can be said
            await self._end(_error_of(error))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._unsubscribe()

    async def _greet(self) -> None:
        with contextlib.suppress(Unauthenticated):  # then the first message brings it
            self._access.credential = auth.credential_of(self._socket)
        try:
            async with asyncio.timeout(HELLO_S):
                message = await self._receive()
        except TimeoutError:
            raise NotUnderstood(f"the first message comes within {HELLO_S:.0f} s") from None
        await self._obey(message)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Whatever ends it, ends the connection."""
        task = self._loop.create_task(work)
        task.add_done_callback(self._on_ended)
        return task

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._ended.done():
            self._ended.set_exception(error)

    async def _keep_reading(self) -> None:
        while True:
            await self._obey(await self._receive())
            await asyncio.sleep(PAUSE_S)

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            await self._access.check(self._loop.time())

    async def _receive(self) -> Subscribe | Authenticate:
        try:
            text = await self._socket.receive_text()
        except (KeyError, WebSocketException) as error:
            if isinstance(error, WebSocketDisconnect):
                raise
            raise NotUnderstood("send text frames") from error
        if len(text) > MESSAGE_LENGTH_MAX:
            raise NotUnderstood(f"a message has at most {MESSAGE_LENGTH_MAX} characters")
        try:
            message: Subscribe | Authenticate = _decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise NotUnderstood(str(error)) from error
        return message

    async def _obey(self, message: Subscribe | Authenticate) -> None:
        now = self._loop.time()
        if isinstance(message, Subscribe):
            if message.access_token is not None and self._identity is None:
                self._access.credential = message.access_token
            elif message.access_token is not None:
                await self._replace_token(message.access_token)
            if not self._access.credential:
                raise Unauthenticated("send `access_token` with the first message, or an Authorization header")
            if self._identity is None:
                self._identity = await self._access.admit(now)
            await self._subscribe(self._identity, message)
        elif self._identity is None:
            raise NotUnderstood("the first message is `subscribe`")
        else:
            await self._replace_token(message.access_token)
            await self._socket.send_text(msgspec.json.encode(Authenticated()).decode())

    async def _replace_token(self, token: str) -> None:
        assert self._identity is not None
        assert self._identity.scope is not None  # admitted
        await self._access.replace(token, self._identity.scope.tenant_id, self._loop.time())

    async def _subscribe(self, identity: Identity, message: Subscribe) -> None:
        assert identity.scope is not None  # admitted
        assert identity.quotas is not None
        await self._unsubscribe()
        self._subscriber = await self._hub.attach(
            identity.scope,
            wanted_of(message.devices, message.group, message.q),
            message.kinds or tuple(EventKind),
            frozenset(message.metrics) if message.metrics else None,
            clients_max=identity.quotas.live_clients_max,
            last_id=last_id_of(message.last_event_id),
        )
        place = self._hub.position(identity.scope.tenant_id)
        answer = Subscribed(None if place is None else str(place))
        await self._socket.send_text(msgspec.json.encode(answer).decode())
        self._writing = self._start(self._keep_writing(self._subscriber, message.batch))

    async def _unsubscribe(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            await self._hub.detach(subscriber)

    async def _keep_writing(self, subscriber: Subscriber, batch: bool) -> None:
        while True:
            events = await subscriber.mailbox.take()
            for text in [b"[" + b",".join(events) + b"]"] if batch else events:
                await self._socket.send({"type": "websocket.send", "text": text.decode(), "bytes": None})

    async def _end(self, error: DomainError) -> None:
        problem = problems.problem_of(error, f"urn:uuid:{request_id(self._socket.scope)}")
        with contextlib.suppress(WebSocketException, RuntimeError, OSError):  # the peer may be gone by now
            await self._socket.send_text(msgspec.json.encode({"type": "error", "problem": problem}).decode())
            await self._socket.close(CLOSE_CODE_BASE + problem["status"], reason=error.code)


def _error_of(error: Exception) -> DomainError:
    if isinstance(error, DomainError):
        return error
    if isinstance(error, (*AWAY, NATSError)):
        log.warning("engine_away", error=repr(error))
        return Unavailable("an engine behind the API does not answer now")
    log.error("live_connection_failed", exc_info=error)
    return Unexpected("a defect of ours; the instance finds it in the logs")

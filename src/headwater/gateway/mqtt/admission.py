"""Who comes in, who must go: authentication, take-over, presence, wills, and what the registry has changed meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import structlog
from nats.aio.client import Client

from headwater.database.away import AWAY
from headwater.device.authentication import (
    Authentication,
    Challenge,
    DeviceRefused,
    DeviceSuspended,
    EnhancedMethod,
    Exchange,
    MethodUnknown,
    Presented,
    TokenAuthenticator,
)
from headwater.device.presence import Ended
from headwater.device.principal import Principal
from headwater.errors import DomainError, QuotaExceeded, Unavailable
from headwater.gateway.metering import Meters
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.authorisation import subscribable
from headwater.gateway.mqtt.client_directory import Arrival, ClientDirectory, ClientKey, Word
from headwater.gateway.mqtt.connection import MQTTConnection
from headwater.gateway.mqtt.door import ConnectionRateExceeded, Door
from headwater.gateway.mqtt.figures import Counts
from headwater.gateway.mqtt.happenings import Happenings
from headwater.gateway.mqtt.router import Router
from headwater.gateway.mqtt.sessions import EXPIRY_S_MAX, Sessions
from headwater.gateway.mqtt.wills import as_publish, stored_will
from headwater.gateway.presence import Attendance
from headwater.ids import uuid7
from headwater.ingest.profile_compiled import CompiledProfiles
from headwater.protocols.mqtt.packets import Auth, Connect, Will
from headwater.stream import subjects
from headwater.stream.session_store import StoredWill
from headwater.turns import Turns

log = structlog.get_logger(__name__)

UNDER_WAY_MAX = 64
"""Authentications at once: a storm queues here instead of in PostgreSQL."""
RECHECK_S = 60.0
"""How long a registry event that got lost can stay unnoticed."""
RECHECK_CHUNK = 1_000


class Admission:
    """Every connection of this process that was let in, and the door.

    methods  of enhanced authentication, by name
    forget   what else must hear of a change in the registry: the HTTP listener's remembered credentials
    """

    def __init__(
        self,
        *,
        authentication: Authentication,
        tokens: TokenAuthenticator,
        nats: Client,
        attendance: Attendance,
        happenings: Happenings,
        router: Router,
        sessions: Sessions,
        directory: ClientDirectory,
        profiles: CompiledProfiles,
        meters: Meters,
        forget: Callable[[UUID], None],
        door: Door,
        methods: Iterable[EnhancedMethod] = (),
    ) -> None:  # fmt: skip
        self._authentication = authentication
        self._tokens = tokens
        self._nats = nats
        self._attendance = attendance
        self._happenings = happenings
        self._router = router
        self._sessions = sessions
        self._directory = directory
        self._profiles = profiles
        self._meters = meters
        self._forget = forget
        self._methods = {method.name: method for method in methods}
        self._door = door
        self._slots = asyncio.Semaphore(UNDER_WAY_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_client: dict[ClientKey, MQTTConnection] = {}
        self._by_device: dict[UUID, dict[MQTTConnection, None]] = {}
        """in the order of their epochs: most have one, and the anonymous device every connection there is"""
        self._entering = Turns[ClientKey]()
        """connections of one client come in one after another"""
        self._endings: dict[ClientKey, asyncio.Task[None]] = {}
        self._epoch = 0
        self.refused_total = 0
        sessions.end_local = self.end_local
        directory.here, directory.overtaken = self._here, self._give_way

    # -- coming in ------------------------------------------------------------------------------------------------------

    def admit(self, connection: MQTTConnection) -> None:
        self._spawn(self._admit(connection))

    async def _admit(self, connection: MQTTConnection) -> None:
        connect = connection.connect
        assert connect is not None
        presented = Presented(connect.username, connect.password, connection.certificate_der)
        try:
            if connection.session.authentication_method is None:
                with self._door.asking(connection, presented):
                    async with self._slots:
                        principal = await self._authentication.authenticate(presented)
                await self._let_in(connection, connect, principal, None)
            else:
                with self._door.asking(connection, presented, conclusive=False):
                    connection.authentication = self._begin(connection, presented)
                    await self._step(connection, connect.properties.authentication_data)
        except Exception as error:  # the top of a task: nobody else would answer this client
            self._refuse(connection, error)

    async def _let_in(
        self, connection: MQTTConnection, connect: Connect, principal: Principal, last_word: bytes | None
    ) -> None:
        """Authentication is done. Raises DomainErrors."""
        meter = connection.meter = self._meters.enter(principal.tenant_id, principal.quotas)
        try:
            if meter.connections > principal.quotas.connections_max:
                raise QuotaExceeded("the tenant has no connections left", retry_after_s=60)
            client_id = connect.client_id or uuid7().hex
            async with self._entering.take(_key(principal.tenant_id, client_id)):
                await self._begin_session(connection, connect, client_id, principal, last_word)
        finally:
            if connection.principal is None:
                self._meters.leave(principal.tenant_id)

    async def _begin_session(
        self, connection: MQTTConnection, connect: Connect, client_id: str, principal: Principal, last_word: bytes | None
    ) -> None:
        connection.client_id, connection.client_key = client_id, subjects.client_key(client_id)
        await self.end_local(principal.tenant_id, client_id, None if connect.clean_start else principal.device_id)
        opened = await self._sessions.open(connection, connect, principal, self._will_of(connection, principal))
        if opened.earlier_will is not None:
            self._router.publish_will(principal.tenant_id, opened.earlier_will)
        connection.kept = opened.kept
        if not connection.alive:
            if opened.kept is not None:
                await self._sessions.close(opened.kept, None, _nothing)
            return
        connection.principal, connection.granted = principal, subscribable(principal)
        self._enter(connection, connect, principal)
        self._happenings.connected(connection, resumed=opened.present)
        try:
            await self._router.resume(connection, opened)
        except Exception as error:  # whatever NATS says: the session cannot be served now
            raise Unavailable("the session cannot be resumed now; try again") from error
        if not connection.alive:
            return
        kept = opened.kept
        events = connection.accept(
            session_present=opened.present,
            received=kept.received if kept is not None else (),
            session_expiry_s=_cap(connection.session.session_expiry_s),
            authentication_data=last_word,
        )
        if connection.delivery is not None and connection.alive:
            connection.delivery.resume(opened.messages)
        connection.handle(events)

    def _will_of(self, connection: MQTTConnection, principal: Principal) -> StoredWill | None:
        """What is kept of a will, so that somebody publishes it should this gateway die."""
        will = connection.session.will
        if will is None:
            return None
        return stored_will(will, connection.client_key, principal, self._profiles.get(principal.profile))

    def _refuse(self, connection: MQTTConnection, error: BaseException) -> None:
        self.refused_total += 1
        error = _known(error)
        self._happenings.not_authenticated(connection, error.code, error.detail)
        if not isinstance(error, ConnectionRateExceeded):  # a flood of those is the door's to count
            log.info("connection_refused", code=error.code, detail=error.detail, address=connection.address)
        if connection.alive:
            connection.close_reason = error.detail
            reference = error.fields.get("server_reference")
            connection.session.refuse(
                reasons.reason_of(error), error.detail, reference if isinstance(reference, str) else None
            )
            connection.flush()

    def _enter(self, connection: MQTTConnection, connect: Connect, principal: Principal) -> None:
        connection.arrival = connection.epoch = self._next_epoch()
        key = principal.tenant_id.bytes + connection.client_key
        self._by_client[key] = connection
        self._by_device.setdefault(principal.device_id, {})[connection] = None
        self._directory.came((key, connection.arrival))
        self._say_connected(connection, connect, principal)

    def _say_connected(self, connection: MQTTConnection, connect: Connect, principal: Principal) -> None:
        self._attendance.came(
            principal, connection.epoch, connection.sequence, client_id=connection.client_id,
            protocol=f"mqtt/{connect.protocol_level}", address=connection.address,
        )  # fmt: skip

    def _next_epoch(self) -> int:
        """Rises with every connection: the clock, and never twice the same in one process."""
        self._epoch = max(self._epoch + 1, time.time_ns() // 1000)
        return self._epoch

    # -- enhanced authentication ----------------------------------------------------------------------------------------

    def _begin(self, connection: MQTTConnection, presented: Presented) -> Exchange:
        method = self._methods.get(connection.session.authentication_method or "")
        if method is None:
            raise MethodUnknown("there is no such authentication method here")
        return method.begin(presented)

    async def _step(self, connection: MQTTConnection, data: bytes | None) -> None:
        """One word of the client's. Raises DomainErrors."""
        async with self._slots:
            said = await connection.authentication.answer(data)
        if not connection.alive:
            return
        if isinstance(said, Challenge):
            connection.session.challenge(said.data)
            connection.flush()
            return
        connection.authentication = None
        assert connection.connect is not None
        if connection.principal is None:
            await self._let_in(connection, connection.connect, said.principal, said.data)
        elif said.principal.device_id != connection.principal.device_id:
            raise DeviceRefused("the connection is another device's")
        else:
            connection.session.reauthenticated(said.data)
            connection.flush()

    def authenticate_on(self, connection: MQTTConnection, auth: Auth) -> None:
        """AUTH: the next word before CONNACK, or a new beginning after it (section 4.12.1)."""
        self._spawn(self._authenticate_on(connection, auth))

    async def _authenticate_on(self, connection: MQTTConnection, auth: Auth) -> None:
        try:
            if connection.authentication is None:
                connection.authentication = self._begin(connection, Presented())
            await self._step(connection, auth.properties.authentication_data)
        except (DomainError, *AWAY) as error:
            if connection.principal is None:
                self._refuse(connection, error)
                return
            known = _known(error)
            self._happenings.not_authenticated(connection, known.code, known.detail)
            connection.close(reasons.NOT_AUTHORISED, known.detail, Ended.AUTHENTICATION_FAILED)

    # -- going ----------------------------------------------------------------------------------------------------------

    def leave(self, connection: MQTTConnection) -> None:
        """It has ended: the will, the subscriptions, the session, the presence. Safe to call again."""
        principal = connection.principal
        if principal is None or connection.has_left:
            return
        connection.has_left = True
        key = principal.tenant_id.bytes + connection.client_key
        if self._by_client.get(key) is connection:
            del self._by_client[key]
        self._directory.left((key, connection.arrival))
        self._end_session(connection, key)
        self._router.leave(connection)
        self._meters.leave(principal.tenant_id)
        self._say_left(connection, principal)
        self._happenings.ended(connection)

    def _end_session(self, connection: MQTTConnection, key: ClientKey) -> None:
        will = connection.session.will
        publish = partial(_publish_will, connection, will) if will is not None else _nothing
        if connection.kept is None:
            publish()
            return
        stored = connection.kept.record.will if will is not None else None
        if stored is None:
            publish()  # what is denied is told, too
        if stored is not None and connection.is_resumed is not None:
            # The client is back: its will goes now where that ends the session, and with a delay else not at all
            # [MQTT-3.1.3-9], section 3.1.3.2.2.
            if not connection.is_resumed:
                stored = msgspec.structs.replace(stored, delay_s=0)
            elif stored.delay_s:
                stored = None
        ending = asyncio.get_running_loop().create_task(self._sessions.close(connection.kept, stored, publish))
        self._endings[key] = ending
        ending.add_done_callback(partial(self._session_ended, key))

    def _session_ended(self, key: ClientKey, ending: asyncio.Task[None]) -> None:
        if self._endings.get(key) is ending:
            del self._endings[key]
        if not ending.cancelled() and ending.exception() is not None:
            log.error("session_end_failed", error=repr(ending.exception()))

    async def end_local(self, tenant_id: UUID, client_id: str, heir: UUID | None) -> None:
        """End this gateway's connection of a client, if there is one, and wait until its session is written down.

        heir  the device that wants to go on with the session; None = a clean start ends it
        """
        key = _key(tenant_id, client_id)
        older = self._by_client.get(key)
        if older is not None and older.principal is not None:
            older.is_resumed = heir == older.principal.device_id and older.session.session_expiry_s > 0
            older.close(reasons.SESSION_TAKEN_OVER, "taken over by a new connection")
        ending = self._endings.get(key)
        if ending is not None:
            await asyncio.wait((ending,))

    async def end_all(self) -> None:
        """Returns when every session that was served here is written down."""
        if self._endings:
            await asyncio.wait(list(self._endings.values()))
        self._sessions.stop()

    def _say_left(self, connection: MQTTConnection, principal: Principal) -> None:
        others = self._by_device[principal.device_id]
        del others[connection]
        if not others:
            del self._by_device[principal.device_id]
        connection.sequence += 1
        if not others:
            self._attendance.left(
                principal, connection.epoch, connection.sequence,
                reason=connection.ended or Ended.CONNECTION_LOST, detail=connection.close_reason,
            )  # fmt: skip
            return
        heir = next(reversed(others))
        if heir.epoch < connection.epoch:
            # It goes on where this one stopped: its last word must count more than this one's first.
            heir.epoch, heir.sequence = connection.epoch, max(connection.sequence, heir.sequence)

    async def say_again(self) -> None:
        """Every device that is here is connected, whatever a worker said. Its word stood one behind our last."""
        devices = list(self._by_device)
        for start in range(0, len(devices), RECHECK_CHUNK):
            for device_id in devices[start : start + RECHECK_CHUNK]:
                connection = next(reversed(self._by_device.get(device_id, {})), None)
                if connection is not None and connection.connect is not None and connection.principal is not None:
                    connection.sequence += 2
                    self._say_connected(connection, connection.connect, connection.principal)
            await asyncio.sleep(0)

    # -- what others say ------------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Subscribe to changes of the registry."""

        async def changed(message: Any) -> None:
            _, _, tenant, noun, identifier = message.subject.split(".")
            self._forget(UUID(identifier))
            await self.recheck(self._affected(UUID(tenant), noun, UUID(identifier)))

        await self._nats.subscribe(f"{subjects.REGISTRY}.>", cb=changed)

    def _here(self) -> Iterable[Word]:
        return ((key, connection.arrival) for key, connection in self._by_client.items())

    def _give_way(self, key: ClientKey, arrival: Arrival) -> None:
        """A newer connection of the client has come to another gateway."""
        mine = self._by_client.get(key)
        if mine is not None and mine.arrival < arrival:
            mine.close(reasons.SESSION_TAKEN_OVER, "taken over by a new connection")

    def _affected(self, tenant_id: UUID, noun: str, identifier: UUID) -> list[MQTTConnection]:
        if noun == "device":
            return list(self._by_device.get(identifier, ()))
        connections = [c for c in self._by_client.values() if c.tenant_id == tenant_id]
        if noun == "profile":
            return [c for c in connections if c.principal is not None and c.principal.profile.profile_id == identifier]
        if noun == "credential":
            return [c for c in connections if c.principal is not None and c.principal.credential_id == identifier]
        return connections if noun == "tenant" else []

    async def recheck_for_ever(self) -> None:
        """Registry events are fire and forget; this bounds how long a lost one matters."""
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                await self.recheck(list(self._by_client.values()))
            except AWAY as error:
                log.warning("recheck_failed", error=repr(error))

    async def recheck(self, connections: list[MQTTConnection]) -> None:
        """Ask the registry again: end what may no longer be here, give the rest its new profile and quotas."""
        for start in range(0, len(connections), RECHECK_CHUNK):
            chunk = [c for c in connections[start : start + RECHECK_CHUNK] if c.principal is not None]
            ids = [c.principal.credential_id for c in chunk if c.principal is not None]
            rows = await self._tokens.lookup(ids)
            for connection in chunk:
                assert connection.principal is not None
                self._recheck_one(connection, rows.get(connection.principal.credential_id))

    def _recheck_one(self, connection: MQTTConnection, row: Any) -> None:
        assert connection.principal is not None
        try:
            if row is None:
                raise DeviceRefused("the device or its credential was deleted")
            principal = self._tokens.principal(row, connection.principal.credential_id)
        except (DeviceRefused, DeviceSuspended) as error:
            connection.close(reasons.ADMINISTRATIVE, error.detail)
            return
        if principal != connection.principal:
            connection.principal = principal
            connection.granted = subscribable(principal)
            connection.forget_routes()
            self._meters.update(principal.tenant_id, principal.quotas)
            if not self._router.may_keep(connection):
                connection.close(reasons.ADMINISTRATIVE, "the profile no longer allows one of its subscriptions")

    # -- upkeep ---------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[bytes, Counts]:
        """For $SYS: connections, messages received and sent."""
        return {
            tenant_id.bytes: (meter.connections, meter.received_total, self._router.sent(tenant_id))
            for tenant_id, meter in self._meters.each()
        }

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _key(tenant_id: UUID, client_id: str) -> ClientKey:
    return tenant_id.bytes + subjects.client_key(client_id)


def _publish_will(connection: MQTTConnection, will: Will) -> None:
    connection.publishing.publish(as_publish(will))


def _known(error: BaseException) -> DomainError:
    """As it may be told."""
    if isinstance(error, DomainError):
        return error
    log.warning("authentication_unavailable", error=repr(error), exc_info=None if isinstance(error, AWAY) else error)
    return Unavailable("the registry does not answer; try again")


def _nothing() -> None:
    """There is no will."""


def _cap(session_expiry_s: int) -> int | None:
    """What CONNACK says of the session's lifetime: nothing where it is what the client asked for."""
    return EXPIRY_S_MAX if session_expiry_s > EXPIRY_S_MAX else None

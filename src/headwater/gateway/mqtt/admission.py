"""Who comes in, who must go: authentication, take-over, presence, wills, and what the registry has changed meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import msgspec
import structlog
from nats.aio.client import Client

from headwater.database.away import AWAY
from headwater.device.authentication import Authentication, DeviceRefused, DeviceSuspended, Presented, TokenAuthenticator
from headwater.device.presence import Ended
from headwater.device.principal import Principal
from headwater.errors import DomainError, QuotaExceeded, Unavailable
from headwater.gateway.metering import Meters
from headwater.gateway.mqtt import reasons
from headwater.gateway.mqtt.authorisation import subscribable
from headwater.gateway.mqtt.connection import MQTTConnection
from headwater.gateway.mqtt.router import Router
from headwater.gateway.presence import Attendance
from headwater.ids import uuid7
from headwater.protocols.mqtt.packets import Connect, Publish, Will
from headwater.protocols.mqtt.properties import EMPTY, Properties
from headwater.stream import subjects

log = structlog.get_logger(__name__)

UNDER_WAY_MAX = 64
"""Authentications at once: a storm queues here instead of in PostgreSQL."""
RECHECK_S = 60.0
"""How long a registry event that got lost can stay unnoticed."""
RECHECK_CHUNK = 1_000


class Admission:
    """Every connection of this process that was let in, and the door.

    forget  what else must hear of a change in the registry: the HTTP listener's remembered credentials
    """

    def __init__(
        self,
        *,
        authentication: Authentication,
        tokens: TokenAuthenticator,
        nats: Client,
        attendance: Attendance,
        router: Router,
        meters: Meters,
        gateway_id: UUID,
        forget: Callable[[UUID], None],
    ) -> None:  # fmt: skip
        self._authentication = authentication
        self._tokens = tokens
        self._nats = nats
        self._attendance = attendance
        self._router = router
        self._meters = meters
        self._gateway_id = gateway_id
        self._forget = forget
        self._slots = asyncio.Semaphore(UNDER_WAY_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_client: dict[tuple[UUID, str], MQTTConnection] = {}
        self._by_device: dict[UUID, list[MQTTConnection]] = {}
        self._epoch = 0
        self.refused_total = 0

    # -- coming in ------------------------------------------------------------------------------------------------------

    def admit(self, connection: MQTTConnection) -> None:
        self._spawn(self._admit(connection))

    async def _admit(self, connection: MQTTConnection) -> None:
        connect = connection.connect
        assert connect is not None
        try:
            async with self._slots:
                principal = await self._authentication.authenticate(
                    Presented(username=connect.username, password=connect.password)
                )
            meter = self._meters.enter(principal.tenant_id, principal.quotas)
            if meter.connections > principal.quotas.connections_max:
                self._meters.leave(principal.tenant_id)
                raise QuotaExceeded("the tenant has no connections left", retry_after_s=60)
        except DomainError as error:
            self._refuse(connection, error)
            return
        except AWAY as error:
            log.warning("authentication_unavailable", error=repr(error))
            self._refuse(connection, Unavailable("the registry does not answer; try again"))
            return
        if not connection.alive:
            self._meters.leave(principal.tenant_id)
            return
        client_id = connect.client_id or uuid7().hex
        self._enter(connection, connect, client_id, principal)
        connection.admitted(principal, meter, subscribable(principal), client_id)

    def _refuse(self, connection: MQTTConnection, error: DomainError) -> None:
        self.refused_total += 1
        log.info("connection_refused", code=error.code, detail=error.detail, address=connection.address)
        if connection.alive:
            connection.close_reason = error.detail
            connection.session.refuse(reasons.reason_of(error), error.detail)
            connection.flush()

    def _enter(self, connection: MQTTConnection, connect: Connect, client_id: str, principal: Principal) -> None:
        connection.epoch = self._next_epoch()
        key = (principal.tenant_id, client_id)
        older = self._by_client.get(key)
        self._by_client[key] = connection
        self._by_device.setdefault(principal.device_id, []).append(connection)
        if older is not None:
            older.close(reasons.SESSION_TAKEN_OVER, "taken over by a new connection")
        announcement = (principal.tenant_id.bytes, client_id, connection.epoch, self._gateway_id.bytes)
        self._spawn(self._announce(msgspec.msgpack.encode(announcement)))
        self._say_connected(connection, connect, client_id, principal)

    def _say_connected(self, connection: MQTTConnection, connect: Connect, client_id: str, principal: Principal) -> None:
        self._attendance.came(
            principal, connection.epoch, connection.sequence, client_id=client_id,
            protocol=f"mqtt/{connect.protocol_level}", address=connection.address,
        )  # fmt: skip

    def _next_epoch(self) -> int:
        """Rises with every connection: the clock, and never twice the same in one process."""
        self._epoch = max(self._epoch + 1, time.time_ns() // 1000)
        return self._epoch

    # -- going ----------------------------------------------------------------------------------------------------------

    def closed(self, connection: MQTTConnection) -> None:
        """The socket is gone: the will, the subscriptions, the presence."""
        principal = connection.principal
        if principal is None:
            return
        key = (principal.tenant_id, connection.session.client_id)
        if self._by_client.get(key) is connection:
            del self._by_client[key]
        others = self._by_device[principal.device_id]
        others.remove(connection)
        if not others:
            del self._by_device[principal.device_id]
        will = connection.session.will
        if will is not None:
            connection.publish(Publish(topic=will.topic, payload=will.payload, qos=will.qos, properties=_message_part(will)))
        self._router.leave(connection)
        self._meters.leave(principal.tenant_id)
        connection.sequence += 1
        if not others:
            self._attendance.left(
                principal, connection.epoch, connection.sequence,
                reason=connection.ended or Ended.CONNECTION_LOST, detail=connection.close_reason,
            )  # fmt: skip
            return
        heir = max(others, key=_epoch)
        if heir.epoch < connection.epoch:
            # It goes on where this one stopped: its last word must count more than this one's first.
            heir.epoch, heir.sequence = connection.epoch, max(connection.sequence, heir.sequence)

    async def say_again(self) -> None:
        """Every device that is here is connected, whatever a worker said. Its word stood one behind our last."""
        devices = list(self._by_device)
        for start in range(0, len(devices), RECHECK_CHUNK):
            for device_id in devices[start : start + RECHECK_CHUNK]:
                connection = max(self._by_device.get(device_id, ()), key=_epoch, default=None)
                if connection is not None and connection.connect is not None and connection.principal is not None:
                    connection.sequence += 2
                    self._say_connected(connection, connection.connect, connection.session.client_id, connection.principal)
            await asyncio.sleep(0)

    # -- what others say ------------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Subscribe to take-overs on other gateways and to changes of the registry."""

        async def taken_over(message: Any) -> None:
            tenant, client_id, epoch, gateway = msgspec.msgpack.decode(message.data)
            mine = self._by_client.get((UUID(bytes=tenant), client_id))
            if gateway != self._gateway_id.bytes and mine is not None and mine.epoch < epoch:
                mine.close(reasons.SESSION_TAKEN_OVER, "taken over by a new connection")

        async def changed(message: Any) -> None:
            _, _, tenant, noun, identifier = message.subject.split(".")
            self._forget(UUID(identifier))
            await self.recheck(self._affected(UUID(tenant), noun, UUID(identifier)))

        await self._nats.subscribe(subjects.GATEWAY_CONNECTED, cb=taken_over)
        await self._nats.subscribe(f"{subjects.REGISTRY}.>", cb=changed)

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

    # -- upkeep ---------------------------------------------------------------------------------------------------------

    def connections(self) -> Iterable[MQTTConnection]:
        return list(self._by_client.values())

    async def _announce(self, announcement: bytes) -> None:
        try:
            await self._nats.publish(subjects.GATEWAY_CONNECTED, announcement)
        except Exception as error:  # NATS is away: the older connection ends when its keep-alive does
            log.info("announce_failed", error=repr(error))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _message_part(will: Will) -> Properties | None:
    """A will's properties, without the one that says when to publish it."""
    return msgspec.structs.replace(will.properties, will_delay_s=None) if will.properties is not EMPTY else None


def _epoch(connection: MQTTConnection) -> int:
    return connection.epoch

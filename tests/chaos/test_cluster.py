"""Everything on its own: three NATS servers, two gateways, two workers, an API server, a PostgreSQL elsewhere.

Killed under load: the leader of UPLINK, gateways and workers; and roles start while a server of NATS is away.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nats.errors
import nats.js.errors
import pytest

from headwater.app import settings
from headwater.app.connections import connect_nats
from headwater.app.engines.ports import free_port
from headwater.app.role_programs import prefixed
from headwater.app.settings import Settings
from headwater.database import roles
from headwater.stream.topology import DEAD_STREAM, LIVE_STREAM, MESSAGE_STREAM, UPLINK_STREAM
from tests.chaos.account import settle
from tests.chaos.devices import Fleet, fleet
from tests.chaos.roles import Role
from tests.chaos.world import headwater, register, what_they_said
from tests.support.balancer import balancer
from tests.support.engines import TestPostgres, in_a_loop_of_its_own, postgres_server
from tests.support.nats_cluster import SERVERS, Cluster, nats_cluster

LANES = PARTITIONS = 64
"""As in production."""
DATABASE_CONNECTIONS = 300
"""One a lane and one a partition, and as many while they change hands; pools."""
STREAMS = (UPLINK_STREAM, DEAD_STREAM, LIVE_STREAM, MESSAGE_STREAM)
FORMED_S = 60.0
ROUND_MESSAGES = 1_000


@dataclass(frozen=True)
class Site:
    cluster: Cluster
    roles: dict[str, Role]
    settings: Settings
    fleet: Fleet

    async def leader(self) -> str:
        """Of UPLINK, as soon as there is one and all its replicas are current."""
        client = await connect_nats(self.settings.nats, name="headwater chaos")
        try:
            async with asyncio.timeout(FORMED_S):
                while True:
                    try:
                        group = (await client.jetstream().stream_info(UPLINK_STREAM)).cluster
                    except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                        group = None
                    replicas = (group and group.replicas) or []
                    if group and group.leader and len(replicas) == SERVERS - 1 and all(r.current for r in replicas):
                        return group.leader
                    await asyncio.sleep(0.2)
        finally:
            await client.close()

    async def replicas(self) -> dict[str, int]:
        client = await connect_nats(self.settings.nats, name="headwater chaos")
        try:
            return {info.config.name: info.config.num_replicas for info in await client.jetstream().streams_info()}
        finally:
            await client.close()


@pytest.fixture
def database_server() -> Iterator[TestPostgres]:
    with postgres_server(max_connections=DATABASE_CONNECTIONS) as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_cluster_loses_a_leader_a_gateway_and_a_worker(directory, database_server):
    async with site(directory, database_server) as it:
        await kill_the_leader(it)

        it.roles["gateway-1"].kill()
        it.roles["worker-1"].kill()
        await it.fleet.acknowledges(ROUND_MESSAGES)

        # Another server is away while they come back.
        it.cluster.members[await it.leader()].kill()
        away = [member for member in it.cluster.members.values() if member.process.poll() is not None]
        await asyncio.gather(it.roles["gateway-1"].start(), it.roles["worker-1"].start())
        it.roles["gateway-0"].kill()
        it.roles["worker-0"].kill()
        await it.fleet.acknowledges(ROUND_MESSAGES)
        for member in away:
            member.start()
        await it.roles["worker-0"].start()
        await it.roles["gateway-0"].start()

        await kill_the_leader(it)
        await it.fleet.finish()
        await settle(it.settings, it.fleet)
        assert await it.replicas() == dict.fromkeys(STREAMS, SERVERS)
        assert [role.stop() for role in it.roles.values()] == [0] * len(it.roles)


async def kill_the_leader(it: Site) -> None:
    leader = it.cluster.members[await it.leader()]
    leader.kill()
    await it.fleet.acknowledges(ROUND_MESSAGES)
    leader.start()
    await it.leader()


@asynccontextmanager
async def site(directory: Path, database_server: TestPostgres) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(nats_cluster())
        database = in_a_loop_of_its_own(database_server.create("template0"))
        made = made_settings(cluster, database_server, database)
        environment = environment_of(made)
        owner = prefixed({"DATABASE_OWNER_URL": made.database.owner_url})
        await headwater("migrate", environment=environment | owner)
        access = json.loads(await headwater("person", "first", environment=environment))

        running = roles_of(environment, made, directory)
        for role in running.values():
            stack.callback(role.kill)
        await asyncio.gather(*(role.start() for role in running.values()))
        url = f"http://127.0.0.1:{made.api.http_port}"
        credentials = await register(directory, url, access["admin_token"])
        ports = [int(role.environment["HEADWATER_GATEWAY_MQTT_PORT"]) for role in running.values() if role.role == "gateway"]
        port = await stack.enter_async_context(balancer(ports))
        devices = await stack.enter_async_context(fleet(port, credentials))
        await devices.acknowledges(ROUND_MESSAGES)
        try:
            yield Site(cluster, running, made, devices)
        except BaseException as error:
            error.add_note(what_they_said(directory))
            raise


def made_settings(cluster: Cluster, database_server: TestPostgres, database: str) -> Settings:
    """As an operator would write them, with passwords that are not set yet: `headwater migrate` does that."""
    given = settings.read({})
    passwords = {role: secrets.token_urlsafe(24) for role in roles.ROLES}
    app, writer, operator = (database_server.server.url(role, passwords[role], database) for role in roles.ROLES)
    return replace(
        given,
        database=replace(
            given.database, url=app, writer_url=writer, operator_url=operator,
            owner_url=database_server.server.superuser_url(database),
        ),
        nats=cluster.settings(lanes=LANES, partitions=PARTITIONS),
        api=replace(given.api, http_port=free_port(), secret_key=secrets.token_urlsafe(48)),
    )  # fmt: skip


def environment_of(its: Settings) -> dict[str, str]:
    """What all roles share. The owner's URL is not among it."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    return ours | prefixed(
        {
            "DATABASE_URL": its.database.url,
            "DATABASE_WRITER_URL": its.database.writer_url,
            "DATABASE_OPERATOR_URL": its.database.operator_url,
            "NATS_URL": its.nats.url,
            "NATS_USER": its.nats.user,
            "NATS_PASSWORD": its.nats.password,
            "NATS_LANES": str(its.nats.lanes),
            "NATS_PARTITIONS": str(its.nats.partitions),
            "NATS_REPLICAS": str(its.nats.replicas),
            "NATS_UPLINK_BYTES_MAX": str(its.nats.uplink_bytes_max),
            "API_SECRET_KEY": its.api.secret_key,
        }
    )


def roles_of(shared: dict[str, str], its: Settings, directory: Path) -> dict[str, Role]:
    made = {"api": Role("api", "api", shared | prefixed({"API_HTTP_PORT": str(its.api.http_port)}), directory / "api.log")}
    for number in range(2):
        gateway, worker = f"gateway-{number}", f"worker-{number}"
        own = {
            "GATEWAY_NAME": gateway,
            "GATEWAY_MQTT_PORT": str(free_port()),
            "GATEWAY_HTTP_PORT": str(free_port()),
            "GATEWAY_WS_PORT": "0",
            "GATEWAY_LANE": str(number),
        }
        made[gateway] = Role(gateway, "gateway", shared | prefixed(own), directory / f"{gateway}.log")
        made[worker] = Role(worker, "worker", shared | prefixed({"WORKER_NAME": worker}), directory / f"{worker}.log")
    return made

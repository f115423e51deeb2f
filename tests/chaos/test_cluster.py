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
from headwater.stream.topology import (
    DEAD_STREAM,
    LIVE_STREAM,
    MESSAGE_STREAM,
    RETAINED_STREAM,
    SESSION_STREAM,
    TIMELINE_STREAM,
    UPLINK_STREAM,
)
from headwater.testing.bench.installation import METRICS
from headwater.testing.load import Credentials
from tests.chaos.account import settle
from tests.chaos.devices import Fleet, fleet
from tests.chaos.roles import Role
from tests.chaos.sessions import Publisher, Subscriber
from tests.chaos.waiting import until
from tests.chaos.world import DEVICES, headwater, register, what_they_said
from tests.support.balancer import balancer
from tests.support.engines import TestPostgres, in_a_loop_of_its_own, postgres_server
from tests.support.nats_cluster import SERVERS, Cluster, nats_cluster

LANES = PARTITIONS = 64
"""As in production."""
DATABASE_CONNECTIONS = 300
"""One a lane and one a partition, and as many while they change hands; pools."""
STREAMS = (
    UPLINK_STREAM, DEAD_STREAM, LIVE_STREAM, MESSAGE_STREAM, SESSION_STREAM, RETAINED_STREAM, TIMELINE_STREAM,
)  # fmt: skip
FORMED_S = 60.0
ROUND_MESSAGES = 1_000
QUALITIES = (1, 2, 2)
TALK_S = 0.05


@dataclass(frozen=True)
class Site:
    cluster: Cluster
    roles: dict[str, Role]
    settings: Settings
    fleet: Fleet
    talk: Talk

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
        await it.talk.finish()
        await settle(it.settings, it.fleet)
        assert await it.replicas() == dict.fromkeys(STREAMS, SERVERS)
        assert [role.stop() for role in it.roles.values()] == [0] * len(it.roles)


async def kill_the_leader(it: Site) -> None:
    leader = it.cluster.members[await it.leader()]
    leader.kill()
    await it.fleet.acknowledges(ROUND_MESSAGES)
    leader.start()
    await it.leader()


class Talk:
    """Pairs of a publisher and a subscriber with sessions, one of each QoS."""

    def __init__(self, port: int, credentials: list[Credentials]) -> None:
        self._publishers = []
        self._subscribers = []
        for number, qos in enumerate(QUALITIES):
            topic = f"talk/{number}"
            self._publishers.append(Publisher(f"p{number}", port, credentials.pop(), topic=topic, qos=qos))
            self._subscribers.append(Subscriber(f"s{number}", port, credentials.pop(), topic_filter=topic, qos=qos))
        self._clients = [*self._publishers, *self._subscribers]
        self._running = [asyncio.create_task(client.run()) for client in self._clients]
        self._speaking = asyncio.create_task(self._speak())

    async def _speak(self) -> None:
        for subscriber in self._subscribers:
            await subscriber.subscribed.wait()
        while True:
            for publisher in self._publishers:
                publisher.publish()
            await asyncio.sleep(TALK_S)

    async def finish(self) -> None:
        """Everything that was published has come, in its order; at QoS 2 once."""
        self._speaking.cancel()
        pairs = list(zip(self._publishers, self._subscribers, strict=True))

        def missing() -> list[int]:
            return [publisher.sent - len(set(subscriber.got.get(publisher.name, ()))) for publisher, subscriber in pairs]

        await until(lambda: all(p.is_done for p in self._publishers) and not any(missing()), FORMED_S, missing)
        assert not [task.exception() for task in self._running if task.done()]
        for publisher, subscriber in pairs:
            got = subscriber.got[publisher.name]
            assert publisher.sent > 100
            assert list(dict.fromkeys(got)) == list(range(publisher.sent)), "in their order"
            assert publisher.qos == 1 or len(got) == publisher.sent, "once"

    async def stop(self) -> None:
        self._speaking.cancel()
        for client in self._clients:
            client.stop()
        await asyncio.gather(*self._running, self._speaking, return_exceptions=True)


@asynccontextmanager
async def talking(port: int, credentials: list[Credentials]) -> AsyncIterator[Talk]:
    talk = Talk(port, credentials)
    try:
        yield talk
    finally:
        await talk.stop()


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
        profile = {"metrics": METRICS, "publish": ["talk/#"], "subscribe": ["talk/#"]}
        credentials = await register(directory, url, access["admin_token"], DEVICES + 2 * len(QUALITIES), profile)
        talkers = [credentials.popitem()[1] for _ in range(2 * len(QUALITIES))]
        ports = [int(role.environment["HEADWATER_GATEWAY_MQTT_PORT"]) for role in running.values() if role.role == "gateway"]
        port = await stack.enter_async_context(balancer(ports))
        devices = await stack.enter_async_context(fleet(port, credentials))
        talk = await stack.enter_async_context(talking(port, talkers))
        await devices.acknowledges(ROUND_MESSAGES)
        try:
            yield Site(cluster, running, made, devices, talk)
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

"""Three nats-servers that are one: routes between them, JetStream on disk, as docs/guides/grow.md tells to set them up."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from headwater.app.engines import account, nats, postgres
from headwater.app.engines.ports import free_port
from headwater.app.process import die_with_parent
from headwater.app.settings import NATSSettings
from tests.support.engines import scratch_home

SERVERS = 3
ROUTE_USER = "route"
STOP_S = 20


@dataclass
class Member:
    """One server; killed and started again on the same directory."""

    name: str
    argv: tuple[str, ...]
    who: account.Account | None
    log: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.argv, env=postgres.ENVIRONMENT, cwd="/", stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509  # it calls prctl and nothing else
                **(self.who.options if self.who else {}),
            )  # fmt: skip

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_S)


@dataclass(frozen=True)
class Cluster:
    members: dict[str, Member]
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        return ",".join(f"nats://127.0.0.1:{member.port}" for member in self.members.values())

    def settings(self, *, lanes: int, partitions: int) -> NATSSettings:
        return NATSSettings(
            url=self.url, user=nats.USER, password=self.password, lanes=lanes, partitions=partitions, replicas=SERVERS,
            uplink_bytes_max=1 << 30,
        )  # fmt: skip


@contextmanager
def nats_cluster() -> Iterator[Cluster]:
    """Started; whether they have found each other is for the caller to see."""
    who = account.engine_account()
    binary, password = nats.server_binary("", who), secrets.token_urlsafe(24)
    names = [f"n{number}" for number in range(1, SERVERS + 1)]
    client_ports, route_ports = ([free_port() for _ in names] for _ in range(2))
    routes = [f"nats://{ROUTE_USER}:{password}@127.0.0.1:{port}" for port in route_ports]
    with ExitStack() as stack:
        home = stack.enter_context(scratch_home())
        members = {}
        for name, port, route_port in zip(names, client_ports, route_ports, strict=True):
            directory = account.engine_directory(home, name, who)
            file = directory / "server.conf"
            said = _client_side(name, directory, port, password) + _cluster_side(route_port, routes, password)
            account.write_private(file, said, who)
            member = Member(name, (str(binary), "-c", str(file)), who, home / f"{name}.log", port)
            stack.callback(member.kill)
            member.start()
            members[name] = member
        yield Cluster(members, password)


def _client_side(name: str, directory: Path, port: int, password: str) -> str:
    quoted = json.dumps  # NATS's configuration reads JSON strings
    return f"""
listen: "127.0.0.1:{port}"
server_name: {quoted(name)}
max_payload: {nats.PAYLOAD_BYTES_MAX}
max_pending: {nats.PENDING_BYTES_MAX}
authorization {{ user: {quoted(nats.USER)}, password: {quoted(password)} }}
jetstream {{
    store_dir: {quoted(str(directory / "store"))}
    sync_interval: always
    max_file_store: 16GB
}}
"""


def _cluster_side(port: int, routes: list[str], password: str) -> str:
    return f"""
cluster {{
    name: "headwater"
    listen: "127.0.0.1:{port}"
    authorization {{ user: {ROUTE_USER}, password: {json.dumps(password)} }}
    routes: {json.dumps(routes)}
}}
"""

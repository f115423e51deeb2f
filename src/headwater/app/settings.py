"""Settings: one frozen class per concern, read once from `HEADWATER_*` environment variables.

The unit is in the name. `headwater up` sets the same variables for its children that an operator sets by hand.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

from headwater.errors import DomainError
from headwater.stream.topology import GIB, Topology

PREFIX = "HEADWATER_"
PRIVATE_NETWORKS = "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"
COMMANDS_OWN = ("HEADWATER_HOME", "HEADWATER_URL", "HEADWATER_TOKEN")
"""Variables that options of commands read."""


class Range(NamedTuple):
    """What a number may be, both ends included."""

    least: float
    most: float


Port = Annotated[int, Range(0, 65_535)]
Bound = Annotated[int, Range(0, 1 << 31)]
"""0 = none"""
Switch = Annotated[int, Range(0, 1)]
Interval = Annotated[float, Range(0.01, 86_400)]
Lanes = Annotated[int, Range(1, 1_024)]


class SettingsInvalid(DomainError):
    code = "settings.invalid"


class AnonymousNotLoopback(DomainError):
    """Who needs no credential must at least be on this machine."""

    code = "settings.anonymous_not_loopback"


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """HEADWATER_DATABASE_*"""

    url: str = ""
    """of the plain role headwater_app; every role needs it"""
    writer_url: str = ""
    """of headwater_writer; workers need it"""
    operator_url: str = ""
    """of headwater_operator; API servers need it for the platform operator's plane"""
    owner_url: str = ""
    """of the owner of the schema; only `headwater migrate` needs it"""
    pool_size_max: Annotated[int, Range(1, 1_000)] = 8
    """connections of one process to PostgreSQL; a worker has one for each of its lanes and partitions besides"""


@dataclass(frozen=True, slots=True)
class NATSSettings:
    """HEADWATER_NATS_*"""

    url: str = ""
    """one or several, separated by commas"""
    user: str = ""
    """with the password; both empty where NATS asks for none"""
    password: str = field(default="", repr=False)
    lanes: Lanes = 4
    """so many subjects for record batches, each written by the gateways of that lane and read by one worker at a time; fixed
    with the stream"""
    partitions: Lanes = 4
    """the same for what says whether devices are connected; fixed with the stream"""
    replicas: Annotated[int, Range(1, 5)] = 1
    """servers that have each message: 3 in a cluster of three"""
    uplink_bytes_max: Annotated[int, Range(1 << 20, 1 << 60)] = 8 * GIB
    """the backlog that fits while PostgreSQL is away, on each server; beyond it devices are not acknowledged"""

    @property
    def servers(self) -> list[str]:
        return [u.strip() for u in self.url.split(",") if u.strip()]

    @property
    def topology(self) -> Topology:
        return Topology(
            lanes=self.lanes,
            partitions=self.partitions,
            replicas=self.replicas,
            uplink_bytes_max=self.uplink_bytes_max,
        )


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """HEADWATER_GATEWAY_*"""

    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """in logs, and to NATS"""
    host: str = "127.0.0.1"
    """the address that all ports of devices listen on; 0.0.0.0 = all of IPv4, empty = all"""
    mqtt_port: Port = 1883
    """MQTT over TCP; 0 = off, as for the next three. Several processes may have the same ports"""
    mqtts_port: Port = 8883
    """MQTT over TLS; off without a certificate"""
    ws_port: Port = 8083
    """MQTT over WebSocket, at /mqtt"""
    wss_port: Port = 8084
    """the same over TLS; off without a certificate"""
    http_port: Port = 8081
    """HTTP ingest, and /v1/health"""
    lane: Annotated[int, Range(-1, 1_023)] = -1
    """which lane this process writes; -1 = by its name"""
    connections_max: Bound = 200_000
    """MQTT connections of this process, however many files it may open; beyond it MQTT 5 hears 0x9C with SERVER_REFERENCE,
    where one is set, else 0x89, and an older client 3. 0 = no limit"""
    tls_cert_file: str = ""
    """PEM chain for MQTT over TLS and the HTTPS ingest; without it the ingest is plain HTTP, meant for loopback or behind a
    proxy that ends TLS. The MQTT ports take a renewed one within a minute, or at SIGHUP; the ingest at its next start"""
    tls_key_file: str = ""
    """empty = in the same file"""
    mqtts_cert_file: str = ""
    """for MQTT only, instead of TLS_CERT_FILE"""
    mqtts_key_file: str = ""
    """empty = in the same file"""
    tls_client_ca_file: str = ""
    """PEM of the authorities whose certificates devices must show over MQTT; empty = they show none"""
    proxy_protocol: Switch = 0
    """1 = every MQTT connection begins with a PROXY header, version 2, of a load balancer"""
    proxy_networks: str = PRIVATE_NETWORKS
    """of the balancers whose PROXY header is believed; whoever else connects is refused"""
    connects_per_s: Bound = 2_000
    """new MQTT connections that one process accepts; in a storm the rest wait in the kernel. 0 = no limit, as for the next
    three"""
    connecting_max: Bound = 1_024
    """MQTT connections without CONNECT; in a flood those that take longer than 3 s make room"""
    address_connects_per_s: Bound = 1_000
    """new MQTT connections of one address (of IPv6: of one /64); many devices may stand behind one router"""
    address_connecting_max: Bound = 256
    """MQTT connections of one address without CONNECT"""
    exempt_networks: str = ""
    """networks whose addresses are not limited, and not paused after failed authentications"""
    keep_alive_s_max: Annotated[int, Range(1, 1_200)] = 1_200
    """what MQTT 5 clients that ask for a longer keep-alive, or for none, are told to use"""
    server_reference: str = ""
    """where MQTT 5 clients are told to go (`host` or `host:port`) when this gateway is full or stops"""
    authentication_methods: str = ""
    """enhanced authentication of MQTT 5: `package.module:factory`, several separated by commas; a factory gets the gateway's
    Authentication and returns a headwater.device.authentication.EnhancedMethod"""
    anonymous_tenant: str = ""
    """slug of the tenant whose every topic is open over MQTT without a credential: for tests and first tries, on loopback
    only; `headwater up --dev-anonymous` says its first tenant's"""
    metrics_port: Port = 0
    """Prometheus text on 127.0.0.1; 0 = off"""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """HEADWATER_WORKER_*"""

    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """in logs, and to NATS"""
    rollup_interval_s: Interval = 20.0
    """how often aggregates are brought up to date"""
    maintenance_interval_s: Interval = 60.0
    """how often it is looked for what has grown too old"""
    timeline_days: Annotated[int, Range(1, 36_500)] = 30
    """how long the timelines of devices, and attempts to connect of strangers, are kept"""
    nice: Annotated[int, Range(0, 19)] = 0
    """0 to 19: how far it leaves the processor to others; `headwater up` says 10, so that devices come first"""
    metrics_port: Port = 0
    """Prometheus text on 127.0.0.1; 0 = off"""


@dataclass(frozen=True, slots=True)
class APISettings:
    """HEADWATER_API_*"""

    host: str = "127.0.0.1"
    """the address of REST API, documentation and console"""
    http_port: Port = 8080
    """HTTP; TLS is a proxy's"""
    secret_key: str = field(default="", repr=False)
    """signs access tokens and cursors: at least 32 random bytes as text, the same on every API server"""
    public_url: str = ""
    """how people reach us, when it is not http://host:port"""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """HEADWATER_ENGINE_*: where `headwater up` finds the engines that it runs itself"""

    postgres_bin_dir: str = ""
    """the directory of `initdb` and `postgres`; empty = the wheel's"""
    nats_server_path: str = ""
    """empty = `nats-server` on PATH, or the wheel's"""
    user: str = ""
    """as whom they run when we are root; empty = the first of headwater, postgres, nobody"""


@dataclass(frozen=True, slots=True)
class Settings:
    database: DatabaseSettings
    nats: NATSSettings
    gateway: GatewaySettings
    worker: WorkerSettings
    api: APISettings
    engine: EngineSettings = field(default_factory=EngineSettings)
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING, ERROR or CRITICAL"""
    log_format: str = "json"
    """json, or console for people"""


_Group = TypeVar("_Group", DatabaseSettings, NATSSettings, GatewaySettings, WorkerSettings, APISettings, EngineSettings)
GROUPS: Mapping[str, type[Any]] = {
    "DATABASE_": DatabaseSettings,
    "NATS_": NATSSettings,
    "GATEWAY_": GatewaySettings,
    "WORKER_": WorkerSettings,
    "API_": APISettings,
    "ENGINE_": EngineSettings,
}
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMATS = ("json", "console")
ALIKE = 0.85
"""From here on two names are one name with a slip; other programs may have variables that begin as ours do."""


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises SettingsInvalid, which names the variable."""
    return Settings(
        database=_group(DatabaseSettings, "DATABASE_", environ),
        nats=_group(NATSSettings, "NATS_", environ),
        gateway=_group(GatewaySettings, "GATEWAY_", environ),
        worker=_group(WorkerSettings, "WORKER_", environ),
        api=_group(APISettings, "API_", environ),
        engine=_group(EngineSettings, "ENGINE_", environ),
        log_level=_one_of(LEVELS, "LOG_LEVEL", environ.get(PREFIX + "LOG_LEVEL", "INFO").upper()),
        log_format=_one_of(FORMATS, "LOG_FORMAT", environ.get(PREFIX + "LOG_FORMAT", "json")),
    )


def variables() -> Iterator[str]:
    """Every one that is read."""
    for prefix, group in GROUPS.items():
        for setting in dataclasses.fields(group):
            yield f"{PREFIX}{prefix}{setting.name.upper()}"
    yield from (PREFIX + "LOG_LEVEL", PREFIX + "LOG_FORMAT", *COMMANDS_OWN)


def misspelt(environ: Mapping[str, str] = os.environ) -> list[str]:
    """A sentence for each variable that nothing reads and that is written nearly like one of ours."""
    known = set(variables())
    strange = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    meant = {name: difflib.get_close_matches(name, known, n=1, cutoff=ALIKE) for name in strange}
    return [f"{name} is not a setting; {close[0]} is" for name, close in meant.items() if close]


def _one_of(values: tuple[str, ...], name: str, given: str) -> str:
    if given not in values:
        raise SettingsInvalid(f"{PREFIX}{name} must be one of {', '.join(values)}, not {given!r}")
    return given


def _group(group: type[_Group], prefix: str, environ: Mapping[str, str]) -> _Group:
    hints = get_type_hints(group, include_extras=True)
    values: dict[str, object] = {}
    for setting in dataclasses.fields(group):
        variable = PREFIX + prefix + setting.name.upper()
        text = environ.get(variable)
        if text is not None:
            values[setting.name] = _value(variable, text, hints[setting.name])
    return group(**values)  # type: ignore[arg-type]  # names and types come from the class's own fields


def _value(variable: str, text: str, hint: Any) -> object:
    if hint is str:
        return text
    number, allowed = hint.__origin__, hint.__metadata__[0]
    try:
        value = number(text)
    except ValueError as error:
        raise SettingsInvalid(f"{variable} must be a number ({number.__name__}), not {text!r}") from error
    if not allowed.least <= value <= allowed.most:  # not a number is not between them either
        raise SettingsInvalid(f"{variable} must be from {allowed.least:,} to {allowed.most:,}, not {text}")
    return value


def require_loopback(host: str, said_by: str) -> None:
    """Raises AnonymousNotLoopback where somebody on another machine could reach a listener on `host`.

    said_by  the option or the variable, for the person who reads it
    """
    try:
        addresses = [found[4][0] for found in socket.getaddrinfo(host, None)] if host else []
    except OSError as error:
        raise SettingsInvalid(f"{said_by}: there is no host {host!r}") from error
    if not addresses or not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        raise AnonymousNotLoopback(
            f"anonymous access is for this machine only, and {said_by} is {host!r}: say 127.0.0.1, or give devices tokens"
        )


def check_anonymous(gateway: GatewaySettings) -> None:
    """Raises AnonymousNotLoopback where a gateway would let in without a credential who is not on this machine."""
    if not gateway.anonymous_tenant:
        return
    require_loopback(gateway.host, "HEADWATER_GATEWAY_HOST")
    if gateway.proxy_protocol:
        raise AnonymousNotLoopback("anonymous access is for this machine only: not behind a balancer that says who comes")


def require(value: str, variable: str) -> str:
    """The value, or an error that says which variable to set."""
    if not value:
        raise SettingsInvalid(f"set {PREFIX}{variable}")
    return value


def networks(text: str, variable: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Separated by commas. Raises SettingsInvalid."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsInvalid(f"{PREFIX}{variable}: {error}") from error

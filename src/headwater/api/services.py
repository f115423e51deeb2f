"""What an API server is built from, and how a noun plugs into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from nats.aio.client import Client
from nats.js import JetStreamContext

from headwater.clock import Clock
from headwater.database.session import Database
from headwater.stream.topology import Topology
from headwater.tenancy.attempts import Attempts
from headwater.tenancy.passwords import Passwords

API_PREFIX = "/api/v1"


@dataclass(frozen=True, slots=True)
class APIServices:
    """secret_key     signs access tokens and cursors; the same on every API server
    public_url        how people reach us; "" = http on host and port
    database          the plain role's view
    operator_pool     of headwater_operator; None = the platform operator's plane answers 503
    nats, jetstream   None where only the API's description is wanted
    topology          of the streams, for what lives in memory and may have to be made again
    passwords         one for the process: it bounds how many hashes are computed at once
    attempts          wrong passwords lately, one count for the process
    """

    secret_key: str = field(repr=False)
    database: Database
    operator_pool: asyncpg.Pool | None
    nats: Client | None
    jetstream: JetStreamContext | None
    clock: Clock
    public_url: str = ""
    topology: Topology = field(default_factory=Topology)
    passwords: Passwords = field(default_factory=Passwords)
    attempts: Attempts = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attempts", Attempts(self.clock))


Built = Mapping[str, Any]
"""parameter name of a handler -> the service that it gets"""


@dataclass(frozen=True, slots=True)
class Noun:
    """One file of the API.

    tag, description   its heading in the API's documentation
    handlers           functions decorated with Litestar's `get`, `post`, ...
    build              makes its services, once, when the app is made
    prefix             below which its paths stand
    lifespan           what must run while the app runs (a subscription, a task), given what `build` made
    """

    tag: str
    description: str
    handlers: tuple[Any, ...]
    build: Callable[[APIServices], Built] = lambda _: {}
    prefix: str = API_PREFIX
    lifespan: Callable[[Built], AbstractAsyncContextManager[None]] | None = None

"""The roles, and the demonstration, as programs for the supervisor."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from headwater.app.program import Program
from headwater.app.settings import PREFIX, Settings

WORKER_NICE = 10
"""On one machine what devices send comes before storing it: the stream holds it meanwhile."""


def environment(settings: Settings) -> dict[str, str]:
    """Ours, with what the roles need to reach the engines. Not the owner's URL: no role may change the schema."""
    database, stream = settings.database, settings.nats
    ours = {name: value for name, value in os.environ.items() if name != PREFIX + "DATABASE_OWNER_URL"}
    return ours | prefixed(
        {
            "DATABASE_URL": database.url,
            "DATABASE_WRITER_URL": database.writer_url,
            "DATABASE_OPERATOR_URL": database.operator_url,
            "NATS_URL": stream.url,
            "NATS_USER": stream.user,
            "NATS_PASSWORD": stream.password,
            "NATS_UPLINK_BYTES_MAX": str(stream.uplink_bytes_max),
            "API_SECRET_KEY": settings.api.secret_key,
            "LOG_FORMAT": "json",
        }
    )


def prefixed(settings: Mapping[str, str]) -> dict[str, str]:
    return {PREFIX + name: value for name, value in settings.items()}


def role(name: str, number: int, environment: Mapping[str, str]) -> Program:
    """The one of this number; every gateway writes a lane of its own."""
    own = {
        "gateway": {"GATEWAY_NAME": f"gateway-{number}", "GATEWAY_LANE": str(number)},
        "worker": {"WORKER_NAME": f"worker-{number}", "WORKER_NICE": str(WORKER_NICE)},
        "api": {},
    }[name]
    return Program(
        name="api" if name == "api" else f"{name}-{number}",
        argv=(sys.executable, "-m", "headwater", "run", name),
        environment={**environment, **prefixed(own)},
    )


def fleet(ready_file: Path, devices: int, environment: Mapping[str, str]) -> Program:
    """Simulated devices, which use nothing but the ready file, like any other client."""

    async def at_once() -> None:
        return

    return Program(
        name="fleet",
        argv=(
            sys.executable, "-m", "headwater.testing.fleet", "--ready-json", str(ready_file), "--devices", str(devices),
        ),
        environment={name: value for name, value in environment.items() if not name.startswith(PREFIX)},
        ready=at_once,
        stop_s=5,
    )  # fmt: skip

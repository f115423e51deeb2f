"""One role as a process: loop, limits, logging, signals, and an exit that says what to do.

Exit codes, after sysexits.h: 78 settings or schema (trying again is of no use), 69 an engine is away, 70 a fault of ours.
"""

from __future__ import annotations

import asyncio
import importlib
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import structlog
import uvloop

from headwater.app import logs
from headwater.app.engine_checks import wait_for_engines
from headwater.app.program import EXIT_CONFIG
from headwater.app.settings import Settings, misspelt, read
from headwater.errors import DomainError, Unavailable

EXIT_UNAVAILABLE = 69
EXIT_SOFTWARE = 70

ROLES = ("gateway", "worker", "api")

Main = Callable[[Settings, asyncio.Event], Awaitable[None]]

log = structlog.get_logger(__name__)


def run_role(role: str) -> int:
    """Until SIGTERM or SIGINT. Returns the exit code."""
    try:
        settings = read()
    except DomainError as error:
        print(f"headwater run {role}: {error.detail} [{error.code}]", file=sys.stderr)  # noqa: T201  # no logging yet
        return EXIT_CONFIG
    name = {"gateway": settings.gateway.name, "worker": settings.worker.name}.get(role, role)
    logs.configure(settings.log_level, settings.log_format, process=name)
    for said in misspelt():
        log.warning("setting_unknown", reason=said)
    files = raise_file_limit()
    log.info("role_starting", role=role, files_max=files)
    try:
        uvloop.run(_serve(role, settings))
    except DomainError as error:
        log.error("role_cannot_run", role=role, code=error.code, reason=error.detail)
        return EXIT_UNAVAILABLE if isinstance(error, Unavailable) else EXIT_CONFIG
    except Exception:
        log.exception("role_failed", role=role)
        return EXIT_SOFTWARE
    log.info("role_stopped", role=role)
    return 0


async def _serve(role: str, settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await wait_for_engines(settings, stop)
    if stop.is_set():
        return
    main: Main = importlib.import_module(f"headwater.app.{role}").run
    await main(settings, stop)


def raise_file_limit() -> int:
    """A socket is a file: as many as we are permitted, and as root as many as the kernel has. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard
    with suppress(OSError, ValueError):
        wanted = max(hard, int(Path("/proc/sys/fs/nr_open").read_text()))
    for limit in (wanted, hard):
        if limit <= soft:
            break
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

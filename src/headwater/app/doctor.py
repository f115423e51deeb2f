"""What is wrong, and what to do about it: for a home, or for the engines that the settings name.

A check returns its finding, or None where all is well; one that fails in a way that nobody foresaw is a finding too.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from nats.js.errors import NotFoundError

from headwater.app.engine_checks import check_nats, connect_database, nats_once
from headwater.app.engines.ports import is_free
from headwater.app.home import Home
from headwater.app.home_settings import read
from headwater.app.probe import answers_http, reach
from headwater.app.settings import Settings, misspelt
from headwater.database.migrate import pending
from headwater.errors import DomainError
from headwater.stream.topology import streams

DISK_FREE_SHARE_MIN = 0.05
DISK_FREE_BYTES_MIN = 2 << 30
"""PostgreSQL stops when its log cannot grow; 2 GiB are a few minutes of a full stream."""
DISK_FREE_BYTES_ENOUGH = 20 << 30
CLOCK_OFF_S_MAX = 2.0
"""Beyond it the times of two machines no longer tell which reading came first."""
SANE_FROM = datetime(2026, 1, 1, tzinfo=UTC)
SANE_TO = datetime(2100, 1, 1, tzinfo=UTC)
FILES_MIN = 4096
"""A gateway needs a file for each connection."""


class Finding(msgspec.Struct, frozen=True):
    code: str
    problem: str
    advice: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined. running: an `up` runs in the home, so its ports are in use rightly."""

    home: Home
    settings: Settings
    running: bool


Check = Callable[[Subject], Awaitable[Finding | None]]


async def examine(home_path: Path) -> list[Finding]:
    home = Home(home_path)
    subject = Subject(home, read(home_path), home.find_up() is not None)
    findings = []
    for check in CHECKS:
        try:
            finding = await check(subject)
        except DomainError as error:
            finding = Finding(error.code, error.detail, ADVICE.get(error.code, "see the message"))
        except Exception as error:  # a doctor that falls over helps nobody
            finding = Finding("doctor.check_failed", f"{check.__name__}: {type(error).__name__}: {error}", "report this")
        if finding is not None and finding not in findings:
            findings.append(finding)
    return findings


ADVICE = {
    "engine.unreachable": "start it, or correct the setting; `headwater up` runs both engines itself",
    "engine.refused": "correct user, password or database name in the setting",
    "settings.invalid": "set it, or name a home in which `headwater up` has run",
}


async def variables(_subject: Subject) -> Finding | None:
    said = misspelt()
    if not said:
        return None
    return Finding("settings.unknown", "; ".join(said), "correct its name: it has no effect as it is")


async def ports(subject: Subject) -> Finding | None:
    """Only where nothing of ours runs: then they should be free for `up`, or for a role."""
    if subject.running:
        return None
    gateway, api = subject.settings.gateway, subject.settings.api
    of_gateway = {
        "--mqtt-port": gateway.mqtt_port,
        "--mqtts-port": gateway.mqtts_port,
        "--ws-port": gateway.ws_port,
        "--wss-port": gateway.wss_port,
        "--ingest-port": gateway.http_port,
    }
    of_api = {"--http-port": api.http_port}
    if _has_engines(subject):  # no home says of a role that runs by itself that it does
        if await answers_http(reach(gateway.host), gateway.http_port, "/v1/health"):
            of_gateway = {}
        if await answers_http(reach(api.host), api.http_port, "/api/v1/health/live"):
            of_api = {}
    taken = {option: port for option, port in (of_gateway | of_api).items() if port and not is_free(port)}
    if not taken:
        return None
    said = ", ".join(f"{port} ({option})" for option, port in taken.items())
    return Finding("port.taken", f"something listens on port {said}", "stop it, or give `headwater up` other ports")


async def children(subject: Subject) -> Finding | None:
    up = subject.home.find_up()
    ill = [child for child in up.children if child.state == "waiting"] if up is not None else []
    if not ill:
        return None
    said = ", ".join(f"{c.name} (exit code {c.last_exit}, {c.restarts} restarts)" for c in ill)
    return Finding("process.failing", f"does not stay up: {said}", f"read its log in {subject.home.logs}")


async def disk(subject: Subject) -> Finding | None:
    path = next(p for p in (subject.home.path, *subject.home.path.parents) if p.exists())
    places = {path.resolve(), *((path / name).resolve() for name in ("postgres", "nats") if (path / name).exists())}
    for place in places:
        usage = shutil.disk_usage(place)
        if usage.free < max(DISK_FREE_BYTES_MIN, min(usage.total * DISK_FREE_SHARE_MIN, DISK_FREE_BYTES_ENOUGH)):
            return Finding(
                "disk.nearly_full",
                f"{usage.free / (1 << 30):.1f} GiB of {usage.total / (1 << 30):.0f} are free at {place}",
                "make room, or shorten the retention of profiles; when it is full, devices are refused",
            )
    return None


async def clock(_subject: Subject) -> Finding | None:
    now = datetime.now(UTC)
    if SANE_FROM <= now <= SANE_TO:
        return None
    return Finding("clock.off", f"this machine says it is {now:%Y-%m-%d %H:%M}", "set the clock; run an NTP client")


async def files(_subject: Subject) -> Finding | None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard >= FILES_MIN:
        return None
    return Finding(
        "limit.files_low",
        f"a process may open {hard} files, so a gateway serves fewer devices than that",
        "raise `nofile` in /etc/security/limits.conf, or LimitNOFILE of the service",
    )


async def database(subject: Subject) -> Finding | None:
    if not _has_engines(subject):
        return None
    connection = await connect_database(subject.settings.database.url, "DATABASE_URL")
    try:
        missing = await pending(connection)
        if missing:
            return Finding(
                "database.not_migrated",
                f"the schema lacks {', '.join(missing)}",
                "run `headwater migrate`, or `headwater up`",
            )
        return await _clock_of(connection)
    finally:
        await connection.close()


async def _clock_of(connection: Any) -> Finding | None:
    before = time.time()
    theirs = (await connection.fetchval("SELECT clock_timestamp()")).timestamp()
    return _compare("PostgreSQL", theirs, before, time.time())


async def stream(subject: Subject) -> Finding | None:
    if not _has_engines(subject):
        return None
    await check_nats(subject.settings.nats)
    async with nats_once(subject.settings.nats) as client:
        jetstream: Any = client.jetstream()
        missing = []
        theirs = before = time.time()
        for config in streams(subject.settings.nats.topology):
            before = time.time()
            try:
                info = await jetstream._api_request(f"{jetstream._prefix}.STREAM.INFO.{config.name}", timeout=5)
                theirs = _unix_time(info["ts"])
            except NotFoundError:
                missing.append(str(config.name))
        if missing:
            return Finding(
                "stream.missing",
                f"NATS lacks the streams {', '.join(missing)}",
                "run `headwater migrate`; a role makes them too",
            )
        return _compare("NATS", theirs, before, time.time())


def _unix_time(text: str) -> float:
    """Of an RFC 3339 time in UTC with any number of decimals."""
    return datetime.fromisoformat(text.rstrip("Z")[:26]).replace(tzinfo=UTC).timestamp()


def _compare(engine: str, theirs: float, before: float, after: float) -> Finding | None:
    """theirs was read between `before` and `after`, all Unix times."""
    off_s = theirs - after if theirs > after else min(0.0, theirs - before)
    if abs(off_s) <= CLOCK_OFF_S_MAX:
        return None
    return Finding(
        "clock.off",
        f"the clock of {engine} is {off_s:+.1f} s from ours",
        "run an NTP client on both machines, and look again",
    )


def _has_engines(subject: Subject) -> bool:
    """A home in which nothing runs has its engines at rest, and a machine without settings has none: no fault."""
    named = subject.settings.database.url or subject.settings.nats.url
    at_rest = subject.home.find_decisions() is not None and not subject.running
    return bool(named) and not at_rest


CHECKS: tuple[Check, ...] = (variables, clock, files, disk, ports, children, database, stream)

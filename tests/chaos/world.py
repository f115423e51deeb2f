"""A whole `headwater up` with devices that send to it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from headwater.app import home_settings
from headwater.app.settings import Settings
from headwater.testing.bench.installation import METRICS, PROFILE
from headwater.testing.load import Credentials, read_credentials
from tests.chaos.devices import Fleet, fleet
from tests.chaos.waiting import until
from tests.support.installation import Installation, installation

DEVICES = 40
BACK_S = 60.0
"""For what was killed to be ready again: back-off, a start, and a log to replay."""

TOLD_CHARACTERS = 3_000
"""Of each log, where a test fails."""


@dataclass(frozen=True, slots=True)
class World:
    up: Installation
    ready: dict[str, Any]
    fleet: Fleet

    @property
    def settings(self) -> Settings:
        return home_settings.read(self.up.home)

    def pid(self, child: str) -> int:
        its = self.up.children()[child]
        assert its["pid"] is not None, its
        return int(its["pid"])

    @contextmanager
    def supervisor_held(self) -> Iterator[None]:
        """Nobody starts again what ends meanwhile."""
        assert self.up.process is not None
        self.up.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.up.process.send_signal(signal.SIGCONT)

    @contextmanager
    def frozen(self, child: str) -> Iterator[None]:
        """It and what it started stand still, with their sockets open."""
        pids = [self.pid(child)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # before its children are listed: it makes no more
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += map(int, children.read_text().split())
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def ready_again(self, child: str, *, after: int) -> None:
        """after  the pid that it had"""

        def back() -> bool:
            its = self.up.children()[child]
            return its["state"] == "ready" and its["pid"] not in {None, after}

        await until(back, BACK_S, lambda: f"{child} is not ready again")

    async def all_ready(self) -> None:
        def ready() -> bool:
            return all(child["state"] == "ready" for child in self.up.children().values())

        await until(ready, BACK_S, self.up.children)


@asynccontextmanager
async def world(directory: Path, *options: str) -> AsyncIterator[World]:
    with installation(directory, *options) as up:
        ready = await asyncio.to_thread(up.up)
        credentials = await register(directory, ready["http_url"], ready["admin_token"])
        async with fleet(up.ports["mqtt"], credentials) as devices:
            await devices.acknowledges(2 * DEVICES)
            try:
                yield World(up, ready, devices)
            except BaseException as error:
                error.add_note(what_they_said(up.home / "logs"))
                raise


def what_they_said(logs: Path) -> str:
    ends = {log.name: log.read_text(errors="replace")[-TOLD_CHARACTERS:] for log in sorted(logs.glob("*.log"))}
    return "\n".join(f"-- {name}\n{end}" for name, end in ends.items())


async def register(
    directory: Path, url: str, token: str, devices: int = DEVICES, definition: dict[str, Any] | None = None
) -> dict[str, Credentials]:
    """Devices made as anybody makes them, by external id. definition: of their profile, where it is not the bench's"""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
        session.post(
            f"{url}/api/v1/profiles", json={"name": PROFILE, "definition": definition or {"metrics": METRICS}}
        ) as answer,
    ):
        assert answer.status == 201, await answer.text()
    table, credentials = directory / "devices.csv", directory / "credentials"
    names = [f"chaos-{number}" for number in range(devices)]
    table.write_text("external_id\n" + "".join(f"{name}\n" for name in names))
    await headwater(
        "devices", "import", str(table), "--credentials", str(credentials), "--profile", PROFILE, "--url", url,
        "--token", token,
    )  # fmt: skip
    return dict(zip(names, read_credentials(credentials), strict=True))


async def headwater(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """What `headwater ...` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headwater", *arguments, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, f"headwater {arguments[0]}: {said.decode(errors='replace')[-3000:]}"
    return said.decode()

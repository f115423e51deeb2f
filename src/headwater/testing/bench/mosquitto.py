"""Mosquitto beside us: Debian's package as it is, anonymous, in memory, on the same machine in the same minutes."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from headwater.app.engines.ports import free_port
from headwater.app.process import die_with_parent
from headwater.testing.bench.certificate import Certificate
from headwater.testing.bench.context import Bench, BenchFailed
from headwater.testing.bench.installation import walkable_directory

TLS = """\
listener {port} 127.0.0.1
certfile {certificate}
keyfile {key}
"""
ABSENT = "mosquitto is not installed (apt-get install mosquitto): nothing to compare with"
LISTENS_S = 10.0
CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
log_dest none
set_tcp_nodelay true
max_queued_messages 0
"""
"""A broker is compared at its best: without the delay of small packets, and without throwing away what waits for a
subscriber, which otherwise it does with 800 messages under way (2.0.11)."""


def find() -> str | None:
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


class Running(NamedTuple):
    """tls_port: 0 without a certificate"""

    port: int
    tls_port: int
    pid: int


@asynccontextmanager
async def running(bench: Bench, certificate: Certificate | None = None) -> AsyncIterator[Running]:
    """Raises BenchFailed."""
    program = find()
    if program is None:
        raise BenchFailed(ABSENT)
    bench.versions["Mosquitto"] = await _version(program)
    port, tls_port = free_port(), free_port() if certificate is not None else 0
    directory = walkable_directory()
    configuration = directory / "mosquitto.conf"
    text = CONFIGURATION.format(port=port)
    if certificate is not None:
        text += TLS.format(port=tls_port, certificate=certificate.file, key=certificate.key_file)
    configuration.write_text(text)
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(configuration), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=die_with_parent()
    )
    try:
        await _listens(process, port)
        yield Running(port, tls_port, process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def _listens(process: asyncio.subprocess.Process, port: int) -> None:
    try:
        async with asyncio.timeout(LISTENS_S):
            while process.returncode is None:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    return
    except TimeoutError as error:
        raise BenchFailed(f"mosquitto did not listen within {LISTENS_S:.0f} s") from error
    assert process.stderr is not None
    raise BenchFailed(f"mosquitto ended: {(await process.stderr.read()).decode(errors='replace')[-500:]}")


async def _version(program: str) -> str:
    process = await asyncio.create_subprocess_exec(program, "-h", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = await process.communicate()
    return out.decode(errors="replace").splitlines()[0].removeprefix("mosquitto version ").strip()

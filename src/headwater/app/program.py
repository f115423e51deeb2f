"""What a supervisor runs, as data, and the running process as the supervisor sees it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from headwater.app import readiness
from headwater.app.engines.account import Account
from headwater.app.process import die_with_parent

EXIT_CONFIG = 78
"""sysexits' EX_CONFIG: trying again cannot help."""

LOUD = re.compile(rb'"level":"(error|critical)"|^Traceback |^[A-Za-z_.]*Error: ')
"""Lines of a role's log that a person at the terminal should see."""


@dataclass(frozen=True, slots=True)
class Program:
    """ready     returns when it serves; None = it says so itself (`readiness.announce_ready`)
    prepare   before each start; blocking, so it is run in a thread
    on_ready  after each time it became ready
    stop      signal and patience, then `kill_signal`, then SIGKILL for its whole process group
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    account: Account | None = None
    ready: Callable[[], Awaitable[None]] | None = None
    prepare: Callable[[], None] | None = None
    on_ready: Callable[[], Awaitable[None]] | None = None
    stop_signal: int = signal.SIGTERM
    stop_s: float = 30.0
    kill_signal: int = signal.SIGKILL
    death_signal: int = signal.SIGKILL
    """what the kernel sends it when the supervisor dies"""
    loud: re.Pattern[bytes] = LOUD
    ill: re.Pattern[bytes] | None = None
    """a line of its output after which it lives on but does not work until it is started again"""
    curable: Callable[[], bool] = lambda: True
    """would starting it again help now?"""


class Running(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int: ...
    async def wait(self) -> int:
        """Its exit code, once it has ended and all of its output was taken; -N = by signal N."""

    def send(self, signal_number: int) -> None: ...
    def kill_group(self) -> None: ...
    async def announced(self) -> bool:
        """True when it announced itself, False when it never will."""


Output = Callable[[bytes], None]
Spawn = Callable[[Program, Output], Awaitable[Running]]


async def spawn(program: Program, output: Output) -> Running:
    """Start it in a session of its own, so that a Ctrl-C in our terminal reaches us alone."""
    reads, writes = os.pipe()
    environment = dict(program.environment)
    if program.ready is None:
        environment[readiness.VARIABLE] = str(writes)
    try:
        process = await asyncio.create_subprocess_exec(
            *program.argv, env=environment, cwd="/", start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            pass_fds=(writes,) if program.ready is None else (),
            preexec_fn=die_with_parent(program.death_signal), **(program.account.options if program.account else {}),
        )  # fmt: skip
    except BaseException:
        os.close(reads)
        raise
    finally:
        os.close(writes)
    return _Process(process, reads, output)


class _Process:
    def __init__(self, process: asyncio.subprocess.Process, ready_descriptor: int, output: Output) -> None:
        self._process = process
        self._ready = asyncio.create_task(_read_line(ready_descriptor))
        self._output = asyncio.create_task(_pump(process.stdout, output))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        code = await self._process.wait()
        # A grandchild may hold the pipe open for ever.
        await asyncio.wait({self._output}, timeout=2)
        self._output.cancel()
        self._ready.cancel()
        return code

    def send(self, signal_number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal_number)

    def kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def announced(self) -> bool:
        return await asyncio.shield(self._ready)


async def _read_line(descriptor: int) -> bool:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        return await reader.readline() == readiness.LINE
    finally:
        transport.close()


async def _pump(stream: asyncio.StreamReader | None, output: Output) -> None:
    assert stream is not None
    while data := await stream.read(65_536):
        output(data)

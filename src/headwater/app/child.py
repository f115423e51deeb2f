"""One supervised child: started, watched, restarted with back-off, stopped.

Its life is one task (`run`). Whatever it prints goes to its log file; what is loud goes to the terminal too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import StrEnum

from headwater.app.back_off import BackOff
from headwater.app.log_file import LogFile
from headwater.app.program import Program, Running, Spawn, spawn

CURABLE_S = 2.0
LOUD_LINES_MAX = 5
LOUD_WINDOW_S = 10.0
"""More of a child's errors than this would hide everything else on the terminal; the log file has them all."""


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """ended, and will be started again"""
    STOPPING = "stopping"
    STOPPED = "stopped"


class Child:
    """say       a line for a person
    changed   called after each change of state
    """

    def __init__(
        self,
        program: Program,
        log: LogFile,
        say: Callable[[str], None],
        changed: Callable[[Child], None] = lambda _child: None,
        *,
        spawn: Spawn = spawn,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.program = program
        self.log = log
        self.state = State.STOPPED
        self.pid: int | None = None
        self.restarts = 0
        self.last_exit: int | None = None
        self.ready = asyncio.Event()
        self.ended_before_ready = asyncio.Event()
        """set when it ended without ever having been ready: what a start looks at"""
        self._say = say
        self._changed = changed
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._back_off = BackOff()
        self._running: Running | None = None
        self._starting = asyncio.Lock()
        self._ill = asyncio.Event()
        self._stopping = False
        self._loud_since = 0.0
        self._loud_lines = 0

    async def run(self) -> None:
        """Until it is stopped."""
        while not self._stopping:
            started = self._now()
            code = await self._run_once()
            if self._stopping:
                break
            wait_s = self._back_off.after(self._now() - started)
            self.last_exit = code
            self.restarts += 1
            if not self.ready.is_set():
                self.ended_before_ready.set()
            self._enter(State.WAITING)
            self._say(
                f"{self.program.name} {describe_exit(code)}; starting it again in {wait_s:.1f} s (log: {self.log.path})"
            )
            await self._sleep(wait_s)
        self._enter(State.STOPPED)

    async def stop(self) -> None:
        """Ask, wait as long as the program may take, then kill. Returns when nothing of it is left."""
        self._stopping = True
        async with self._starting:  # half started is neither running nor stopped
            running = self._running
        if running is None:
            return
        self._enter(State.STOPPING)
        ended = asyncio.ensure_future(running.wait())
        for signal_number, patience_s in (
            (self.program.stop_signal, self.program.stop_s),
            (self.program.kill_signal, 5.0),
        ):
            running.send(signal_number)
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(ended), patience_s)
                break
            self._say(f"{self.program.name} did not stop within {patience_s:.0f} s: killing it")
        running.kill_group()
        await ended

    def kill(self) -> None:
        """Somebody asked twice to stop."""
        if self._running is not None:
            self._running.kill_group()

    async def _run_once(self) -> int | None:
        """Returns the exit code; None where it could not even be started."""
        self._enter(State.STARTING)
        try:
            async with self._starting:
                if self.program.prepare is not None:
                    await asyncio.to_thread(self.program.prepare)
                if self._stopping:
                    return None
                running = self._running = await self._spawn(self.program, self._output)
        except Exception as error:  # whatever it was, it is tried again, and a person reads why
            self.log.write(f"could not be started: {type(error).__name__}: {error}\n".encode())
            return None
        self.pid = running.pid
        self._enter(State.STARTING)
        watching = asyncio.ensure_future(self._await_ready(running))
        self._ill.clear()
        curing = asyncio.ensure_future(self._cure(running))
        try:
            return await running.wait()
        finally:
            watching.cancel()
            curing.cancel()
            running.kill_group()  # what it started and left behind
            self._running, self.pid = None, None

    async def _await_ready(self, running: Running) -> None:
        if self.program.ready is not None:
            await self.program.ready()
        elif not await running.announced():
            return
        if self.program.on_ready is not None:
            try:
                await self.program.on_ready()
            except Exception as error:  # the child serves; a person reads what else went wrong
                self._say(f"{self.program.name}: {type(error).__name__}: {error}")
        self.ready.set()
        self._enter(State.READY)
        if self.restarts:
            self._say(f"{self.program.name} is ready again")

    async def _cure(self, running: Running) -> None:
        """End it when it is ill and can be cured; `run` starts it again."""
        await self._ill.wait()
        self._say(f"{self.program.name} cannot work any more and is started again as soon as that can help")
        while not self.program.curable():
            await self._sleep(CURABLE_S)
        running.send(self.program.stop_signal)
        await self._sleep(self.program.stop_s)
        running.send(self.program.kill_signal)

    def _enter(self, state: State) -> None:
        if self._stopping and state not in {State.STOPPING, State.STOPPED}:
            return
        self.state = state
        self._changed(self)

    def _output(self, data: bytes) -> None:
        self.log.write(data)
        ill = self.program.ill
        for line in data.splitlines():
            if ill is not None and ill.search(line):
                self._ill.set()
            if self.program.loud.search(line):
                self._say_loud(line.decode(errors="replace")[:500])

    def _say_loud(self, line: str) -> None:
        now = self._now()
        if now - self._loud_since > LOUD_WINDOW_S:
            self._loud_since, self._loud_lines = now, 0
        self._loud_lines += 1
        if self._loud_lines <= LOUD_LINES_MAX:
            self._say(f"{self.program.name} | {line}")
        elif self._loud_lines == LOUD_LINES_MAX + 1:
            self._say(f"{self.program.name} | more in {self.log.path}")


def describe_exit(code: int | None) -> str:
    if code is None:
        return "could not be started"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

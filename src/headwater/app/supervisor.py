"""Children in groups: a group is started when the one before it is ready, and stopped before it.

Invariant: when `stop` has returned, nothing that was started here runs any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from headwater.app.child import Child, describe_exit
from headwater.app.log_file import LogFile
from headwater.app.program import EXIT_CONFIG, Program, Spawn, spawn
from headwater.errors import DomainError

FAILURES_MAX = 3
"""A child that ended this often without having been ready will not be ready by itself."""


class StartFailed(DomainError):
    code = "start.failed"


class Supervisor:
    def __init__(
        self, log_dir: Path, say: Callable[[str], None], changed: Callable[[Child], None] = lambda _child: None, *,
        spawn: Spawn = spawn,
    ) -> None:  # fmt: skip
        self._log_dir = log_dir
        self._say = say
        self._changed = changed
        self._spawn = spawn
        self._groups: list[list[Child]] = []
        self._tasks: dict[Child, asyncio.Task[None]] = {}

    @property
    def children(self) -> list[Child]:
        return [child for group in self._groups for child in group]

    async def start(self, programs: Sequence[Program]) -> None:
        """Start a group side by side; returns when all of it is ready. Raises StartFailed; `stop` is due all the same."""
        group = [self._child(program) for program in programs]
        self._groups.append(group)
        for child in group:
            self._tasks[child] = asyncio.create_task(child.run(), name=child.program.name)
        waiting = [asyncio.create_task(self._ready(child)) for child in group]
        try:
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()

    async def stop(self) -> None:
        """The last group first. Safe to call again while it runs."""
        while self._groups:
            group = self._groups[-1]
            for problem in await asyncio.gather(*(child.stop() for child in group), return_exceptions=True):
                if problem is not None:
                    self._say(f"stopping: {type(problem).__name__}: {problem}")
            for child in group:
                task = self._tasks.pop(child, None)
                if task is not None:
                    task.cancel()  # it may be waiting for its next start
                    await asyncio.gather(task, return_exceptions=True)
                child.log.close()
            if self._groups and self._groups[-1] is group:
                self._groups.pop()

    def kill(self) -> None:
        for child in self.children:
            child.kill()

    def _child(self, program: Program) -> Child:
        log = LogFile(self._log_dir / f"{program.name}.log")
        return Child(program, log, self._say, self._changed, spawn=self._spawn)

    async def _ready(self, child: Child) -> None:
        while not child.ready.is_set():
            ready = asyncio.create_task(child.ready.wait())
            ended = asyncio.create_task(child.ended_before_ready.wait())
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            ended.cancel()
            if child.ended_before_ready.is_set() and not child.ready.is_set():
                child.ended_before_ready.clear()
                if child.restarts >= FAILURES_MAX or child.last_exit == EXIT_CONFIG:
                    what = f"{child.program.name} {describe_exit(child.last_exit)}"
                    raise StartFailed(f"{what}. The end of {child.log.path}:\n{child.log.tail()}")

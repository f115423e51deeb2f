"""The supervisor with processes and a clock of paper."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import suppress

import pytest

from headwater.app.back_off import CAP_S, FIRST_S, WELL_S, BackOff
from headwater.app.child import CURABLE_S, Child, State
from headwater.app.log_file import LogFile
from headwater.app.program import EXIT_CONFIG, Program
from headwater.app.supervisor import FAILURES_MAX, StartFailed, Supervisor


class PaperProcess:
    """Ends when it is told to; `deaf` ones only when they are killed."""

    numbers = iter(range(1000, 100_000))

    def __init__(self, events: list[tuple[str, str]], name: str, *, ready: bool = True, deaf: bool = False):
        self.pid = next(self.numbers)
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._events, self._name, self._ready, self._deaf = events, name, ready, deaf

    async def wait(self) -> int:
        return await asyncio.shield(self.code)

    def end(self, code: int) -> None:
        if not self.code.done():
            self.code.set_result(code)

    def send(self, signal_number: int) -> None:
        self._events.append((signal.Signals(signal_number).name, self._name))
        if not self._deaf or signal_number == signal.SIGKILL:
            self.end(-signal_number)

    def kill_group(self) -> None:
        self.end(-signal.SIGKILL)

    async def announced(self) -> bool:
        return self._ready


class Paper:
    """Spawns paper processes, and a clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.events: list[tuple[str, str]] = []
        self.processes: list[PaperProcess] = []
        self.said: list[str] = []
        self.ready = True
        self.deaf = False
        self.dies_with: int | None = None

    async def spawn(self, program, _output):
        process = PaperProcess(self.events, program.name, ready=self.ready, deaf=self.deaf)
        self.events.append(("start", program.name))
        self.processes.append(process)
        if self.dies_with is not None:
            process.end(self.dies_with)
        return process

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def child(self, program: Program, tmp_path) -> Child:
        log = LogFile(tmp_path / f"{program.name}.log")
        return Child(program, log, self.said.append, spawn=self.spawn, sleep=self.sleep, now=lambda: self.now)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # whatever the paper processes do, it takes turns of the loop
            await asyncio.sleep(0)


def test_back_off_doubles_to_its_cap_and_starts_anew_after_running_well():
    back_off = BackOff()
    waits = [back_off.after(0.0) for _ in range(10)]
    assert waits[:3] == [FIRST_S, FIRST_S * 2, FIRST_S * 4]
    assert waits[-1] == CAP_S
    assert back_off.after(WELL_S - 0.1) == CAP_S
    assert back_off.after(WELL_S) == FIRST_S


async def test_a_child_that_crashes_is_started_again_after_the_back_off(tmp_path):
    paper = Paper()
    child = paper.child(Program("worker", ("worker",)), tmp_path)
    life = asyncio.create_task(child.run())
    for crash in range(4):
        await until(lambda: child.state is State.READY)
        paper.processes[-1].end(-9)
        await until(lambda crash=crash: len(paper.processes) == crash + 2)
    assert paper.slept == [FIRST_S, FIRST_S * 2, FIRST_S * 4, FIRST_S * 8]
    assert child.restarts == 4
    assert "worker was killed by signal 9" in paper.said[0]

    await until(lambda: child.state is State.READY)
    paper.now += WELL_S
    paper.processes[-1].end(1)
    await until(lambda: len(paper.slept) == 5)
    assert paper.slept[-1] == FIRST_S
    await until(lambda: child.state is State.READY)
    await child.stop()
    await life
    assert child.state is State.STOPPED


async def test_a_child_that_does_not_listen_is_killed(tmp_path):
    paper = Paper()
    paper.deaf = True
    child = paper.child(Program("api", ("api",), stop_s=0.01), tmp_path)
    life = asyncio.create_task(child.run())
    await until(lambda: child.state is State.READY)
    await child.stop()
    await life
    assert paper.events == [("start", "api"), ("SIGTERM", "api"), ("SIGKILL", "api")]


async def test_what_cannot_be_started_is_tried_again(tmp_path):
    paper = Paper()
    tries = []

    def prepare():
        tries.append(1)
        if len(tries) < 3:
            raise OSError("no room")

    child = paper.child(Program("nats", ("nats",), prepare=prepare), tmp_path)
    life = asyncio.create_task(child.run())
    await until(lambda: child.state is State.READY)
    assert (len(tries), child.restarts) == (3, 2)
    assert "no room" in child.log.tail()
    await child.stop()
    await life


async def test_one_that_says_it_cannot_work_is_started_again_once_that_helps(tmp_path):
    paper = Paper()
    room = [False, False, True]
    program = Program("nats", ("nats",), ill=re.compile(rb"critical write error"), curable=lambda: room.pop(0), stop_s=99)
    child = paper.child(program, tmp_path)
    life = asyncio.create_task(child.run())
    await until(lambda: child.state is State.READY)
    child._output(b"[ERR] a message was too large\n")
    await until(lambda: child.state is State.READY)
    child._output(b"[ERR] stream critical write error: no space left on device\n")
    await until(lambda: len(paper.processes) == 2)
    told = [event for event, _ in paper.events if event != "SIGKILL"]  # for which its patience, of paper, was over at once
    assert told == ["start", "SIGTERM", "start"]
    assert paper.slept[:2] == [CURABLE_S, CURABLE_S]
    await until(lambda: child.state is State.READY)
    await child.stop()
    await life


async def test_groups_stop_in_the_opposite_order_of_their_start(tmp_path):
    paper = Paper()
    supervisor = Supervisor(tmp_path, paper.said.append, spawn=paper.spawn)
    for name in ("engine", "worker", "gateway", "api"):
        await supervisor.start([Program(name, (name,))])
    await supervisor.stop()
    assert [name for event, name in paper.events if event == "start"] == ["engine", "worker", "gateway", "api"]
    assert [name for event, name in paper.events if event == "SIGTERM"] == ["api", "gateway", "worker", "engine"]


@pytest.mark.parametrize(("code", "starts"), [(EXIT_CONFIG, 1), (1, FAILURES_MAX)])
async def test_a_start_that_cannot_succeed_says_so(tmp_path, code, starts):
    paper = Paper()
    paper.dies_with, paper.ready = code, False
    supervisor = Supervisor(tmp_path, paper.said.append, spawn=paper.spawn)
    with pytest.raises(StartFailed, match=f"exit code {code}"):
        await asyncio.wait_for(supervisor.start([Program("gateway", ("gateway",))]), 10)
    assert paper.events.count(("start", "gateway")) == starts
    await supervisor.stop()


async def test_a_stop_while_a_child_waits_for_its_next_start_starts_nothing(tmp_path):
    paper = Paper()
    paper.dies_with, paper.ready = 1, False
    supervisor = Supervisor(tmp_path, paper.said.append, spawn=paper.spawn)
    starting = asyncio.create_task(supervisor.start([Program("gateway", ("gateway",))]))
    await until(lambda: any("starting it again" in line for line in paper.said))
    starting.cancel()
    with suppress(asyncio.CancelledError):
        await starting
    await supervisor.stop()
    started = len(paper.processes)
    await asyncio.sleep(FIRST_S * 2)
    assert len(paper.processes) == started


def test_a_log_file_is_bounded(tmp_path):
    log = LogFile(tmp_path / "api.log", bytes_max=100, files_max=3)
    for number in range(100):
        log.write(b"%09d\n" % number)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["api.log", "api.log.1", "api.log.2"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 300
    assert b"000000099" in (tmp_path / "api.log").read_bytes()


async def test_errors_reach_the_terminal_but_do_not_flood_it(tmp_path):
    paper = Paper()
    child = paper.child(Program("gateway-0", ("g",)), tmp_path)
    for _ in range(50):
        child._output(b'{"event":"x","level":"error"}\n{"event":"y","level":"info"}\n')
    assert len(paper.said) == 6
    assert "more in" in paper.said[-1]
    assert child.log.path.read_bytes().count(b"\n") == 100

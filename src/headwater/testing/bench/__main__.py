"""`python -m headwater.testing.bench`: scenarios one after the other, the report, the exit code."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import msgspec
import structlog

import headwater
from headwater.testing.bench import (
    crowd,
    deliveries,
    end_to_end,
    handshakes,
    idle,
    live,
    machine,
    options,
    publish,
    queries,
    report,
    siege,
    storm,
)  # fmt: skip
from headwater.testing.bench.context import Bench, BenchFailed
from headwater.testing.bench.report import Outcome, Report

MEASURES: dict[str, Callable[[Bench], Awaitable[Outcome]]] = {
    "publish": publish.measure,
    "end-to-end": end_to_end.measure,
    "live": live.measure,
    "queries": queries.measure,
    "idle": idle.measure,
    "fan-in": deliveries.measure_fan_in,
    "fan-out": deliveries.measure_fan_out,
    "pairs": deliveries.measure_pairs,
    "handshakes": handshakes.measure,
    "crowd": crowd.measure,
    "storm": storm.measure,
    "siege": siege.measure,
}


async def run(bench: Bench) -> Report:
    started_at = datetime.now(UTC)
    described = await asyncio.to_thread(machine.describe, bench.directory)
    bench.tell(report.machine_text(described))
    bench.versions.update(Headwater=headwater.__version__, Python=platform.python_version())
    outcomes: list[Outcome] = []
    for name in bench.options.scenarios:
        start = time.monotonic()
        try:
            outcome = await MEASURES[name](bench)
        except BenchFailed as error:
            outcome = Outcome(name, failed=str(error))
        except Exception as error:  # the top of a scenario: the others are measured all the same
            traceback.print_exc()
            outcome = Outcome(name, failed=f"{type(error).__name__}: {error}")
        outcome.took_s = round(time.monotonic() - start, 1)
        bench.tell(report.outcome_text(outcome))
        outcomes.append(outcome)
    return Report(
        started_at.isoformat(timespec="seconds"), bench.options.quick, described, bench.versions, outcomes,
        report.is_ok(outcomes),
    )  # fmt: skip


def main() -> int:
    asked = options.read()
    if sys.platform != "linux":
        sys.stderr.write("bench: it looks at processes through /proc and loads with epoll, which only Linux has\n")
        return 1
    # Of the libraries: that a connection was closed when we closed it is no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    # The installations are ours alone: settings that name engines of somebody else do not count here.
    for name in [name for name in os.environ if name.startswith("HEADWATER_") and not name.startswith("HEADWATER_ENGINE_")]:
        del os.environ[name]
    directory = (asked.directory or Path(tempfile.gettempdir())).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    bench = Bench(asked, directory, _writer(sys.stdout), _writer(sys.stderr, "\n"))
    done = asyncio.run(_until_terminated(bench))
    bench.tell(report.verdict_text(done))
    if asked.json is not None:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(done)) + b"\n")
    return 0 if done.ok else 1


async def _until_terminated(bench: Bench) -> Report:
    """SIGTERM ends it as Ctrl-C does: nothing that was started is left behind."""
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    return await run(bench)


def _writer(file: TextIO, end: str = "") -> Callable[[str], None]:
    def write(text: str) -> None:
        file.write(text + end)
        file.flush()

    return write


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(main())
    sys.exit(130)

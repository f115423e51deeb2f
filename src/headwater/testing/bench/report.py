"""What was found: as JSON, whose shape docs/guides/benchmarks.md promises, and as text for a person."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

FORMAT = 1
"""Of the JSON; rises when a member changes its meaning or goes away."""


class Spread(msgspec.Struct, frozen=True):
    """Of the rounds: a shared machine is noisy, and one figure would hide it."""

    median: float
    low: float
    high: float
    samples: list[float]


class Row(msgspec.Struct, omit_defaults=True):
    """One thing that was measured.

    per_s       messages (or requests) a second
    latency_ms  p50, p95, p99, max
    lost        what should have come and did not
    """

    what: str
    per_s: Spread | None = None
    latency_ms: dict[str, float] = {}
    lost: int | None = None
    note: str = ""


class Bar(msgspec.Struct, omit_defaults=True):
    """A figure that decides about the exit code, where `met` is not null: it was judged.

    low, high  of its rounds
    """

    what: str
    value: float | None
    bar: float
    met: bool | None
    at_most: bool = False
    aim: float | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None


class Process(msgspec.Struct):
    """memory_peak_bytes  resident; of a program of several processes that share memory, the sum of proportional shares
    cpu_s              while it was measured
    """

    name: str
    memory_peak_bytes: int
    cpu_s: float


class Outcome(msgspec.Struct, omit_defaults=True):
    """skipped, failed: the reason; figures: what only this scenario has"""

    scenario: str
    rows: list[Row] = []
    bars: list[Bar] = []
    processes: list[Process] = []
    figures: dict[str, Any] = {}
    skipped: list[str] = []
    failed: str = ""
    took_s: float = 0.0


class Report(msgspec.Struct):
    started_at: str
    quick: bool
    machine: dict[str, Any]
    versions: dict[str, str]
    scenarios: list[Outcome]
    ok: bool
    format: int = FORMAT


def spread(samples: Sequence[float]) -> Spread:
    rounded = [round(sample, 3) for sample in samples]
    return Spread(round(statistics.median(rounded), 3), min(rounded), max(rounded), rounded)


def at_least(what: str, value: float | None, bar: float, *, judged: bool, **more: Any) -> Bar:
    """value None = it could not be measured"""
    return Bar(what, value, bar, value >= bar if judged and value is not None else None, **more)


def at_most(what: str, value: float | None, bar: float, *, judged: bool, **more: Any) -> Bar:
    return Bar(what, value, bar, value <= bar if judged and value is not None else None, at_most=True, **more)


def nothing_lost(what: str, count: int) -> Bar:
    """Judged on any machine, however short the run."""
    return at_most(what, count, 0, judged=True)


def percentiles_ms(latencies_s: Sequence[float]) -> dict[str, float]:
    if not latencies_s:
        return {}
    ordered = sorted(latencies_s)
    last = len(ordered) - 1
    shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    return {name: round(ordered[round(share * last)] * 1e3, 3) for name, share in shares}


def milliseconds(latency_us: dict[str, float]) -> dict[str, float]:
    return {name: round(value / 1e3, 3) for name, value in latency_us.items()}


def middle(latencies: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of several rounds: the median of each percentile, and the worst of all."""
    found = {name: statistics.median(one[name] for one in latencies if name in one) for name in latencies[0]}
    return found | {"max": max(one.get("max", 0.0) for one in latencies)}


def is_ok(outcomes: Sequence[Outcome]) -> bool:
    return not any(outcome.failed or any(bar.met is False for bar in outcome.bars) for outcome in outcomes)


# -- as text ----------------------------------------------------------------------------------------------------------------


def machine_text(machine: dict[str, Any]) -> str:
    """What comes first."""
    return (
        f"machine   {machine['cpu']}, {machine['cores']} cores, {_bytes(machine['memory_bytes'])}, {machine['system']}\n"
        f"disk      {machine['filesystem']} at {machine['directory']}, fsync of 4 KiB {machine['fsync_ms']} ms\n"
        f"load      {machine['load_average']} before the start\n"
    )


def verdict_text(report: Report) -> str:
    """What comes last, behind the outcomes."""
    lines = ["", "versions  " + ", ".join(f"{name} {version}" for name, version in report.versions.items())]
    if report.quick:
        lines.append("A quick run: bars about speed and memory were not judged, and the figures mean nothing.")
    lines.append("Every bar that was judged is met." if report.ok else "NOT MET: see above.")
    return "\n".join(lines) + "\n"


def outcome_text(outcome: Outcome) -> str:
    lines = ["", f"== {outcome.scenario} ({outcome.took_s:.0f} s)"]
    lines += [f"skipped: {reason}" for reason in outcome.skipped]
    if outcome.failed:
        lines.append(f"FAILED: {outcome.failed}")
    if outcome.rows:
        lines += _table(("", "per s", "range", "p50 ms", "p95", "p99", "max", "lost", ""), map(_row, outcome.rows))
    if outcome.figures:
        lines += [
            f"{name}: {_figure(value)}" for name, value in outcome.figures.items() if not isinstance(value, list | dict)
        ]
    if outcome.processes:
        rows = ((one.name, _bytes(one.memory_peak_bytes), f"{one.cpu_s:.1f}", "") for one in outcome.processes)
        lines += _table(("process", "peak memory", "CPU s", ""), rows)
    lines += map(_bar, outcome.bars)
    return "\n".join(lines) + "\n"


def _row(row: Row) -> tuple[str, ...]:
    per_s = row.per_s
    return (
        row.what,
        "" if per_s is None else _figure(per_s.median),
        "" if per_s is None or len(per_s.samples) < 2 else f"{_figure(per_s.low)}..{_figure(per_s.high)}",
        *(_figure(row.latency_ms[name]) if name in row.latency_ms else "" for name in ("p50", "p95", "p99", "max")),
        "" if row.lost is None else str(row.lost),
        row.note,
    )


def _bar(bar: Bar) -> str:
    verdict = {True: "met", False: "MISSED", None: "not judged"}[bar.met]
    value = "not measured" if bar.value is None else _figure(bar.value) + (f" {bar.unit}" if bar.unit else "")
    range_ = "" if bar.low is None or bar.high is None else f" ({_figure(bar.low)}..{_figure(bar.high)})"
    aim = "" if bar.aim is None else f", aim {_figure(bar.aim)}"
    return (
        f"[{verdict}] {bar.what}: {value}{range_}; bar: {'at most' if bar.at_most else 'at least'} {_figure(bar.bar)}{aim}"
    )


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> list[str]:
    """Without columns that say nothing; the first and the last to the left."""
    body = list(rows)
    used = [column for column in range(len(head)) if any(row[column] for row in body)]
    cells = [[row[column] for column in used] for row in (tuple(head), *body)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = {used.index(column) for column in (0, len(head) - 1) if column in used}
    lines = ((cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(row)) for row in cells)
    return [" ".join(line).rstrip() for line in lines]


def _figure(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"

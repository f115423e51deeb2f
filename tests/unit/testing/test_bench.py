"""What the benchmark concludes from what it measured."""

from __future__ import annotations

import pytest

from headwater.testing.bench import options, report
from headwater.testing.bench.backlog import Sample, growth_s
from headwater.testing.bench.end_to_end import Run, followed
from headwater.testing.bench.options import Options
from headwater.testing.bench.report import Outcome, at_least, at_most, nothing_lost


def samples(*behind_s: float) -> list[Sample]:
    return [Sample(float(second), 1, behind) for second, behind in enumerate(behind_s)]


@pytest.mark.parametrize(
    ("behind_s", "growth"),
    [
        ((), 0.0),
        ((3.0,), 0.0),
        ((0.0, 1.0, 2.0), 0.0),
        ((0.0, 1.0, 2.0, 3.0), 2.0),
        ((0.3,) * 60, 0.0),
        (tuple(second / 10 for second in range(60)), 3.0),
        # The start does not count, and one slow second is no growth.
        ((9.0, 8.0, 7.0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 5.0, 0.3), 0.0),
    ],
)
def test_growth_of_a_backlog(behind_s: tuple[float, ...], growth: float) -> None:
    assert growth_s(samples(*behind_s)) == pytest.approx(growth, abs=0.01)


@pytest.mark.parametrize(("growth", "wanted"), [(0.1, True), (0.2, False), (-0.5, True)])
def test_a_short_run_is_held_against_the_length_of_the_long_one(growth: float, wanted: bool) -> None:
    run = Run(0, 1, 1, 1.0, 1.0, 0.0, growth, [], {}, 0.1)
    assert followed(run, Options(search_s=10, end_to_end_s=60)) is wanted


def test_a_bar_is_met_missed_or_not_judged() -> None:
    assert at_least("", 0.8, 0.8, judged=True).met is True
    assert at_least("", 0.79, 0.8, judged=True).met is False
    assert at_least("", 0.1, 0.8, judged=False).met is None
    assert at_least("", None, 0.8, judged=True).met is None
    assert at_most("", 50.0, 50.0, judged=True).met is True
    assert at_most("", 50.1, 50.0, judged=True).met is False


def test_a_missed_bar_or_a_failure_decides_the_exit_code() -> None:
    fine = Outcome("a", bars=[nothing_lost("", 0), at_least("", None, 1, judged=True)])
    assert report.is_ok([fine])
    assert not report.is_ok([fine, Outcome("b", bars=[nothing_lost("", 1)])])
    assert not report.is_ok([fine, Outcome("b", failed="it did not start")])


def test_percentiles() -> None:
    assert report.percentiles_ms([]) == {}
    assert report.percentiles_ms([n / 1000 for n in range(101)]) == {"p50": 50, "p95": 95, "p99": 99, "max": 100}


def test_the_command_line() -> None:
    assert options.read([]) == Options()
    read = options.read(["--scenario", "b,publish", "--seconds", "180", "--gateways", "1,2,4"])
    assert read.scenarios == ("publish", "end-to-end")
    assert (read.end_to_end_s, read.live_s, read.publish_s, read.gateways) == (180, 180, 180, (1, 2, 4))
    # Alone, `end-to-end` keeps the rounds of Mosquitto beside it short.
    alone = options.read(["--scenario", "end-to-end", "--seconds", "180"])
    assert (alone.end_to_end_s, alone.publish_s) == (180, Options().publish_s)
    quick = options.read(["--quick", "--points", "90000"])
    assert (quick.quick, quick.points, quick.rounds) == (True, 90_000, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--gateways", "1,x"],
        ["--rate", "-1"],
        ["--points", "100"],
        ["--scenario", ""],
        ["--seconds", "0"],
    ],
)
def test_nonsense_on_the_command_line_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        options.read(arguments)

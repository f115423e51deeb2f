"""How much is measured: what can be said on the command line, and the short version of everything (`--quick`)."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

SCENARIOS = (
    "publish", "end-to-end", "live", "queries", "idle",
    "fan-in", "fan-out", "pairs", "handshakes", "crowd", "storm", "siege",
)  # fmt: skip
LETTERS = dict(zip("abcdefghijkl", SCENARIOS, strict=True))


@dataclass(frozen=True, slots=True)
class Shape:
    """Connections and unacknowledged messages on each; bar and aim are ratios to Mosquitto."""

    connections: int
    window: int
    bar: float
    aim: float

    def __str__(self) -> str:
        return f"{self.connections:,} x {self.window}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """many: publishers of a fan-in, subscribers of a fan-out, pairs; window: messages under way of each publisher."""

    many: int
    window: int
    qualities: tuple[int, ...]
    bar: float


@dataclass(frozen=True, slots=True)
class Options:
    """Defaults are those of a full run.

    publish_s        one round of `publish`, of deliveries, handshakes and sieges, and of Mosquitto in `end-to-end`
    search_s         `end-to-end`: as fast as it can, to find a rate that can be held
    rate             of `end-to-end`; None = search it, 0 = as fast as the windows allow
    repetitions      of each query
    storms           of each contestant
    handshake_devices  that take turns: none comes again while it may still be there
    siege_connections, siege_rate   open ones that trickle; TLS handshakes begun a second
    """

    scenarios: tuple[str, ...] = SCENARIOS
    quick: bool = False
    shapes: tuple[Shape, ...] = (Shape(1_000, 1, 0.8, 1.2), Shape(100, 20, 1.3, 2.0))
    rounds: int = 5
    publish_s: float = 5.0
    gateways: tuple[int, ...] = (1, 2)
    with_store: bool = False
    end_to_end_s: float = 60.0
    end_to_end_shape: Shape = Shape(100, 20, 0.25, 0.4)
    search_s: float = 10.0
    rate: float | None = None
    workers: int = 1
    live_s: float = 20.0
    live_rate: float = 1_000.0
    points: int = 10_000_000
    query_devices: int = 1_000
    repetitions: int = 50
    idle_connections: int = 20_000
    settle_s: float = 5.0
    fan_in: Delivery = Delivery(100, 8, (0, 1), 1.0)
    fan_out: Delivery = Delivery(1_000, 20, (0, 1), 0.5)
    pairs: Delivery = Delivery(100, 10, (0, 1, 2), 0.5)
    handshakes_at_once: int = 32
    handshake_devices: int = 1_000
    crowd_connections: int = 50_000
    storm_connections: int = 20_000
    storms: int = 3
    siege_connections: int = 1_000
    siege_rate: float = 300.0
    directory: Path | None = None
    json: Path | None = None


QUICK = {
    "quick": True,
    "shapes": (Shape(20, 1, 0.8, 1.2), Shape(5, 20, 1.3, 2.0)),
    "rounds": 1,
    "publish_s": 1.0,
    "gateways": (1,),
    "end_to_end_s": 3.0,
    "end_to_end_shape": Shape(10, 5, 0.25, 0.4),
    "search_s": 1.0,
    "rate": 500.0,
    "live_s": 3.0,
    "live_rate": 100.0,
    "points": 50_000,
    "query_devices": 50,
    "repetitions": 3,
    "idle_connections": 200,
    "settle_s": 1.0,
    "fan_in": Delivery(5, 8, (0, 1), 1.0),
    "fan_out": Delivery(20, 5, (0, 1), 0.5),
    "pairs": Delivery(5, 10, (0, 1, 2), 0.5),
    "handshake_devices": 50,
    "crowd_connections": 200,
    "storm_connections": 200,
    "storms": 1,
    "siege_connections": 50,
    "siege_rate": 50.0,
}


def read(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m headwater.testing.bench",
        description="Measure Headwater beside Mosquitto on this machine. Exit code 1: a bar is missed or messages are lost.",
        epilog="docs/guides/benchmarks.md says what each scenario means and how to read it.",
    )
    full = Options()
    add = parser.add_argument
    add(
        "--scenario",
        default=",".join(SCENARIOS),
        help=f"names or letters, separated by commas (default {','.join(SCENARIOS)})",
    )
    add("--quick", action="store_true", help="a short version of everything: does it work? Its figures mean nothing")
    add("--seconds", type=float, help="how long is measured: each round (default 5), end-to-end (60), live (20)")
    add("--rounds", type=int, help=f"alternating with Mosquitto (default {full.rounds})")
    add("--gateways", help="gateway processes: publish tries each number (default 1,2), the others take the first (1)")
    add("--workers", type=int, help=f"worker processes (default {full.workers})")
    add("--with-store", action="store_true", help="publish: leave the worker running while it is measured")
    add(
        "--rate",
        type=float,
        help="end-to-end: messages/s; 0 = as fast as the windows allow (default: search what can be held)",
    )
    add("--points", type=int, help=f"queries: values to seed (default {full.points:,})")
    add("--repetitions", type=int, help=f"queries: of each (default {full.repetitions})")
    add("--idle-connections", type=int, help=f"idle (default {full.idle_connections:,})")
    add("--crowd-connections", type=int, help=f"crowd (default {full.crowd_connections:,})")
    add("--storm-connections", type=int, help=f"storm (default {full.storm_connections:,})")
    add("--storms", type=int, help=f"storm: of each (default {full.storms})")
    add("--siege-connections", type=int, help=f"siege: that trickle (default {full.siege_connections:,})")
    add("--siege-rate", type=float, help=f"siege: TLS handshakes begun a second (default {full.siege_rate:g})")
    add("--directory", type=Path, help="where homes are made for the time of a scenario: on the disk that you ask about")
    add("--json", type=Path, metavar="FILE", help="write everything here, too")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    return _options(given, parser)


def _options(given: dict[str, object], parser: argparse.ArgumentParser) -> Options:
    values: dict[str, object] = dict(QUICK) if given.pop("quick") else {}
    scenarios = [LETTERS.get(name.strip(), name.strip()) for name in str(given.pop("scenario")).split(",")]
    if unknown := [name for name in scenarios if name not in SCENARIOS]:
        parser.error(f"there is no scenario {unknown[0]!r}: {', '.join(SCENARIOS)}")
    values["scenarios"] = tuple(name for name in SCENARIOS if name in scenarios)
    if (seconds := given.pop("seconds", None)) is not None:
        values |= dict.fromkeys(("publish_s", "end_to_end_s", "live_s"), seconds)
        if scenarios == ["end-to-end"]:
            # It is the length of the run that is asked for, not that of Mosquitto's rounds beside it.
            del values["publish_s"]
    if (gateways := given.pop("gateways", None)) is not None:
        try:
            values["gateways"] = tuple(int(number) for number in str(gateways).split(","))
        except ValueError:
            parser.error(f"--gateways takes numbers, separated by commas, not {gateways!r}")
    options = Options(**values | given)  # type: ignore[arg-type]  # names and types are those of the arguments above
    numbers = (
        *options.gateways, options.rounds, options.workers, options.points, options.repetitions, options.idle_connections,
        options.publish_s, options.end_to_end_s, options.live_s, options.crowd_connections, options.storm_connections,
        options.storms, options.siege_connections, options.siege_rate,
    )  # fmt: skip
    if min(numbers) <= 0 or (options.rate is not None and options.rate < 0):
        parser.error("numbers must be above 0")
    if options.points < 10 * options.query_devices:
        parser.error(f"--points must be {10 * options.query_devices:,} at least: two messages of five for each device")
    return options

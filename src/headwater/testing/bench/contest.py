"""Two contestants in alternating rounds, ours and Mosquitto: a machine is not the same from minute to minute."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from headwater.testing.bench.report import Bar, Row, at_least, middle, spread

BUSY = 0.95
"""Of a core: a generator that uses so much has measured itself, and the broker could have done more."""


@dataclass(frozen=True, slots=True)
class Round:
    """cpu_s  of the load generator, in `seconds`"""

    per_s: float
    latency_ms: dict[str, float]
    lost: int
    cpu_s: float
    seconds: float


@dataclass(slots=True)
class Side:
    """The rounds of one contestant."""

    name: str
    rounds: list[Round] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        return [one.per_s for one in self.rounds]

    @property
    def lost(self) -> int:
        return sum(one.lost for one in self.rounds)

    @property
    def generator_cores(self) -> float:
        return sum(one.cpu_s for one in self.rounds) / max(1e-9, sum(one.seconds for one in self.rounds))

    def row(self, what: str) -> Row:
        cores = self.generator_cores
        return Row(
            f"{what}, {self.name}",
            per_s=spread(self.rates),
            latency_ms=middle([one.latency_ms for one in self.rounds]),
            lost=self.lost,
            note=f"generator {cores:.0%} of a core" + (", the limit" if cores > BUSY else ""),
        )


@dataclass(slots=True)
class Duel:
    """Both under one load; without Mosquitto there is nobody to compare with. what: the load"""

    what: str
    ours: Side
    theirs: Side = field(default_factory=lambda: Side("Mosquitto"))

    async def fight(
        self, rounds: int, ours: Callable[[], Awaitable[Round]], theirs: Callable[[], Awaitable[Round]] | None
    ) -> None:
        for _ in range(rounds):
            self.ours.rounds.append(await ours())
            if theirs is not None:
                self.theirs.rounds.append(await theirs())

    @property
    def rows(self) -> list[Row]:
        return [side.row(self.what) for side in (self.ours, self.theirs) if side.rounds]

    @property
    def ratio(self) -> float | None:
        if not self.theirs.rounds:
            return None
        return round(spread(self.ours.rates).median / max(spread(self.theirs.rates).median, 1e-9), 3)

    @property
    def ratios(self) -> list[float]:
        """Round by round"""
        return [round(a / max(b, 1e-9), 3) for a, b in zip(self.ours.rates, self.theirs.rates, strict=False)]

    def bar(self, bar: float, *, judged: bool, **more: Any) -> Bar:
        return at_least(
            f"{self.what}, of Mosquitto's rate, {self.ours.name}", self.ratio, bar, judged=judged, unit="x",
            low=min(self.ratios, default=None), high=max(self.ratios, default=None), **more,
        )  # fmt: skip


def gateways_named(count: int) -> str:
    return "1 gateway" if count == 1 else f"{count} gateways"

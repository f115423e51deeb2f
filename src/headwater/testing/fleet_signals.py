"""Signals that behave as things do: they have inertia, follow the day, and make noise. Pure; time and chance come in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

DAY_S = 86_400


def daily(at_s: float, *, mean: float, swing: float, warmest_h: float = 15.0) -> float:
    """A quantity that follows the sun: `mean` plus or minus `swing`, highest at `warmest_h` UTC."""
    return mean + swing * math.cos((at_s / DAY_S - warmest_h / 24) * math.tau)


@dataclass(slots=True)
class Drift:
    """Wanders around a mean and is drawn back to it (an Ornstein-Uhlenbeck process).

    spread      standard deviation in the long run
    relax_s     how long it remembers
    """

    chance: Random
    spread: float
    relax_s: float
    value: float = field(init=False)

    def __post_init__(self) -> None:
        self.value = self.chance.gauss(0, self.spread)

    def step(self, elapsed_s: float) -> float:
        kept = math.exp(-elapsed_s / self.relax_s)
        self.value = self.value * kept + self.chance.gauss(0, self.spread) * math.sqrt(1 - kept * kept)
        return self.value


@dataclass(slots=True)
class Lag:
    """Follows a target with a time constant, as a temperature follows a heater."""

    value: float
    time_constant_s: float

    def step(self, target: float, elapsed_s: float) -> float:
        self.value += (target - self.value) * (1 - math.exp(-elapsed_s / self.time_constant_s))
        return self.value


@dataclass(slots=True)
class Thermostat:
    """Switches at two edges around a set point: on below, off above; for cooling the other way round."""

    set_point: float
    hysteresis: float
    cooling: bool = False
    on: bool = False

    def step(self, measured: float) -> bool:
        excess = (measured - self.set_point) * (1 if self.cooling else -1)
        if excess > self.hysteresis / 2:
            self.on = True
        elif excess < -self.hysteresis / 2:
            self.on = False
        return self.on


@dataclass(slots=True)
class Battery:
    """Falls slowly, and a person changes it when it is nearly empty."""

    charge: float
    life_s: float

    def step(self, elapsed_s: float) -> float:
        self.charge -= elapsed_s / self.life_s
        if self.charge < 0.08:
            self.charge = 1.0
        return self.charge


@dataclass(slots=True)
class Route:
    """A vehicle on a round trip of way points (latitude, longitude), with stops.

    Returns latitude, longitude, speed in m/s and heading in degrees.
    """

    chance: Random
    points: tuple[tuple[float, float], ...]
    leg: int = 0
    along_m: float = 0.0
    speed: float = 0.0
    stopped_s: float = 0.0

    def step(self, elapsed_s: float) -> tuple[float, float, float, float]:
        (lat, lon), (to_lat, to_lon) = self.points[self.leg], self.points[(self.leg + 1) % len(self.points)]
        metres_east = 111_320 * math.cos(math.radians(lat))
        north, east = (to_lat - lat) * 111_320, (to_lon - lon) * metres_east
        length = math.hypot(north, east) or 1.0
        if self.stopped_s > 0:
            self.stopped_s -= elapsed_s
            self.speed = 0.0
        else:
            self.speed += (self.chance.uniform(7, 15) - self.speed) * min(1.0, elapsed_s / 8)
            self.along_m += self.speed * elapsed_s
        done = min(1.0, self.along_m / length)
        if done >= 1.0:
            self.leg, self.along_m, self.stopped_s = (self.leg + 1) % len(self.points), 0.0, self.chance.uniform(5, 30)
        heading = math.degrees(math.atan2(east, north)) % 360
        return lat + (to_lat - lat) * done, lon + (to_lon - lon) * done, self.speed, heading

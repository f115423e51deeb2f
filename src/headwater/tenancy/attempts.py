"""Back-off after wrong passwords, by person and place, by person, and by place.

Kept in this process: with several API servers a guesser has as many first tries as there are servers, which does not
matter against 10 characters. A person is held up for a short time only, whoever guesses: otherwise anybody could lock
anybody out.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from headwater.clock import Clock
from headwater.tenancy.errors import TooManyAttempts

ENTRIES_MAX = 50_000
FORGET_S = 15 * 60
"""Without a further failure; a success forgets at once."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """After `free` failures each further one doubles the wait, from 1 s up to `wait_s_max`."""

    free: int
    wait_s_max: int


_RULES = {
    "person+place": _Rule(free=5, wait_s_max=15 * 60),
    "person": _Rule(free=20, wait_s_max=30),
    "place": _Rule(free=50, wait_s_max=60),
}


@dataclass(slots=True)
class _Failures:
    count: int
    last_us: int


class Attempts:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def check(self, person: str, place: str) -> None:
        """Before the password is looked at. Raises TooManyAttempts."""
        wait_s = max(self._wait_s(key) for key in _keys(person, place))
        if wait_s > 0:
            raise TooManyAttempts("too many wrong passwords; wait", retry_after_s=wait_s)

    def failed(self, person: str, place: str) -> None:
        now_us = self._clock.now_us()
        for key in _keys(person, place):
            failures = self._failures.pop(key, None)
            if failures is None or now_us - failures.last_us > FORGET_S * 1_000_000:
                failures = _Failures(0, now_us)
            failures.count += 1
            failures.last_us = now_us
            self._failures[key] = failures
            if len(self._failures) > ENTRIES_MAX:
                self._failures.popitem(last=False)

    def succeeded(self, person: str, place: str) -> None:
        """The place keeps its count: one guessed password does not make the next guesses free."""
        for kind, name in _keys(person, place):
            if kind != "place":
                self._failures.pop((kind, name), None)

    def _wait_s(self, key: tuple[str, str]) -> float:
        failures = self._failures.get(key)
        rule = _RULES[key[0]]
        if failures is None or failures.count < rule.free:
            return 0.0
        wait_s = min(rule.wait_s_max, 1 << min(failures.count - rule.free, 20))
        return round(wait_s - (self._clock.now_us() - failures.last_us) / 1e6, 3)


def _keys(person: str, place: str) -> tuple[tuple[str, str], ...]:
    person = person.lower()
    return ("person+place", f"{person}\0{place}"), ("person", person), ("place", place)

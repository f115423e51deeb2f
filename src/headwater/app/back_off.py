"""How long to wait before a child that ended is started again."""

from __future__ import annotations

FIRST_S = 0.2
"""A single crash should hardly be noticed."""
CAP_S = 10.0
"""A child that cannot start costs little at this pace, and comes back soon after its cause is gone."""
WELL_S = 20.0
"""Whoever ran this long did not crash at its start: the next wait is the first again."""


class BackOff:
    """Doubles from `FIRST_S` up to `CAP_S`."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def after(self, ran_s: float) -> float:
        """Seconds to wait now that it has ended after `ran_s`."""
        if ran_s >= WELL_S:
            self._next_s = FIRST_S
        wait_s, self._next_s = self._next_s, min(CAP_S, self._next_s * 2)
        return wait_s

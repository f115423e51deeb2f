"""Sums of float8 in SQL: the plain way, and one that cannot fail.

PostgreSQL refuses a sum that a float8 cannot hold, so one absurd device would stop everybody's roll-ups, and every query
about it, for ever. Where it has refused, the same is done again with sums that become infinite instead.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sums:
    """total: of `{0}` over many rows; plus: of `{0}` and `{1}`."""

    total: str
    plus: str


PLAIN = Sums("sum({0})", "{0} + {1}")

_SCALED = "CASE WHEN abs({0}) < 1e-285 THEN 0 ELSE {0} * 5.42101086242752217e-20::float8 END"
_UNSCALED = "CASE WHEN abs({0}) < 9.7e288 THEN {0} * 18446744073709551616::float8 ELSE {0} * 'Infinity'::float8 END"
GUARDED = Sums(
    total=_UNSCALED.format(f"sum({_SCALED})"),
    plus=_UNSCALED.format(f"({_SCALED} + {_SCALED.replace('{0}', '{1}')})"),
)
"""To scale by 2^-64 and back is exact, and 2^64 of the largest numbers do not overflow then. What it would make too small
for a float8 is nothing beside the numbers that brought us here."""

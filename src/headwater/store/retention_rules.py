"""What a profile's retention says. Pure.

A profile keeps everything for so many days; a metric may be kept for fewer or for more. So, as a value grows older, it
passes stages: at each, more metrics have expired, and from the profile's own days on all but those that are kept longer.

Days are whole days of UTC: a value of a day is kept until `days` days after the end of that day, so never for less than was
asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from headwater.device.profile import ProfileDefinition

DAYS_DEFAULT = ProfileDefinition().retention_days


class _Metric(msgspec.Struct):
    name: str
    retention_days: int | None = None


class Retention(msgspec.Struct):
    """The part of a profile's definition that is about it; other parts may be newer than this program."""

    retention_days: int = DAYS_DEFAULT
    metrics: tuple[_Metric, ...] = ()


class Stage(msgspec.Struct, frozen=True):
    """What has expired after `days`: the metrics of these names, or, with `rest`, all but those."""

    days: int
    names: tuple[str, ...]
    rest: bool


class Expired(msgspec.Struct, frozen=True):
    """The same in metric.ids, ascending."""

    ids: tuple[int, ...]
    rest: bool

    def ranges(self) -> tuple[list[int], list[int]]:
        """The lowest and the highest id of each run of expired ones."""
        if not self.rest:
            return list(self.ids), list(self.ids)
        spans = zip((0, *self.ids), (*self.ids, _ID_MAX + 1), strict=True)
        runs = [(before + 1, after - 1) for before, after in spans if before + 1 < after]
        return [low for low, _ in runs], [high for _, high in runs]


_ID_MAX = 2**31 - 1
EVERYTHING = Expired((), rest=True)


def retention_of(definition: Mapping[str, object]) -> Retention:
    return msgspec.convert(definition, Retention)


def stages_of(retention: Retention) -> list[Stage]:
    """Youngest first; what has expired at one has expired at all that follow."""
    own = retention.retention_days
    days_of = {m.name: own if m.retention_days is None else m.retention_days for m in retention.metrics}
    stages = []
    for days in sorted({own, *days_of.values()}):
        rest = days >= own
        names = [name for name, kept in days_of.items() if (kept > days) == rest and kept != own]
        stages.append(Stage(days, tuple(sorted(names)), rest))
    return stages


def stage_at(stages: Sequence[Stage], age: int) -> Stage | None:
    """age: days since the end of the youngest day concerned"""
    return max((stage for stage in stages if stage.days <= age), key=lambda stage: stage.days, default=None)


def digest(stages: Sequence[Stage]) -> bytes:
    return hashlib.sha256(msgspec.json.encode(stages)).digest()


def expired_of(stage: Stage, ids_of: Mapping[str, Sequence[int]]) -> Expired | None:
    """ids_of: of the tenant, by name; a name that was never sent has none. None = nothing that there is."""
    ids = tuple(sorted(i for name in stage.names for i in ids_of.get(name, ())))
    return Expired(ids, stage.rest) if ids or stage.rest else None

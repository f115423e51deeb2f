"""Stages of a profile's retention, against what a single value's days say."""

from __future__ import annotations

import random

import msgspec

from headwater.device.profile import Metric, ProfileDefinition
from headwater.store.retention_rules import DAYS_DEFAULT, Stage, digest, expired_of, retention_of, stage_at, stages_of


def stages(own: int, **days: int | None) -> list[Stage]:
    metrics = tuple(Metric(name, retention_days=kept) for name, kept in days.items())
    return stages_of(retention_of(msgspec.to_builtins(ProfileDefinition(metrics=metrics, retention_days=own))))


def test_stages_of_a_profile() -> None:
    assert stages_of(retention_of({})) == [Stage(DAYS_DEFAULT, (), rest=True)]
    assert stages(30, a=None, b=30) == [Stage(30, (), rest=True)]
    assert stages(30, a=7, b=90, c=7, d=None, e=10) == [
        Stage(7, ("a", "c"), rest=False),
        Stage(10, ("a", "c", "e"), rest=False),
        Stage(30, ("b",), rest=True),
        Stage(90, (), rest=True),
    ]


def test_what_is_newer_than_this_program_is_no_obstacle() -> None:
    definition = {"retention_days": 5, "colour": "red", "metrics": [{"name": "a", "retention_days": 2, "shape": "round"}]}
    assert stages_of(retention_of(definition)) == stages(5, a=2)


def test_each_value_by_its_own_days() -> None:
    rng = random.Random(11)
    for _ in range(300):
        own = rng.randint(1, 12)
        names = rng.sample("abcdef", rng.randint(0, 5))
        days = {name: rng.choice([None, rng.randint(1, 12)]) for name in names}
        ids_of = {name: [i * 10 + 1, i * 10 + 2] for i, name in enumerate("abcdef")}
        made = stages(own, **days)
        for age in range(14):
            stage = stage_at(made, age)
            expired = stage and expired_of(stage, ids_of)
            runs = list(zip(*expired.ranges(), strict=True)) if expired else []
            for name, ids in ids_of.items():
                gone = (days.get(name) or own) <= age
                assert all(any(low <= i <= high for low, high in runs) == gone for i in ids), (own, days, age, name)
            assert any(low <= 2**31 - 1 <= high for low, high in runs) == (own <= age)


def test_names_that_were_never_sent() -> None:
    only = Stage(7, ("a",), rest=False)
    assert expired_of(only, {}) is None
    all_but = expired_of(Stage(7, ("a",), rest=True), {})
    assert all_but is not None
    assert all_but.ranges() == ([1], [2**31 - 1])


def test_the_digest_tells_rules_apart_and_nothing_else() -> None:
    assert digest(stages(30, a=7, b=None)) == digest(stages(30, a=7))
    assert len({digest(stages(30)), digest(stages(31)), digest(stages(30, a=7)), digest(stages(30, b=7))}) == 4

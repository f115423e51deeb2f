"""The simulated makes say what their profiles declare, as their firmware would."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import cbor2
import msgspec
import pytest

from headwater.device.profile import MetricType, ProfileDefinition
from headwater.testing.fleet_makes import MAKES, Identity, Make, Outgoing
from headwater.testing.fleet_provision import plan

NOON = 1_795_478_400.0
TYPES = {
    MetricType.FLOAT: (float, int), MetricType.INTEGER: (int,), MetricType.BOOLEAN: (bool,), MetricType.STRING: (str,),
    MetricType.LOCATION: (dict,),
}  # fmt: skip


def values_of(make: Make, message: Outgoing) -> Mapping[str, Any]:
    if message.content_type == "application/cbor":
        said = cbor2.loads(message.payload)
    else:
        said = msgspec.json.decode(message.payload)
    if message.content_type == "application/senml+json":
        return {record["n"]: record.get("v", record.get("vb")) for record in said}
    if make.name == "tasmota-plug":
        assert said["Time"].startswith("2026-11-24T")
        return {f"ENERGY.{name}": value for name, value in said["ENERGY"].items()}
    return said.get("values", said)


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.name)
def test_a_make_keeps_to_its_profile(make: Make) -> None:
    definition = msgspec.convert(make.profile, ProfileDefinition)
    simulate = make.simulate(Identity("x-1", "d/acme/1/", "north"), Random(1))
    seen: dict[str, set[Any]] = {metric.name: set() for metric in definition.metrics}
    for step in range(2_000):
        for name, value in values_of(make, simulate(NOON + step * 10, 10.0)).items():
            metric = next(m for m in definition.metrics if m.name == name)
            assert type(value) in TYPES[metric.type], (name, value)
            if metric.min is not None:
                assert value >= metric.min
            if metric.max is not None:
                assert value <= metric.max
            seen[name].add(str(value))
    still = {name for name, values in seen.items() if len(values) < 2}
    assert still <= {"set_point", "battery"}, "a signal that never changes shows nothing"


def test_the_plan_shows_every_make_and_does_not_change() -> None:
    rows = list(plan(len(MAKES) * 2))
    assert {make.name for _, _, make, _ in rows} == {make.name for make in MAKES}
    assert len({external_id for external_id, *_ in rows}) == len(rows)
    assert rows[: len(MAKES)] == list(plan(len(MAKES)))

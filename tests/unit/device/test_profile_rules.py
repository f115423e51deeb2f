"""What a profile must keep to, with the place of what is wrong."""

from __future__ import annotations

import math

import pytest

from headwater.device.errors import ProfileInvalid
from headwater.device.profile import Metric, MetricType, ProfileDefinition, TopicRule
from headwater.device.profile_rules import check_profile


def test_a_full_profile_passes() -> None:
    check_profile(
        ProfileDefinition(
            metrics=(
                Metric("t", unit="Cel", min=-40, max=85),
                Metric("n", MetricType.INTEGER),
                Metric("s", MetricType.STRING),
            ),
            topics=(TopicRule("tele/{external_id}/SENSOR", path="/a~1b/0"), TopicRule("z/{device}/+/#")),
            publish=("a/+/b",),
            subscribe=("#",),
        )
    )


@pytest.mark.parametrize(
    ("definition", "pointer"),
    [
        (ProfileDefinition(metrics=(Metric("a"), Metric("a"))), "/metrics/1/name"),
        (ProfileDefinition(metrics=(Metric("a", MetricType.STRING, min=1),)), "/metrics/0/min"),
        (ProfileDefinition(metrics=(Metric("a", MetricType.BOOLEAN, max=1),)), "/metrics/0/max"),
        (ProfileDefinition(metrics=(Metric("a", min=2, max=1),)), "/metrics/0/min"),
        (ProfileDefinition(metrics=(Metric("a", max=math.inf),)), "/metrics/0/max"),
        (ProfileDefinition(metrics=(Metric("a\0"),)), "/metrics/0/name"),
        (ProfileDefinition(topics=(TopicRule("a/#/b"),)), "/topics/0/filter"),
        (ProfileDefinition(topics=(TopicRule("a"), TopicRule("a/b+"))), "/topics/1/filter"),
        (ProfileDefinition(topics=(TopicRule("$SYS/x"),)), "/topics/0/filter"),
        (ProfileDefinition(topics=(TopicRule("a", path="b"),)), "/topics/0/path"),
        (ProfileDefinition(topics=(TopicRule("a", path="/~2"),)), "/topics/0/path"),
        (ProfileDefinition(publish=("a/{tenant}",)), "/publish/0"),
        (ProfileDefinition(publish=("a/{device",)), "/publish/0"),
        (
            ProfileDefinition(
                subscribe=("ok", "a/}"),
            ),
            "/subscribe/1",
        ),
    ],
)
def test_refused_with_the_place(definition: ProfileDefinition, pointer: str) -> None:
    with pytest.raises(ProfileInvalid) as caught:
        check_profile(definition)
    assert caught.value.pointer == pointer

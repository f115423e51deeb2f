"""What a profile must keep to, with the place of what is wrong."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.device.errors import ProfileContradictory, ProfileInvalid
from headwater.device.profile import TOPIC_FILTER, Metric, MetricType, ProfileDefinition, TopicRule
from headwater.device.profile_rules import check_profile, check_topic_filter


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


@pytest.mark.parametrize(
    ("metrics", "pointer"),
    [
        ((Metric("a"), Metric("a")), "/metrics/1/name"),
        ((Metric("a", MetricType.STRING, min=1),), "/metrics/0/min"),
        ((Metric("a", MetricType.BOOLEAN, max=1),), "/metrics/0/max"),
        ((Metric("a", min=2, max=1),), "/metrics/0/min"),
    ],
)
def test_contradictions_with_the_place(metrics: tuple[Metric, ...], pointer: str) -> None:
    with pytest.raises(ProfileContradictory) as caught:
        check_profile(ProfileDefinition(metrics=metrics))
    assert caught.value.pointer == pointer


@given(
    st.lists(st.sampled_from(["a", "ü", "/", "+", "#", "$", "{device}", "{external_id}", "{x}", "{", "}", "\0"]), min_size=1)
)
def test_the_description_says_what_a_topic_filter_is(parts: list[str]) -> None:
    """The pattern that clients see, and the rules that say in words what is wrong, mean the same."""
    text = "".join(parts)
    try:
        check_topic_filter(text, "")
    except ProfileInvalid:
        assert not re.search(TOPIC_FILTER, text)
    else:
        assert re.search(TOPIC_FILTER, text)

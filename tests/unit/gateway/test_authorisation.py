"""The filters that a device may use, and nothing beyond them."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.device.principal import Principal, ProfileVersion
from headwater.device.profile import ProfileDefinition
from headwater.gateway.mqtt.authorisation import covers, expand, may_subscribe, subscribable
from headwater.gateway.mqtt.routes import ORDINARY, resolve
from headwater.ingest.profile_compiled import CompiledProfile
from headwater.protocols.mqtt.topics import match as topic_matches
from headwater.tenancy.quotas import Quotas

DEVICE = UUID("01912345-6789-7abc-8def-0123456789ab")


def principal(external_id: str = "pump-7", **definition: tuple[str, ...]) -> Principal:
    profile = ProfileVersion(UUID(int=3), 1, ProfileDefinition(**definition))
    return Principal(UUID(int=1), "acme", Quotas(), DEVICE, external_id, profile, UUID(int=4))


@pytest.mark.parametrize(
    ("granted", "requested", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a/+", True),
        ("a/b", "a/+", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a/#", True),
        ("a/#", "a", True),
        ("a/#", "a/+/c", True),
        ("a/+", "a/#", False),
        ("a/+", "a/b/c", False),
        ("a/+/c", "a/#", False),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("a/b/c", "a/b", False),
    ],
)
def test_a_filter_is_granted_only_where_all_of_it_is(granted: str, requested: str, expected: bool) -> None:
    assert covers(granted, requested) is expected


levels = st.lists(st.sampled_from(["a", "b", "+", ""]), min_size=1, max_size=4)
filters = st.tuples(levels, st.booleans()).map(lambda f: "/".join([*f[0], *(["#"] if f[1] else [])])).filter(bool)
names = st.lists(st.sampled_from(["a", "b", "", "c"]), min_size=1, max_size=5).map("/".join).filter(bool)


@given(filters, filters, names)
def test_no_topic_slips_through_a_granted_filter(granted: str, requested: str, name: str) -> None:
    if covers(granted, requested) and topic_matches(requested, name):
        assert topic_matches(granted, name)


def test_a_device_sees_its_own_downlink_and_nobody_elses() -> None:
    granted = subscribable(principal())
    assert may_subscribe(granted, f"d/acme/{DEVICE}/commands/+")
    assert may_subscribe(granted, f"d/acme/{DEVICE}/errors")
    assert may_subscribe(granted, "v1/devices/me/rpc/request/+")
    for foreign in ("#", "+/#", "d/#", "d/acme/+/commands/#", f"d/other/{DEVICE}/commands/#", "v1/devices/me/#"):
        assert not may_subscribe(granted, foreign)


def test_placeholders_stand_for_the_device_itself() -> None:
    device = principal(subscribe=("site/{external_id}/#", "x/{device}"))
    assert expand(device.profile.definition.subscribe, device) == ("site/pump-7/#", f"x/{DEVICE}")


@pytest.mark.parametrize("topic_filter", ["#", "+/+", "$SYS/#", "$share/group/a/#", "$queue/x", "d/other/+/commands/#"])
def test_the_anonymous_principal_sees_everything(topic_filter: str) -> None:
    assert may_subscribe(subscribable(replace(principal(), anonymous=True)), topic_filter)
    everything = ProfileDefinition(publish=("#",), subscribe=("#",))
    others = subscribable(principal(subscribe=everything.subscribe))
    assert may_subscribe(others, topic_filter) is not topic_filter.startswith("$")


@pytest.mark.parametrize(
    "topic", ["a", "/", "$queue/x", "$share/group/a", "v1/devices/me/telemetry", f"d/acme/{DEVICE}/telemetry", "$SYSTEM"]
)
def test_each_topic_of_the_anonymous_principal_is_ordinary(topic: str) -> None:
    anonymous = replace(principal(), anonymous=True)
    assert resolve(anonymous, CompiledProfile(anonymous.profile), topic) is ORDINARY


@pytest.mark.parametrize("topic", ["$SYS", "$SYS/broker/version"])
def test_nobody_publishes_what_the_broker_says_of_itself(topic: str) -> None:
    for device in (principal(publish=("#",)), replace(principal(), anonymous=True)):
        assert resolve(device, CompiledProfile(device.profile), topic) is None


@pytest.mark.parametrize("external_id", ["+", "#", "a/b", "a\0"])
def test_an_external_id_cannot_widen_a_filter(external_id: str) -> None:
    device = principal(external_id, subscribe=("site/{external_id}/#", "plain"))
    assert expand(device.profile.definition.subscribe, device) == ("plain",)

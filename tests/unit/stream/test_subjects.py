"""The subject grammar: any topic that MQTT allows has exactly one subject, and nothing in it reaches beyond its tenant."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.protocols.mqtt.limits import Limits
from headwater.stream import subjects

TENANT = UUID("019a0000-0000-7000-8000-000000000001")
DEVICE = UUID("019a0000-0000-7000-8000-00000000000d")
TOPICS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1) | st.text(
    "ab/~.*> \t0e7", min_size=1
)
CONTROL_LINE_BYTES_MAX = 4_096
"""NATS's default max_control_line: a longer subject ends the connection of a whole gateway."""


@given(TOPICS)
def test_a_topic_comes_back_from_its_subject(topic: str) -> None:
    assert subjects.topic_of(subjects.retained(TENANT, topic)) == topic


@given(TOPICS, TOPICS)
def test_two_topics_never_share_a_subject(one: str, other: str) -> None:
    assert (subjects.retained(TENANT, one) == subjects.retained(TENANT, other)) is (one == other)


@given(TOPICS)
def test_a_subject_is_one_that_nats_takes_and_stays_within_its_tenant(topic: str) -> None:
    subject = subjects.retained(TENANT, topic)
    own = f"{subjects.RETAINED}.{TENANT.hex}."
    assert subject.startswith(own)
    tokens = subject.split(".")
    assert all(tokens)
    assert not {"*", ">"} & set("".join(tokens))
    assert re.fullmatch(r"[\x21-\x7e]+", subject)
    assert len(tokens) == own.count(".") + topic.count("/") + 1


def test_the_longest_topic_that_a_device_may_name_fits_into_a_line() -> None:
    for unit in ("\u00e9", "~", "/", "\u20ac"):
        longest = unit * (Limits().topic_bytes_max // len(unit.encode()))
        assert len(subjects.retained(TENANT, longest)) < CONTROL_LINE_BYTES_MAX - 200, "the reply subject needs room, too"


@pytest.mark.parametrize(
    "subject",
    [
        subjects.dead(TENANT),
        subjects.live(TENANT),
        subjects.seen(TENANT),
        subjects.message(TENANT),
        subjects.out(TENANT),
        subjects.session(TENANT, "any. *>/text"),
        subjects.share(TENANT, "any", "text/#"),
        subjects.release(DEVICE),
        subjects.registry(TENANT, "device", DEVICE),
        subjects.live_ticket(DEVICE),
        subjects.up(63),
        subjects.control(63),
    ],
)
def test_what_is_made_of_identifiers_has_nothing_to_escape(subject: str) -> None:
    assert re.fullmatch(r"hw(\.[a-z0-9-]+)+", subject)


@given(st.binary(min_size=16, max_size=16), st.integers(1, 64))
def test_a_device_has_one_partition(device: bytes, partitions: int) -> None:
    assert 0 <= subjects.partition_of(device, partitions) < partitions


def test_partitions_are_the_same_on_every_machine_and_share_the_devices_evenly() -> None:
    assert subjects.partition_of(b"123456789", 1 << 32) == 0xCBF43926, "CRC-32's published check value"
    counts = [0] * 16
    for number in range(16_000):
        counts[subjects.partition_of(UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128).bytes, 16)] += 1
    assert min(counts) > 800


@pytest.mark.parametrize(
    ("topic_filter", "tails"),
    [
        ("a/b", ["a.b"]),
        ("a/+/c", ["a.*.c"]),
        ("a/#", ["a", "a.>"]),
        ("#", [">"]),
        ("+/#", ["*", "*.>"]),
        ("/", ["~.~"]),
        ("a*/b.c", ["a~2a.b~2ec"]),
    ],
)
def test_a_filter_means_the_subjects_of_the_topics_that_it_matches(topic_filter: str, tails: list[str]) -> None:
    assert subjects.retained_matching(TENANT, topic_filter) == tuple(f"hw.retained.{TENANT.hex}.{tail}" for tail in tails)

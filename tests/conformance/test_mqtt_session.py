"""Our session against the table, the bytes in one piece and one by one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import headwater.protocols.mqtt
from headwater.protocols.mqtt import Limits, Phase
from tests.conformance.cases import CASES, Case
from tests.conformance.owner import Owner


def name(case: Case) -> str:
    return f"{case.clause}-v{case.level}-{case.says.replace(' ', '_')}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_table(case: Case) -> None:
    whole, by_byte = Owner(), Owner()
    whole.feed(case.sent)
    by_byte.feed_byte_by_byte(case.sent)
    assert whole.answer == case.answer
    assert (whole.session.phase is not Phase.CLOSED) is case.stays
    assert (by_byte.answer, by_byte.events, by_byte.session.phase) == (whole.answer, whole.events, whole.session.phase)


LIMITED = [  # what our limits announce, and what follows when a client does not keep to it
    ("MQTT-3.2.2-11", "C5 3406 000161 0001 00", "connack:00 disconnect:9b"),
    ("MQTT-3.2.2-11", "C4 3405 000161 0001", "connack:00"),
    ("MQTT-3.2.2-14", "C5 3104 000161 00", "connack:00 disconnect:9a"),
    ("MQTT-3.2.2-15", f"C5 30c701 000161 00 {'00' * 195}", "connack:00 disconnect:95"),
    ("MQTT-3.2.2-15", f"C4 30c701 000161 {'00' * 196}", "connack:00"),
    ("MQTT-3.3.4-7", "C5 3206 000161 0001 00 3206 000161 0002 00 3206 000161 0003 00", "connack:00 disconnect:93"),
    ("3.2.2.3.12", "C5 8209 0001 02 0b01 000161 00", "connack:00 disconnect:a1"),
    ("3.2.2.3.13", "C5 8210 0001 00 000a 2473686172652f672f61 00", "connack:00 disconnect:9e"),
    ("MQTT-3.2.2-12", "1015 00044d515454 05 16 003c 00 000163 00 000177 000178", "connack:9b"),
    ("MQTT-3.2.2-13", "1015 00044d515454 05 26 003c 00 000163 00 000177 000178", "connack:9a"),
    ("topic_bytes_max", f"C5 3036 0032 {'61' * 50} 00 78", "connack:00 disconnect:90"),
    ("topic_bytes_max", f"C5 8238 0001 00 0032 {'61' * 50} 00", "connack:00 disconnect:8f"),
    ("connect_bytes_max", f"10 8001 00044d515454 04 02 003c 0074 {'61' * 116}", ""),
]


@pytest.mark.parametrize(("clause", "send", "answer"), LIMITED, ids=[f"{row[0]}-{row[2]}" for row in LIMITED])
def test_limits(clause: str, send: str, answer: str) -> None:
    limits = Limits(
        packet_bytes_max=200,
        receive_maximum=2,
        topic_bytes_max=49,
        connect_bytes_max=100,
        maximum_qos=1,
        retain_available=False,
        subscription_identifiers_available=False,
        shared_subscriptions_available=False,
    )
    case = Case(clause, "", 5, send, answer, False)
    whole, by_byte = Owner(limits, acknowledges=False), Owner(limits, acknowledges=False)
    whole.feed(case.sent)
    by_byte.feed_byte_by_byte(case.sent)
    assert whole.answer == answer
    assert whole.session.phase is Phase.CLOSED
    assert (by_byte.answer, by_byte.events) == (whole.answer, whole.events)


def test_every_clause_that_the_code_cites_exists() -> None:
    """A clause id is digits only: a slip of the pen shows here, and the highest number of each section bounds it."""
    source = "".join(path.read_text() for path in Path(headwater.protocols.mqtt.__file__).parent.glob("*.py"))
    cited = re.findall(r"\[MQTT-([^\]]*)\]", source)
    assert len(set(cited)) > 60
    highest = {"1.5.4": 3, "1.5.5": 1, "2.1.3": 1, "2.2.1": 6, "3.1.0": 2, "3.1.2": 30, "3.1.3": 12, "3.1.4": 6}
    for clause in cited:
        section, _, number = clause.partition("-")
        assert re.fullmatch(r"\d\.\d+\.\d", section), clause
        assert 1 <= int(number) <= highest.get(section, 22), clause

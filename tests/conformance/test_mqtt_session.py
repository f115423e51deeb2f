"""Our session against the table, the bytes in one piece and one by one."""

from __future__ import annotations

import pytest

from headwater.protocols.mqtt import Limits, Phase
from tests.conformance.cases import CASES, LIMITED, Case
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

"""Every normative statement of MQTT 5.0 and 3.1.1, and where those that no table covers are answered for.

A statement is its number without "MQTT-". Where a section numbers its statements from 1 without a gap, only the last is
written. `ELSEWHERE` and `ELSEWHERE_V3` say of each statement that no row cites why: whose duty it is, or which test has it.
"""

from __future__ import annotations

from collections.abc import Mapping


def _numbered(last: Mapping[str, int], without: frozenset[str] = frozenset()) -> tuple[str, ...]:
    every = (f"{section}-{number}" for section, count in last.items() for number in range(1, count + 1))
    return tuple(statement for statement in every if statement not in without)


V5 = _numbered(
    {
        "1.5.4": 3, "1.5.5": 1, "1.5.7": 1,
        "2.1.3": 1, "2.2.1": 6, "2.2.2": 1,
        "3.1.0": 2, "3.1.2": 30, "3.1.3": 12, "3.1.4": 6,
        "3.2.0": 2, "3.2.2": 22,
        "3.3.1": 13, "3.3.2": 20, "3.3.4": 10,
        "3.4.2": 3, "3.5.2": 3, "3.6.1": 1, "3.6.2": 3, "3.7.2": 3,
        "3.8.1": 1, "3.8.3": 5, "3.8.4": 8, "3.9.2": 2, "3.9.3": 2,
        "3.10.1": 1, "3.10.3": 2, "3.10.4": 6, "3.11.2": 2, "3.11.3": 2,
        "3.12.4": 1, "3.14.0": 1, "3.14.1": 1, "3.14.2": 4, "3.14.4": 3, "3.15.1": 1, "3.15.2": 3,
        "4.1.0": 2, "4.2.0": 1, "4.3.1": 1, "4.3.2": 5, "4.3.3": 13, "4.4.0": 2, "4.5.0": 2, "4.6.0": 6,
        "4.7.0": 1, "4.7.1": 2, "4.7.2": 1, "4.7.3": 4, "4.8.2": 6, "4.9.0": 3,
        "4.12.0": 7, "4.12.1": 2, "4.13.1": 1, "4.13.2": 1,
        "6.0.0": 4,
    },
    without=frozenset({"2.2.1-1"}),  # the standard begins with 2
)  # fmt: skip

V3 = _numbered(
    {
        "1.5.3": 3, "2.2.2": 2, "2.3.1": 7,
        "3.1.0": 2, "3.1.2": 24, "3.1.3": 11, "3.1.4": 5, "3.2.0": 1, "3.2.2": 6,
        "3.3.1": 12, "3.3.2": 3, "3.3.4": 1, "3.3.5": 2, "3.6.1": 1,
        "3.8.1": 1, "3.8.3": 4, "3.8.4": 6, "3.9.3": 2, "3.10.1": 1, "3.10.3": 2, "3.10.4": 6,
        "3.12.4": 1, "3.14.1": 1, "3.14.4": 3,
        "4.1.0": 2, "4.3.1": 1, "4.3.2": 2, "4.3.3": 2, "4.4.0": 1, "4.5.0": 2, "4.6.0": 6,
        "4.7.1": 3, "4.7.2": 1, "4.7.3": 4, "4.8.0": 2, "6.0.0": 4, "7.0.0": 2, "7.1.1": 1, "7.1.2": 1,
    }
)  # fmt: skip

SAME: Mapping[str, str] = {  # of 3.1.1 -> of 5.0: covered by a row that cites the latter and is run at level 4
    "1.5.3-1": "1.5.4-1", "1.5.3-2": "1.5.4-2", "1.5.3-3": "1.5.4-3",
    "2.2.2-1": "2.1.3-1", "2.2.2-2": "2.1.3-1",
    "2.3.1-1": "2.2.1-3", "2.3.1-5": "2.2.1-2", "2.3.1-6": "2.2.1-5", "2.3.1-7": "2.2.1-6",
    "3.1.0-1": "3.1.0-1", "3.1.0-2": "3.1.0-2",
    "3.1.2-1": "3.1.2-1", "3.1.2-2": "3.1.2-2", "3.1.2-3": "3.1.2-3", "3.1.2-8": "3.1.2-8", "3.1.2-9": "3.1.2-9",
    "3.1.2-10": "3.1.2-10", "3.1.2-11": "3.1.2-11", "3.1.2-13": "3.1.2-11", "3.1.2-14": "3.1.2-12", "3.1.2-15": "3.1.2-13",
    "3.1.2-16": "3.1.2-14", "3.1.2-17": "3.1.2-15", "3.1.2-18": "3.1.2-16", "3.1.2-19": "3.1.2-17",
    "3.1.2-20": "3.1.2-18", "3.1.2-21": "3.1.2-19", "3.1.2-24": "3.1.2-22",
    "3.1.3-1": "3.1.3-1", "3.1.3-2": "3.1.3-2", "3.1.3-3": "3.1.3-3", "3.1.3-4": "3.1.3-4", "3.1.3-5": "3.1.3-5",
    "3.1.3-6": "3.1.3-6", "3.1.3-10": "3.1.3-11", "3.1.3-11": "3.1.3-12",
    "3.1.4-1": "3.1.4-1", "3.1.4-2": "3.1.4-3", "3.1.4-3": "3.1.4-4", "3.1.4-4": "3.1.4-5",
    "3.2.0-1": "3.2.0-1", "3.2.2-1": "3.2.2-2", "3.2.2-2": "3.2.2-3", "3.2.2-4": "3.2.2-6", "3.2.2-5": "3.2.2-7",
    "3.3.1-1": "3.3.1-1", "3.3.1-2": "3.3.1-2", "3.3.1-4": "3.3.1-4", "3.3.1-5": "3.3.1-5", "3.3.1-10": "3.3.1-6",
    "3.3.1-11": "3.3.1-7", "3.3.1-12": "3.3.1-8",
    "3.3.2-1": "3.3.2-1", "3.3.2-2": "3.3.2-2", "3.3.2-3": "3.3.2-3", "3.3.4-1": "3.3.4-1", "3.6.1-1": "3.6.1-1",
    "3.8.1-1": "3.8.1-1", "3.8.3-1": "3.8.3-1", "3.8.3-3": "3.8.3-2",
    "3.8.4-1": "3.8.4-1", "3.8.4-2": "3.8.4-2", "3.8.4-3": "3.8.4-3", "3.8.4-4": "3.8.4-5", "3.8.4-5": "3.8.4-6",
    "3.9.3-1": "3.9.3-1", "3.9.3-2": "3.9.3-2",
    "3.10.1-1": "3.10.1-1", "3.10.3-1": "3.10.3-1", "3.10.3-2": "3.10.3-2",
    "3.10.4-1": "3.10.4-1", "3.10.4-2": "3.10.4-2", "3.10.4-3": "3.10.4-3", "3.10.4-4": "3.10.4-4",
    "3.10.4-5": "3.10.4-5", "3.10.4-6": "3.10.4-6",
    "3.12.4-1": "3.12.4-1", "3.14.1-1": "3.14.1-1", "3.14.4-3": "3.14.4-3",
    "4.1.0-1": "3.1.2-23", "4.1.0-2": "4.1.0-1",
    "4.3.1-1": "4.3.1-1", "4.3.2-1": "4.3.2-2", "4.3.2-2": "4.3.2-4", "4.3.3-1": "4.3.3-4", "4.3.3-2": "4.3.3-10",
    "4.4.0-1": "4.4.0-1", "4.5.0-1": "4.5.0-1", "4.6.0-2": "4.6.0-2", "4.6.0-3": "4.6.0-3", "4.6.0-4": "4.6.0-4",
    "4.6.0-5": "4.6.0-5",
    "4.7.1-1": "4.7.0-1", "4.7.1-2": "4.7.1-1", "4.7.1-3": "4.7.1-2", "4.7.2-1": "4.7.2-1", "4.7.3-1": "4.7.3-1",
    "4.7.3-2": "4.7.3-2", "4.7.3-3": "4.7.3-3", "4.8.0-1": "4.13.1-1",
}  # fmt: skip

CLIENT = "a client's duty"
LENGTH = "the two bytes of a string's length cannot say more"
WEBSOCKET = "the gateway's listeners: tests/integration/gateway"
_SESSION = "tests/unit/protocols/test_session.py::"
_AUTHENTICATION = "tests/unit/protocols/test_authentication.py::"
_EXPLANATIONS = _SESSION + "test_explanations_go_only_where_they_are_wanted_and_fit"
_ENCODER = "tests/unit/protocols/test_round_trip.py"

ELSEWHERE: Mapping[str, str] = {
    "2.2.2-1": _ENCODER,
    "3.1.2-20": CLIENT,
    "3.1.2-21": _SESSION + "test_keep_alive_of_version_5_is_capped",
    "3.1.2-29": _EXPLANATIONS,
    "3.1.2-30": _AUTHENTICATION + "test_nothing_else_is_read_before_the_connack",
    "3.1.3-8": "optional: no client identifier is refused",
    "3.1.4-2": "tests/integration/gateway/test_mqtt.py",
    "3.2.2-1": _ENCODER,
    "3.2.2-4": CLIENT,
    "3.2.2-5": CLIENT,
    "3.2.2-9": _SESSION + "test_accept_announces_the_limits",
    "3.2.2-10": _SESSION + "test_a_maximum_qos_is_for_publishes_only",
    "3.2.2-17": CLIENT,
    "3.2.2-18": CLIENT,
    "3.2.2-19": _EXPLANATIONS,
    "3.2.2-20": _EXPLANATIONS,
    "3.2.2-21": CLIENT,
    "3.3.2-10": CLIENT,
    "3.3.4-5": "for servers that send a copy for each subscription: this one sends one",
    "3.3.4-8": CLIENT,
    "3.4.2-2": _EXPLANATIONS,
    "3.4.2-3": _EXPLANATIONS,
    "3.5.2-2": _EXPLANATIONS,
    "3.5.2-3": _EXPLANATIONS,
    "3.6.2-2": "the session explains no PUBREL",
    "3.6.2-3": "the session explains no PUBREL",
    "3.7.2-2": "the session explains no PUBCOMP",
    "3.7.2-3": "the session explains no PUBCOMP",
    "3.9.2-1": _EXPLANATIONS,
    "3.9.2-2": _EXPLANATIONS,
    "3.11.2-1": _EXPLANATIONS,
    "3.11.2-2": _EXPLANATIONS,
    "3.14.0-1": _SESSION + "test_disconnect_before_accept_is_a_refusal",
    "3.14.2-3": _EXPLANATIONS,
    "3.14.2-4": _EXPLANATIONS,
    "3.15.2-2": _AUTHENTICATION + "test_a_challenge_that_the_client_cannot_take",
    "3.15.2-3": _AUTHENTICATION + "test_a_challenge_that_the_client_cannot_take",
    "4.3.3-9": "tests/unit/protocols/test_exactly_once.py::test_a_refused_message_is_over",
    "4.5.0-2": CLIENT,
    "4.7.3-3": LENGTH,
    "4.12.0-2": _AUTHENTICATION + "test_an_exchange_of_several_steps",
    "4.12.0-3": _AUTHENTICATION + "test_a_client_does_not_speak_before_its_turn",
    "4.12.0-4": _AUTHENTICATION + "test_an_exchange_that_ends_badly",
    "4.12.0-5": _AUTHENTICATION + "test_an_exchange_of_several_steps",
    "4.12.0-6": _AUTHENTICATION + "test_without_a_method_there_is_no_auth",
    "4.12.1-1": _AUTHENTICATION + "test_what_does_not_begin_a_re_authentication",
    "4.12.1-2": _AUTHENTICATION + "test_authenticating_again",
    "6.0.0-1": WEBSOCKET,
    "6.0.0-2": WEBSOCKET,
    "6.0.0-3": CLIENT,
    "6.0.0-4": WEBSOCKET,
}

ELSEWHERE_V3: Mapping[str, str] = {
    "2.3.1-2": CLIENT,
    "2.3.1-3": CLIENT,
    "3.1.2-23": CLIENT,
    "3.1.3-7": CLIENT,
    "3.1.3-9": "optional: no client identifier is refused",
    "3.1.4-5": _SESSION + "test_what_comes_behind_a_refused_connect_is_never_read",
    "3.2.2-6": _SESSION + "test_a_refusal_in_version_3",
    "3.3.1-7": "a retained QoS 0 message is kept like any other, which the statement allows",
    "3.3.5-2": "tests/integration/gateway/test_mqtt.py",
    "3.8.3-2": "for servers without wildcards: this one has them",
    "3.14.4-1": CLIENT,
    "3.14.4-2": CLIENT,
    "4.5.0-2": CLIENT,
    "4.7.3-3": LENGTH,
    "4.8.0-2": "tests/integration/gateway/test_mqtt.py",
    "6.0.0-1": WEBSOCKET,
    "6.0.0-2": WEBSOCKET,
    "6.0.0-3": CLIENT,
    "6.0.0-4": WEBSOCKET,
    "7.0.0-1": "says what conformance is",
    "7.0.0-2": "says what conformance is",
    "7.1.1-1": "TCP, TLS and WebSocket: tests/integration/gateway",
    "7.1.2-1": CLIENT,
}

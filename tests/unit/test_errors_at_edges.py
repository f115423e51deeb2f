"""Every leaf of DomainError has its row at the doors of the gateway that can see it; for the API see api/test_problems.py.

Which edge can see what follows from the imports: a door says what the modules behind it define, and of the general errors
those that they name. So the answer is the same whatever else a test run has imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
from tests.support.imports import all_imports, modules, reachable

from headwater.errors import DomainError, QuotaExceeded, Unavailable
from headwater.gateway.http.problems import STATUS as INGEST_STATUS
from headwater.gateway.mqtt import reasons
from headwater.ingest.errors import Rejected
from headwater.protocols.mqtt.packet_types import PacketType
from headwater.protocols.mqtt.reasons import ALLOWED

GATEWAY = "headwater.app.gateway"
"""It puts the doors together: what it reaches, except through the other door, is behind each."""


@pytest.fixture(scope="module", autouse=True)
def _everything() -> None:
    """Classes exist once their module has been imported."""
    for module in modules():
        if not module.endswith("__main__"):
            importlib.import_module(module)


def leaves(error: type[DomainError] = DomainError) -> Iterator[type[DomainError]]:
    below = [e for e in error.__subclasses__() if e.__module__.startswith("headwater.")]
    for one in below:
        yield from leaves(one)
    if not below or "code" in vars(error):  # a general error may be raised as it is
        yield error


def seen_through(other_door: str) -> set[type[DomainError]]:
    roots = [one.target for one in all_imports() if one.importer == GATEWAY]
    # Settings and engines are behind the role, not behind its doors.
    behind = reachable(roots, without=(other_door, "headwater.app."))
    named = {one.name for one in all_imports() if one.importer in behind and one.target == "headwater.errors"}
    return {
        error
        for error in leaves()
        if (error.__name__ in named if error.__module__ == "headwater.errors" else error.__module__ in behind)
    }


def names(errors: set[type[DomainError]]) -> list[str]:
    return sorted(f"{error.__module__}.{error.__qualname__}: {getattr(error, 'code', 'no code')}" for error in errors)


def test_every_leaf_has_a_code() -> None:
    assert names({error for error in leaves() if not getattr(error, "code", "")}) == []


def test_the_http_ingest() -> None:
    seen = seen_through("headwater.gateway.mqtt")
    assert len(seen) > 25
    assert names({error for error in seen if error.code not in INGEST_STATUS}) == []
    assert sorted(INGEST_STATUS.keys() - {error.code for error in seen}) == []


def test_a_payload_that_is_refused_is_the_devices_fault() -> None:
    assert all(400 <= INGEST_STATUS[error.code] < 500 for error in leaves(Rejected))


def test_mqtt() -> None:
    seen = seen_through("headwater.gateway.http")
    assert len(seen) > 20
    unsaid = {error for error in seen if reasons.reason_of(error.__new__(error)) == reasons.UNSPECIFIED}
    assert names(unsaid) == []
    assert sorted(reasons.REASONS.keys() - {error.code for error in seen}) == []


def test_mqtt_says_only_what_a_packet_may_carry() -> None:
    for error in seen_through("headwater.gateway.http"):
        assert reasons.reason_of(error.__new__(error)) in ALLOWED[PacketType.CONNACK], error
    for error in [*leaves(Rejected), *leaves(QuotaExceeded), *leaves(Unavailable)]:
        assert reasons.puback_of(error.__new__(error)) in ALLOWED[PacketType.PUBACK], error
        assert reasons.disconnect_of(error.__new__(error)) in ALLOWED[PacketType.DISCONNECT], error

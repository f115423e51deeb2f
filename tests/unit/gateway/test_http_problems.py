from __future__ import annotations

import msgspec

from headwater.errors import DomainError
from headwater.gateway.http import errors as http_errors
from headwater.gateway.http.problems import STATUS, internal_error, problem
from headwater.ingest import errors as ingest_errors
from headwater.ingest.ports import StreamFull, StreamUnavailable


def leaves(base: type[DomainError]) -> set[type[DomainError]]:
    subclasses = base.__subclasses__()
    return {base} if not subclasses else set().union(*map(leaves, subclasses))


def test_every_rejection_has_a_status() -> None:
    codes = {leaf.code for leaf in leaves(ingest_errors.Rejected)}
    assert codes <= STATUS.keys()
    assert all(400 <= STATUS[code] < 500 for code in codes)


def test_every_error_of_the_edge_and_of_the_stream_has_a_status() -> None:
    own = [value for value in vars(http_errors).values() if isinstance(value, type) and issubclass(value, DomainError)]
    for error in [*own, StreamFull, StreamUnavailable]:
        assert getattr(error, "code", None) is None or error.code in STATUS


def test_a_problem_keeps_its_own_members_whatever_the_error_says() -> None:
    error = ingest_errors.MetricUnknown("what", metric="a", status=1, type="x")
    status, headers, body = problem(error, instance="/v1/telemetry", close=True)
    assert status == 422
    assert (b"connection", b"close") in headers
    assert msgspec.json.decode(body) == {
        "type": "/docs/problems/metric.unknown", "title": "Metric unknown", "status": 422, "code": "metric.unknown",
        "detail": "what", "instance": "/v1/telemetry", "metric": "a",
    }  # fmt: skip


def test_our_own_fault_tells_nothing() -> None:
    status, _, body = internal_error("/v1/telemetry")
    assert status == 500
    assert msgspec.json.decode(body)["code"] == "server.error"

from __future__ import annotations

import msgspec

from headwater.gateway.http.problems import internal_error, problem
from headwater.ingest.errors import MetricUnknown


def test_a_problem_keeps_its_own_members_whatever_the_error_says() -> None:
    error = MetricUnknown("what", metric="a", status=1, type="x")
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

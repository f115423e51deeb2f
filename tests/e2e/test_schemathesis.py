"""Schemathesis over the committed description, against a whole `headwater up`, as an outsider runs it: all phases (examples,
coverage, fuzzing, stateful), positive and negative data, every check, nothing excluded.

    HEADWATER_SCHEMATHESIS_EXAMPLES=1000  test cases an operation (default 6: about a minute and a half in all)
    HEADWATER_SCHEMATHESIS_SEED=7         another seed (default 1)

What it cannot make by itself, it is given: a device that has sent something, and something bad.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.api import bearer
from tests.support.engines import scratch_home
from tests.support.installation import installation, until

ROOT = Path(__file__).parents[2]
DESCRIPTION = json.loads((ROOT / "openapi" / "v1.json").read_bytes())
EXAMPLES = int(os.environ.get("HEADWATER_SCHEMATHESIS_EXAMPLES", "6"))
SEED = os.environ.get("HEADWATER_SCHEMATHESIS_SEED", "1")
TIME_OUT_S = 120 + 15 * EXAMPLES
"""Ten times what it takes."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * TIME_OUT_S)]


@pytest.fixture(scope="module")
def ready() -> Iterator[dict[str, Any]]:
    with scratch_home() as directory, installation(directory) as up:
        ready = up.up()
        fill(ready)
        yield ready


def fill(ready: dict[str, Any]) -> None:
    """One of everything, and quotas that let requests through as fast as they come."""
    api = f"{ready['http_url']}/api/v1"
    owner, operator = bearer(ready["admin_token"]), bearer(ready["operator_token"])
    with httpx.Client(timeout=30) as client:
        quotas = {"requests_per_s": 1_000_000, "token_requests_per_s": 1_000_000}
        path = f"{api}/operator/tenants/{ready['tenant_id']}/quotas"
        client.put(path, headers=operator, json=quotas).raise_for_status()
        device = client.post(f"{api}/devices", headers=owner, json={"external_id": "pump-1"}).raise_for_status().json()["id"]
        made = client.post(f"{api}/devices/{device}/credentials", headers=owner, json={}).raise_for_status().json()
        group = client.post(f"{api}/groups", headers=owner, json={"name": "pumps"}).raise_for_status().json()["id"]
        client.post(f"{api}/groups/{group}/devices/add", headers=owner, json={"device_ids": [device]}).raise_for_status()
        ingest, own = f"{ready['ingest_url']}/v1/telemetry", bearer(made["password"])
        client.post(ingest, headers=own, json={"temperature": 21.5}).raise_for_status()
        assert client.post(ingest, headers=own, content=b"{").status_code == 400
        until(lambda: client.get(f"{api}/devices/{device}/latest", headers=owner).json()["values"], 30)
        until(lambda: client.get(f"{api}/dead-letters", headers=owner).json()["items"], 30)


def test_as_the_owner_of_a_tenant(ready: dict[str, Any], tmp_path: Path) -> None:
    answered = run(ready, ready["admin_token"], tmp_path)
    assert answered.keys() == {f"{method.upper()} {path}" for path, item in DESCRIPTION["paths"].items() for method in item}
    # The token was good to the end: nothing that was tried may end it.
    assert httpx.get(f"{ready['http_url']}/api/v1/tenant", headers=bearer(ready["admin_token"])).status_code == 200
    # An operation that refused everything would find nothing, either.
    for label in ("POST /api/v1/devices", "GET /api/v1/devices", "POST /api/v1/telemetry/query", "GET /api/v1/live/events"):
        assert any(200 <= status < 300 for status in answered[label]), (label, answered[label])


def test_as_a_person(ready: dict[str, Any], tmp_path: Path) -> None:
    """What only people may do. The session ends on the way, by the operation that is for that."""
    login = {"email": ready["admin_email"], "password": ready["admin_password"]}
    session = httpx.post(f"{ready['http_url']}/api/v1/auth/login", json=login).raise_for_status().json()
    answered = run(ready, session["access_token"], tmp_path, "--include-tag", "Sessions")
    assert 204 in answered["POST /api/v1/auth/logout"]


def test_as_the_operator(ready: dict[str, Any], tmp_path: Path) -> None:
    """The last one: it deletes tenants."""
    answered = run(ready, ready["operator_token"], tmp_path, "--include-tag", "Operator")
    assert any(200 <= status < 300 for status in answered["POST /api/v1/operator/tenants"])
    audit = f"{ready['http_url']}/api/v1/operator/audit"
    assert httpx.get(audit, headers=bearer(ready["operator_token"])).status_code == 200


def run(ready: dict[str, Any], token: str, tmp_path: Path, *options: str) -> dict[str, set[int]]:
    """operation -> the statuses that it gave, where each operation was asked for itself"""
    report = tmp_path / "report.ndjson"
    ended = subprocess.run(
        [
            Path(sys.executable).with_name("st"), "--no-color", "run", ROOT / "openapi" / "v1.json",
            "--url", ready["http_url"], "--header", f"Authorization: Bearer {token}",
            "--max-examples", str(EXAMPLES), "--seed", SEED, "--continue-on-failure",
            "--report", "ndjson", "--report-ndjson-path", report, *options,
        ],
        capture_output=True, text=True, timeout=TIME_OUT_S, check=False, cwd=ROOT,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-2_000:]
    answered: dict[str, set[int]] = {}
    for line in report.read_text().splitlines():
        recorded = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        if recorded.get("label", "").startswith(("GET", "POST", "PUT", "PATCH", "DELETE")):
            statuses = answered.setdefault(recorded["label"], set())
            statuses.update(one["response"]["status_code"] for one in recorded.get("interactions", {}).values())
    return answered

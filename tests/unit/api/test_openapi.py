"""The committed description is what the code says, and it says everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headwater.api import openapi
from headwater.tenancy.scope import ALL_PERMISSIONS

COMMITTED = Path(__file__).parents[3] / "openapi" / "v1.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(COMMITTED.read_bytes())


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{m} {p}", o) for p, item in document["paths"].items() for m, o in item.items()]


def test_no_drift(capsys: pytest.CaptureFixture[str]) -> None:
    assert openapi.main(["--check", "--file", str(COMMITTED)]) == 0, capsys.readouterr().err


def test_drift_and_breaking_changes_are_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(COMMITTED.read_bytes())
    document["paths"]["/api/v1/gone"] = {"get": {"operationId": "getGone", "responses": {}}}
    other = tmp_path / "v1.json"
    other.write_text(json.dumps(document))
    assert openapi.main(["--check", "--file", str(other)]) == 1
    assert "make openapi" in capsys.readouterr().err
    assert openapi.main(["--since", str(other)]) == 1
    assert "GET /api/v1/gone: removed" in capsys.readouterr().err
    assert openapi.main(["--since", str(COMMITTED)]) == 0


@pytest.mark.slow
def test_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    written = []
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.json"
        command = [sys.executable, "-m", "headwater.api.openapi", "--write", "--file", str(file)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        written.append(file.read_bytes())
    assert written[0] == written[1]


def test_every_operation_says_who_may_and_how_it_fails(document: dict[str, Any]) -> None:
    seen = set()
    for name, operation in operations(document):
        assert operation["operationId"] not in seen
        seen.add(operation["operationId"])
        assert operation["summary"], name
        assert operation["tags"][0] in {tag["name"] for tag in document["tags"]}, name
        assert {"500", "503"} <= operation["responses"].keys(), name
        if operation["x-access"] != "public":
            assert {"401", "403", "429"} <= operation["responses"].keys(), name
            assert operation["security"], name
        if operation["x-access"] == "permission":
            assert operation["x-permission"] in ALL_PERMISSIONS


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [r for v in value.values() for r in references(v)]
        return [r for v in value for r in references(v)] if isinstance(value, list) else []

    for reference in references(document):
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]

"""Every error has its row, its page and its form."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

import pytest

import headwater
from headwater.api import problems
from headwater.errors import Conflict, DomainError, QuotaExceeded

# What keeps a process from starting, which no request ever meets.
STARTING = ("headwater.app.", "headwater.cli.", "headwater.database.migrate")


@pytest.fixture(scope="module")
def errors() -> list[type[DomainError]]:
    """Those of the whole program that somebody may be answered."""
    for module in pkgutil.walk_packages(headwater.__path__, "headwater."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = [e for e in problems.known_errors() if e.__module__.startswith("headwater.")]
    return [e for e in found if not e.__module__.startswith(STARTING)]


def test_every_error_has_a_status(errors: list[type[DomainError]]) -> None:
    assert len(errors) > 30
    missing = sorted({f"{e.__module__}.{e.__qualname__}: {e.code}" for e in errors if e.code not in problems.STATUS})
    assert missing == []


def test_every_error_of_the_api_says_what_it_means(errors: list[type[DomainError]]) -> None:
    told = json.loads((Path(__file__).parents[3] / "openapi" / "v1.json").read_bytes())["components"]["examples"]
    assert sorted(code for code, example in told.items() if example["summary"] == problems.title_of(code) + ".") == []


def test_a_code_belongs_to_one_class(errors: list[type[DomainError]]) -> None:
    codes = [e.code for e in errors]
    assert sorted(codes) == sorted(set(codes))


def test_every_row_has_an_error(errors: list[type[DomainError]]) -> None:
    assert sorted(set(problems.STATUS) - {e.code for e in errors}) == []


def test_fields_become_members_but_never_replace_ours() -> None:
    problem = problems.problem_of(Conflict("no", status="mine", holder="x"), "urn:uuid:1")
    assert problem["status"] == 409
    assert problem["holder"] == "x"
    assert problem["type"] == "/docs/problems/resource.conflict"
    assert problem["title"] == "Resource conflict"


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (QuotaExceeded("x", retry_after_s=0.2), "Retry-After", "1"),
        (QuotaExceeded("x", retry_after_s=61.2), "Retry-After", "62"),
    ],
)
def test_headers(error: DomainError, name: str, value: str) -> None:
    assert problems._headers_of(error, 429)[name] == value

"""Nothing normative is forgotten: each statement has a row or a reason, and nothing cites one that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import headwater.protocols.mqtt
from tests.conformance.cases import CASES, LIMITED
from tests.conformance.clauses import ELSEWHERE, ELSEWHERE_V3, SAME, V3, V5
from tests.conformance.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]


def cited() -> tuple[set[str], set[str]]:
    """What rows of the tables cite: of 5.0, and of 3.1.1, by its own number or by the one of 5.0 in a row at level 4."""
    modern: set[str] = set()
    old: set[str] = set()
    by_level: set[str] = set()
    rows = [(clause.removeprefix("MQTT-"), (case.level,)) for case in CASES for clause in case.clauses]
    rows += [(clause.removeprefix("MQTT-"), (5,)) for clause, _, _ in LIMITED]
    rows += [(clause, scenario.levels) for scenario in SCENARIOS for clause in scenario.clauses]
    for clause, levels in rows:
        if clause.endswith(" v3"):
            old.add(clause.removesuffix(" v3"))
        else:
            modern.add(clause)
            if 4 in levels or 3 in levels:
                by_level.add(clause)
    return modern, old | {statement for statement, same in SAME.items() if same in by_level}


MODERN, OLD = cited()


@pytest.mark.parametrize("statement", V5)
def test_statement_of_5_0(statement: str) -> None:
    assert (statement in MODERN) is not (statement in ELSEWHERE), "a row of the tables, or a reason: exactly one"


@pytest.mark.parametrize("statement", V3)
def test_statement_of_3_1_1(statement: str) -> None:
    assert (statement in OLD) is not (statement in ELSEWHERE_V3), "a row of the tables, or a reason: exactly one"


def test_only_statements_that_exist_are_cited() -> None:
    numbered = re.compile(r"\d\.\d+\.\d-\d+")
    assert {clause for clause in MODERN if numbered.fullmatch(clause)} - set(V5) == set()
    assert {clause for clause in OLD if numbered.fullmatch(clause)} - set(V3) == set()
    assert set(ELSEWHERE) - set(V5) == set()
    assert set(ELSEWHERE_V3) - set(V3) == set()
    assert set(SAME) - set(V3) == set()
    assert set(SAME.values()) - set(V5) == set()


def test_the_tests_that_answer_for_a_statement_exist() -> None:
    for reason in {*ELSEWHERE.values(), *ELSEWHERE_V3.values()}:
        for path, _, name in re.findall(r"(tests/[\w/.]+)(::(\w+))?", reason):
            assert (ROOT / path).exists(), path
            assert f"def {name}(" in (ROOT / path).read_text() if name else True, reason


def test_every_statement_that_the_code_cites_exists() -> None:
    source = "".join(path.read_text() for path in Path(headwater.protocols.mqtt.__file__).parent.glob("*.py"))
    found = re.findall(r"(?:(of 3\.1\.1|its) )?\[MQTT-([^\]]*)\]( of 3\.1\.1)?", source)
    assert len(set(found)) > 60
    for before, statement, behind in found:
        assert statement in (V3 if before or behind else V5), statement

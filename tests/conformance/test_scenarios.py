"""Every scenario against one gateway, two that are one broker, and a real mosquitto, at each level that it speaks of."""

from __future__ import annotations

import pytest

from tests.conformance.client import ANSWER_S, Closed
from tests.conformance.scenarios import SCENARIOS
from tests.conformance.stage import Scenario, Stage

PLAYS = [pytest.param(row, level, id=f"{row.name}-v{level}") for row in SCENARIOS for level in row.levels]


DIFFERS_S = 1.5
"""For an answer that a mosquitto is known not to give."""


async def play(scenario: Scenario, level: int, *ports: int, patience_s: float = ANSWER_S) -> None:
    stage = Stage(ports, level, f"{scenario.name}-{len(ports)}", patience_s)
    try:
        await scenario.play(stage)
    finally:
        await stage.clear()


@pytest.mark.parametrize(("scenario", "level"), PLAYS)
async def test_gateway(scenario: Scenario, level: int, gateway_port: int) -> None:
    await play(scenario, level, gateway_port)


@pytest.mark.parametrize(("scenario", "level"), PLAYS)
async def test_two_gateways(scenario: Scenario, level: int, gateway_ports: tuple[int, ...]) -> None:
    """Neighbours in the play are on different gateways, and who comes back does so elsewhere, more often than not."""
    await play(scenario, level, *gateway_ports)


@pytest.mark.parametrize(("scenario", "level"), PLAYS)
async def test_mosquitto(scenario: Scenario, level: int, mosquitto_port: int) -> None:
    if not scenario.mosquitto:
        await play(scenario, level, mosquitto_port)
        return
    with pytest.raises((AssertionError, TimeoutError, Closed)):
        await play(scenario, level, mosquitto_port, patience_s=DIFFERS_S)

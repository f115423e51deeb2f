"""Normative statements that need more than one connection: small plays with one to four clients, as rows of one table."""

from tests.conformance.scenarios import delivery, properties, retained, sessions, subscriptions, wills
from tests.conformance.stage import scenario

SCENARIOS = scenario.table

__all__ = ["SCENARIOS", "delivery", "properties", "retained", "sessions", "subscriptions", "wills"]

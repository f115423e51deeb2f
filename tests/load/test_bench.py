"""`make bench` in its short version: every message is acknowledged, stored once, and told about as documented."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headwater.testing.bench import mosquitto

WITH_MOSQUITTO = mosquitto.find() is not None
SIDES = ["1 gateway", "Mosquitto"] if WITH_MOSQUITTO else ["1 gateway"]
SPREAD = {"median", "low", "high", "samples"}


def run(scenarios: str, seconds: str, directory: Path) -> Any:
    """The JSON of a run; the text of it under `text`."""
    file = directory / "report.json"
    options = ("--quick", "--scenario", scenarios, "--seconds", seconds, "--json", str(file))
    done = subprocess.run(
        [sys.executable, "-m", "headwater.testing.bench", *options], capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text()) | {"text": done.stdout}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run("publish,end-to-end", "1", tmp_path_factory.mktemp("bench"))


def scenario(report: Any, name: str) -> Any:
    return next(one for one in report["scenarios"] if one["scenario"] == name)


def bars(outcome: Any) -> dict[str, Any]:
    return {bar["what"]: bar for bar in outcome["bars"]}


@pytest.mark.slow
def test_the_report_has_its_documented_shape(report):
    assert set(report) == {"format", "started_at", "quick", "machine", "versions", "scenarios", "ok", "text"}
    assert (report["format"], report["quick"], report["ok"]) == (1, True, True)
    assert {"cpu", "cores", "memory_bytes", "filesystem", "fsync_ms", "load_average"} <= set(report["machine"])
    assert {"Headwater", "Python", "PostgreSQL", "NATS"} <= set(report["versions"])
    assert [outcome["scenario"] for outcome in report["scenarios"]] == ["publish", "end-to-end"]
    for outcome in report["scenarios"]:
        assert outcome["took_s"] > 0
        assert "failed" not in outcome
        for row in outcome["rows"]:
            assert set(row["per_s"]) == SPREAD
        processes = {process["name"].split()[0]: process for process in outcome["processes"]}
        assert set(processes) >= {"up", "postgres", "nats", "worker-0", "gateway-0", "api"}
        assert all(process["memory_peak_bytes"] > 1_000_000 for process in processes.values())
        assert f"== {outcome['scenario']}" in report["text"]


@pytest.mark.slow
def test_nothing_is_lost_on_the_way_to_the_acknowledgement(report):
    outcome = scenario(report, "publish")
    ours = [row for row in outcome["rows"] if row["what"].endswith("1 gateway")]
    assert [row["what"] for row in ours] == ["20 x 1, 1 gateway", "5 x 20, 1 gateway"]
    for row in outcome["rows"]:
        assert row["lost"] == 0
        assert row["per_s"]["median"] > 0
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p95"] <= row["latency_ms"]["p99"]
    assert bars(outcome)["messages without an acknowledgement"]["met"] is True
    assert len(outcome["rows"]) == (4 if WITH_MOSQUITTO else 2)
    assert ("skipped" in outcome) is not WITH_MOSQUITTO
    for ratio in outcome["figures"]["ratios"]:
        assert (ratio["ratio"] is not None) is WITH_MOSQUITTO


@pytest.mark.slow
def test_every_acknowledged_message_is_stored_once(report):
    outcome = scenario(report, "end-to-end")
    figures = outcome["figures"]
    assert figures["messages_acknowledged"] == figures["messages_stored"] == figures["rows_stored"] > 100
    assert [run["sent"] for run in figures["runs"]] == [figures["messages_acknowledged"]]
    assert {"at_s", "batches", "behind_s"} == set(figures["runs"][0]["backlog"][0])
    judged = bars(outcome)
    for what in (
        "acknowledged messages that were not stored", "rows that repeat a message", "messages without an acknowledgement",
    ):  # fmt: skip
        assert (judged[what]["value"], judged[what]["met"]) == (0, True)
    assert judged["sustained, of Mosquitto's bare rate"]["met"] is None  # a quick run judges no speed


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "qualities"), [("fan-in", [0, 1]), ("fan-out", [0, 1]), ("pairs", [0, 1, 2])])
def test_every_delivery_arrives_and_has_its_ratio(shape, qualities, tmp_path):
    outcome = scenario(run(shape, "0.5", tmp_path), shape)
    assert [row["what"].split(", ")[1:] for row in outcome["rows"]] == [
        [f"QoS {qos}", side] for qos in qualities for side in SIDES
    ]
    for row in outcome["rows"]:
        assert row["lost"] == 0
        assert row["per_s"]["median"] > 0
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
    judged = bars(outcome)
    assert judged["messages that were not delivered"]["met"] is True
    assert [ratio["qos"] for ratio in outcome["figures"]["ratios"]] == qualities
    for ratio in outcome["figures"]["ratios"]:
        assert (ratio["ratio"] is not None) is WITH_MOSQUITTO
    assert ("mosquitto" in {process["name"] for process in outcome["processes"]}) is WITH_MOSQUITTO


@pytest.mark.slow
def test_handshakes_are_accepted_and_resumed(tmp_path):
    outcome = scenario(run("handshakes", "0.5", tmp_path), "handshakes")
    assert [row["what"] for row in outcome["rows"]] == [
        f"{kind}, {side}" for kind in ("full handshakes", "resumed") for side in SIDES
    ]
    assert all(row["per_s"]["median"] > 0 and row["lost"] == 0 for row in outcome["rows"])
    judged = bars(outcome)
    for what in ("connections that were not accepted", "sessions that were not resumed"):
        assert judged[what]["met"] is True
    assert [(one["resumed"], one["ratio"] is not None) for one in outcome["figures"]["ratios"]] == [
        (False, WITH_MOSQUITTO), (True, WITH_MOSQUITTO),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_crowd_is_weighed_plain_and_over_tls(tmp_path):
    outcome = scenario(run("crowd", "1", tmp_path), "crowd")
    figures = outcome["figures"]
    assert figures["connections"] == 200
    assert [(one["name"], one["tls"]) for one in figures["memory"]] == [
        (side, tls) for tls in (False, True) for side in SIDES
    ]
    assert all(one["connections"] == 200 and one["memory_with_bytes"] > 0 for one in figures["memory"])
    assert [bar["met"] for bar in outcome["bars"]] == [None, None]


@pytest.mark.slow
def test_everybody_comes_back_from_a_storm_and_who_stayed_is_served(tmp_path):
    outcome = scenario(run("storm", "1", tmp_path), "storm")
    assert [row["what"] for row in outcome["rows"]] == [
        f"{what}, {side}" for side in SIDES for what in ("CONNACK", "PUBACK before", "PUBACK in the storm")
    ]
    assert all(row["lost"] == 0 and row["latency_ms"]["p50"] > 0 for row in outcome["rows"])
    for side in outcome["figures"]["sides"]:
        assert [(one["connected"], one["missing"]) for one in side["storms"]] == [(200, 0)]
        assert side["cut_off"] == 0
    assert all(bar["met"] is True for bar in outcome["bars"])


@pytest.mark.slow
def test_devices_are_served_while_strangers_attack(tmp_path):
    outcome = scenario(run("siege", "1", tmp_path), "siege")
    assert [row["what"] for row in outcome["rows"]] == [
        f"PUBACK, {when}, {side}" for side in SIDES for when in ("calm", "trickle", "half-open")
    ]
    assert all(row["lost"] == 0 and row["latency_ms"]["p99"] > 0 for row in outcome["rows"])
    for side in outcome["figures"]["sides"]:
        assert all(attack[0]["opened"] > 0 for attack in side["attacks"].values())
    compared = [bar for bar in outcome["bars"] if bar["what"].endswith("to that of calm")]
    assert [(bar["met"], bar["value"] > 0) for bar in compared] == [(None, True)] * 4
    assert bars(outcome)["messages without an acknowledgement"]["met"] is True


def test_a_scenario_that_is_not_there_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "headwater.testing.bench", "--scenario", "nonsense"],
        capture_output=True, text=True, check=False, timeout=60, cwd=Path("/"),
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no scenario 'nonsense': publish, end-to-end" in done.stderr

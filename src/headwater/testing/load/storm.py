"""A storm: many connected devices lose their connections at once, and all of them come back at once.

It connects them gently, says so, and for each line on its standard input: cuts every connection as a network does that is
gone, waits RECONNECT_AFTER_S, and starts all of them again. Who is refused, or whose connection ends before its CONNACK,
waits as devices do, longer each time, and comes again. What it found is a line on standard output.

    python -m headwater.testing.load.storm --port 1883 --connections 20000 --credentials FILE
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from headwater.testing.load.arrivals import (
    FILES_SPARE,
    Arrival,
    Arrivals,
    Connection,
    connect_all,
    cut,
    raise_file_limit,
    tls_context,
)
from headwater.testing.load.latency import percentiles_us
from headwater.testing.load.wire import CONNACK_BYTES, Credentials, read_credentials

RECONNECT_AFTER_S = 1.0
"""What client libraries wait at least; a broker has noticed by then."""
RETRY_S, RETRY_S_MAX = 0.5, 8.0
"""Twice as long each time, and up to as much again by chance."""
STORM_S = 180.0
"""Who is not there then is missing."""
STARTS = 200
"""Before what has come is looked at."""
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Storm:
    host: str
    port: int
    connections: int
    tls: bool = False


@dataclass(slots=True)
class Weathered:
    """refused     answered with a CONNACK that refuses
    ended       the connection ended before its CONNACK
    missing     devices that were not there in the end
    seconds     from the first SYN to the last CONNACK
    latency_us  of a device: from its first SYN, over all of its attempts, to its CONNACK
    """

    connections: int = 0
    connected: int = 0
    refused: int = 0
    ended: int = 0
    missing: int = 0
    seconds: float = 0.0
    connected_per_s: float = 0.0
    cpu_s: float = 0.0
    latency_us: dict[str, float] = field(default_factory=dict)


class Devices:
    """people, and those of them who are connected."""

    def __init__(self, storm: Storm, people: list[Credentials]) -> None:
        self._storm = storm
        self._people = people
        self._tls = tls_context() if storm.tls else None
        self._up: list[Connection] = []
        self._chance = random.Random(7)  # noqa: S311  # the same pauses each time, so that runs can be compared

    def connect(self) -> Weathered:
        """Gently. Those who are refused are missing."""
        start = time.perf_counter()
        up, failed = connect_all(self._storm.host, self._storm.port, self._people, self._tls)
        self._up = [arrival.connection for arrival in up]
        seconds = time.perf_counter() - start
        return Weathered(len(self._people), len(up), missing=failed, seconds=seconds)

    def storm(self) -> Weathered:
        for connection in self._up:
            cut(connection)
        self._up.clear()
        time.sleep(RECONNECT_AFTER_S)
        arrivals = Arrivals(self._storm.host, self._storm.port, self._tls)
        try:
            return self._return(arrivals)
        finally:
            arrivals.close()

    def _return(self, arrivals: Arrivals) -> Weathered:
        """Until all are there, or STORM_S are over."""
        result, latencies_s = Weathered(len(self._people)), list[float]()
        attempts = [0] * len(self._people)
        began_s = [0.0] * len(self._people)
        cpu, start_s = time.process_time(), time.perf_counter()
        last_s = start_s
        due: list[tuple[float, int]] = [(start_s, index) for index in range(len(self._people))]
        while (due or len(arrivals)) and (now_s := time.perf_counter()) < start_s + STORM_S:
            for _ in range(STARTS):
                if not due or due[0][0] > now_s:
                    break
                _, index = heapq.heappop(due)
                began_s[index] = began_s[index] or time.perf_counter()
                arrivals.start(index, self._people[index])
            waits = not due or due[0][0] > now_s
            for arrival in arrivals.hear(_POLL_S if waits else 0):
                now_s = time.perf_counter()
                if arrival.up:
                    last_s = now_s
                    result.connected += 1
                    latencies_s.append(now_s - began_s[arrival.index])
                    self._up.append(arrival.connection)
                else:
                    self._count(result, arrival)
                    pause_s = min(RETRY_S * 2 ** attempts[arrival.index], RETRY_S_MAX) * (1 + self._chance.random())
                    attempts[arrival.index] += 1
                    heapq.heappush(due, (now_s + pause_s, arrival.index))
        result.missing = result.connections - result.connected
        result.seconds = last_s - start_s
        result.connected_per_s = result.connected / max(result.seconds, 1e-9)
        result.cpu_s = round(time.process_time() - cpu, 3)
        result.latency_us = percentiles_us(latencies_s)
        return result

    @staticmethod
    def _count(result: Weathered, arrival: Arrival) -> None:
        if len(arrival.answer) == CONNACK_BYTES:
            result.refused += 1
        else:
            result.ended += 1

    def close(self) -> None:
        for connection in self._up:
            cut(connection)


def main() -> None:
    parser = argparse.ArgumentParser(description="Connect, and come back all at once for each line on standard input.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--connections", type=int, default=1_000)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--credentials", type=Path, help="lines of: client_id username password")
    options = vars(parser.parse_args())
    path = options.pop("credentials")
    storm = Storm(**options)
    people = read_credentials(path)[: storm.connections] if path else None
    raise_file_limit(storm.connections + FILES_SPARE)
    # Nothing here is part of a cycle, and walking through 20,000 connections would look like a slow broker.
    gc.disable()
    devices = Devices(storm, people or [Credentials(f"load-{i}") for i in range(storm.connections)])
    try:
        _say(devices.connect())
        for _ in sys.stdin:
            _say(devices.storm())
    finally:
        devices.close()


def _say(result: Weathered) -> None:
    sys.stdout.write(json.dumps(asdict(result)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

"""TLS handshakes a second: connections that come, are welcomed, and go, each from its first SYN to its CONNACK.

Closed loops: `at_once` connections are on their way at any time, and each that is up is cut and followed by another.
`resume`: each resumes the session of the one before it; what was not resumed all the same is counted.

    python -m headwater.testing.load.handshakes --port 8883 --at-once 32 --seconds 10 --resume --credentials FILE
"""

from __future__ import annotations

import argparse
import itertools
import json
import ssl
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

from headwater.testing.load.arrivals import Arrivals, cut, tls_context
from headwater.testing.load.latency import Latencies
from headwater.testing.load.wire import Credentials, read_credentials

PEOPLE = 1_000
"""So many names take turns where no credentials are given: none comes again while it may still be there."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Handshakes:
    """plain: without TLS, to see what the rest of a connection costs"""

    host: str
    port: int
    at_once: int = 32
    seconds: float = 10.0
    resume: bool = False
    plain: bool = False


@dataclass(slots=True)
class Shaken:
    """refused  did not come through to a CONNACK that accepts
    resumed  of those that did
    cpu_s    of this process: a handshake costs a client as much as a server
    """

    connected: int = 0
    refused: int = 0
    resumed: int = 0
    seconds: float = 0.0
    connected_per_s: float = 0.0
    cpu_s: float = 0.0
    latency_us: dict[str, float] = field(default_factory=dict)


def run(handshakes: Handshakes, credentials: list[Credentials] | None = None) -> Shaken:
    people = itertools.cycle(credentials or [Credentials(f"load-{i}") for i in range(PEOPLE)])
    arrivals = Arrivals(handshakes.host, handshakes.port, None if handshakes.plain else tls_context())
    result, latencies = Shaken(), Latencies()
    sessions: deque[ssl.SSLSession] = deque(maxlen=handshakes.at_once)
    try:
        if handshakes.resume:
            _first(arrivals, people, handshakes.at_once, sessions)
        cpu, start = time.process_time(), time.perf_counter()
        last, end = start, start + handshakes.seconds
        while (now := time.perf_counter()) < end or len(arrivals):
            while now < end and len(arrivals) < handshakes.at_once:
                arrivals.start(0, next(people), sessions.popleft() if sessions else None)
            for arrival in arrivals.hear(_POLL_S):
                if not arrival.up:
                    result.refused += 1
                    continue
                last = time.perf_counter()
                result.connected += 1
                latencies.add(arrival.took_s)
                if isinstance(arrival.connection, ssl.SSLSocket):
                    result.resumed += bool(arrival.connection.session_reused)
                    if handshakes.resume and arrival.connection.session is not None:
                        sessions.append(arrival.connection.session)
                cut(arrival.connection)
    finally:
        arrivals.close()
    result.seconds = last - start
    result.connected_per_s = result.connected / max(result.seconds, 1e-9)
    result.cpu_s = round(time.process_time() - cpu, 3)
    result.latency_us = latencies.percentiles_us()
    return result


def _first(arrivals: Arrivals, people: itertools.cycle[Credentials], count: int, sessions: deque[ssl.SSLSession]) -> None:
    """Sessions to resume."""
    for _ in range(count):
        arrivals.start(0, next(people))
    while len(arrivals):
        for arrival in arrivals.hear(_POLL_S):
            if arrival.up and isinstance(arrival.connection, ssl.SSLSocket) and arrival.connection.session is not None:
                sessions.append(arrival.connection.session)
            if arrival.up:
                cut(arrival.connection)


def main() -> None:
    parser = argparse.ArgumentParser(description="Connect over TLS as fast as a broker welcomes.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8883)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--resume", action="store_true", help="each connection resumes an earlier session")
    parser.add_argument("--plain", action="store_true", help="without TLS")
    parser.add_argument("--credentials", type=Path, help="lines of: client_id username password")
    options = vars(parser.parse_args())
    path = options.pop("credentials")
    result = run(Handshakes(**options), read_credentials(path) if path else None)
    sys.stdout.write(json.dumps(asdict(result)) + "\n")


if __name__ == "__main__":
    main()

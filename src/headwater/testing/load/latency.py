"""Latencies of messages, counted and not kept: 4 MB hold those of any number, to 10 us, up to 5 s. And of what is rarer and
slower, exactly.

Who measures messages adds to `counts` itself, because a call for each message would cost as much as the message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

STEP_S = 10e-6
STEPS = 500_000
_SHARES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


class Latencies:
    """counts     by step; the last one is of everything slower
    slowest_s
    """

    __slots__ = ("counts", "slowest_s")

    def __init__(self) -> None:
        self.counts = [0] * (STEPS + 1)
        self.slowest_s = 0.0

    def add(self, latency_s: float, count: int = 1) -> None:
        self.slowest_s = max(self.slowest_s, latency_s)
        self.counts[min(int(latency_s / STEP_S), STEPS)] += count

    def percentiles_us(self) -> dict[str, float]:
        """p50, p95, p99, max; beyond 5 s only `max` says how much. Empty where nothing was counted."""
        total = sum(self.counts)
        if not total:
            return {}
        found: dict[str, float] = {}
        wanted = deque(_SHARES)
        seen = 0
        for step, count in enumerate(self.counts):
            seen += count
            while wanted and seen >= wanted[0][1] * total:
                found[wanted.popleft()[0]] = round((step + 0.5) * STEP_S * 1e6)
        return found | {"max": round(self.slowest_s * 1e6)}


def percentiles_us(latencies_s: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, max; empty where there are none."""
    if not latencies_s:
        return {}
    ordered = sorted(latencies_s)
    last = len(ordered) - 1
    return {name: round(ordered[round(share * last)] * 1e6) for name, share in (*_SHARES, ("max", 1.0))}

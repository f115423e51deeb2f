"""Rate limits: a token bucket for each token or person and one for each tenant, in this process.

Several API servers each allow the whole rate: the limit protects a server and its tenants from each other, it is not a
bill.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from headwater.api.errors import RateLimited
from headwater.clock import Clock
from headwater.tenancy.identity import Identity

BUCKETS_MAX = 50_000
"""About 10 MB. Beyond it the bucket that was longest unused goes, which at worst gives its owner a full one again."""
BURST_S = 2.0
"""How many seconds' worth may come at once: a page that opens with forty requests is no attack."""
OPERATOR_REQUESTS_PER_S = 100


class Buckets:
    """Allows `rate_per_s` on the long run for each key, and BURST_S of it at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def take(self, key: Hashable, rate_per_s: int) -> float:
        """Take one. Returns 0, or after how many seconds there will be one again."""
        now_us = self._clock.now_us()
        if rate_per_s <= 0:
            return 60.0
        capacity = max(1.0, rate_per_s * BURST_S)
        left, at_us = self._buckets.pop(key, (capacity, now_us))
        left = min(capacity, left + max(0, now_us - at_us) * rate_per_s / 1e6)
        wait_s = 0.0
        if left >= 1.0:
            left -= 1.0
        else:
            wait_s = (1.0 - left) / rate_per_s
        self._buckets[key] = (left, now_us)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
        return wait_s


class RequestLimits:
    def __init__(self, clock: Clock) -> None:
        self._buckets = Buckets(clock)

    def check(self, identity: Identity) -> None:
        """Raises RateLimited."""
        quotas = identity.quotas
        own = OPERATOR_REQUESTS_PER_S if quotas is None else quotas.token_requests_per_s
        self._take(identity.actor, own, "this token or person")
        if quotas is not None and identity.scope is not None:
            self._take(identity.scope.tenant_id, quotas.requests_per_s, "this tenant")

    def _take(self, key: Hashable, rate_per_s: int, whose: str) -> None:
        wait_s = self._buckets.take(key, rate_per_s)
        if wait_s:
            raise RateLimited(
                f"{whose} may make {rate_per_s} requests a second", retry_after_s=round(wait_s, 3), limit_per_s=rate_per_s
            )

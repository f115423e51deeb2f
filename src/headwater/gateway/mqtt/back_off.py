"""Paces, and growing pauses for what fails again and again, in tables that cannot grow. Pure: told the time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

REMEMBERED_MAX = 20_000
"""Entries of each table, about 200 bytes each; the one not heard of for longest is forgotten."""

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class BackOffRule:
    """free: failures before the first pause; then first_s, and twice as long after each further one, up to longest_s."""

    free: int
    first_s: float
    longest_s: float


class TokenBucket:
    """`per_s` each second, `burst` at once after a pause. Moves on in `wait_s`; `take` may owe."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at = now

    def wait_s(self, now: float) -> float:
        """0 = now."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        return 0.0 if self._left >= 1 else (1 - self._left) / self._per_s

    def take(self) -> None:
        self._left -= 1


class Recent(Generic[_Key, _Value]):
    """The REMEMBERED_MAX entries that were used last."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: OrderedDict[_Key, _Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def find(self, key: _Key) -> _Value | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: _Key, value: _Value) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > REMEMBERED_MAX:
            self._entries.popitem(last=False)

    def forget(self, key: _Key) -> None:
        self._entries.pop(key, None)


class BackOff:
    """Growing pauses for keys that fail. What has been quiet for twice the longest pause starts afresh."""

    __slots__ = ("_failures", "_rule")

    def __init__(self, rule: BackOffRule) -> None:
        self._rule = rule
        self._failures: Recent[Hashable, tuple[int, float]] = Recent()  # how often, and until when it pauses

    def __len__(self) -> int:
        return len(self._failures)

    def left_s(self, key: Hashable, now: float) -> float:
        found = self._failures.find(key)
        return max(0.0, found[1] - now) if found is not None else 0.0

    def failed(self, key: Hashable, now: float) -> None:
        rule = self._rule
        count, until = self._failures.find(key) or (0, now)
        if now - until > 2 * rule.longest_s:
            count = 0
        count += 1
        # 16 doublings are beyond every longest_s; without the cap the power grows with the attack.
        pause_s = min(rule.longest_s, rule.first_s * 2.0 ** min(16, count - rule.free - 1)) if count > rule.free else 0.0
        self._failures.put(key, (count, now + pause_s))

    def forget(self, key: Hashable) -> None:
        self._failures.forget(key)

"""Which devices a watcher follows, and the watcher itself."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from headwater.errors import DomainError
from headwater.live.event import RECORD_KINDS, EventId, EventKind, encode
from headwater.live.mailbox import Mailbox
from headwater.live.ports import Wanted
from headwater.stream.envelope import Record
from headwater.tenancy.scope import TenantScope


class Selection:
    """What one or many watchers mean, resolved to device ids from time to time.

    devices   None = every device of the tenant, also those that come later
    """

    def __init__(self, scope: TenantScope, wanted: Wanted, devices: frozenset[bytes] | None) -> None:
        self.scope = scope
        self.wanted = wanted
        self.devices = devices
        self.subscribers: list[Subscriber] = []

    @property
    def key(self) -> tuple[UUID | None, Wanted]:
        """Watchers of one tenant with the same key see the same devices."""
        return self.scope.group_id, self.wanted

    @property
    def may_change(self) -> bool:
        """Whether another look may find other devices."""
        scope, wanted = self.scope, self.wanted
        return scope.group_id is not None or wanted.group_id is not None or wanted.query is not None

    def includes(self, device: bytes) -> bool:
        return self.devices is None or device in self.devices


class Subscriber:
    """One watcher. Events go to its mailbox; while older ones are replayed, new ones wait behind them."""

    def __init__(self, selection: Selection, kinds: Iterable[EventKind], metrics: frozenset[str] | None) -> None:
        self.selection = selection
        self.kinds = frozenset[int]().union(*(RECORD_KINDS[kind] for kind in kinds))
        self.metrics = metrics
        self.mailbox = Mailbox()
        self._behind_replay: Mailbox | None = None

    @property
    def _inbox(self) -> Mailbox:
        return self.mailbox if self._behind_replay is None else self._behind_replay

    def offer(self, event: bytes) -> None:
        self._inbox.put(event)

    def missed(self, count: int | None) -> None:
        self._inbox.missed(count)

    def close(self, reason: DomainError) -> None:
        self.mailbox.close(reason)

    def hold_back(self) -> None:
        self._behind_replay = Mailbox()

    def go_live(self) -> None:
        behind, self._behind_replay = self._behind_replay, None
        if behind is not None:
            self.mailbox.absorb(behind)

    def event_of(self, record: Record, event_id: EventId) -> bytes | None:
        """None where this watcher does not follow it."""
        if record.kind not in self.kinds or not self.selection.includes(record.device):
            return None
        return encode(record, event_id, self.metrics)

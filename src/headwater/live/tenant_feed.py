"""One watched tenant in an API server: record batches in, events out to whoever follows their device.

Pure: no NATS, no clock. Each record is encoded at most once for all watchers who see it whole. The stream says with
every batch which one came before it, so a batch that got lost on the way is noticed and said.
"""

from __future__ import annotations

from headwater.live.event import EventId, encode
from headwater.live.selection import Selection, Subscriber
from headwater.stream.envelope import Record, decode_batch

INDEXED_MAX = 1_000
"""Selections of up to this many devices are found by device; larger ones are few and are asked one by one."""


class TenantFeed:
    """sequence  stream sequence of the last batch of this tenant that was seen, 0 at first"""

    def __init__(self) -> None:
        self.sequence = 0
        self.selections: dict[object, Selection] = {}
        self._by_device: dict[bytes, list[Selection]] = {}
        self._wide: list[Selection] = []

    @property
    def is_empty(self) -> bool:
        return not self.selections

    def receive(self, sequence: int, previous: int, payload: bytes) -> None:
        """previous: the stream sequence of the tenant's batch before this one; 0 = the stream does not have it any more."""
        if sequence <= self.sequence:
            return
        if self.sequence and previous > self.sequence:
            self.lost()
        self.sequence = sequence
        records = decode_batch(payload)
        if not records:
            # A gateway says so where it had to drop a batch.
            self.lost()
        for index, record in enumerate(records):
            self._fan_out(record, EventId(sequence, index))

    def lost(self) -> None:
        """Something is missing here, and nobody knows how much."""
        for selection in self.selections.values():
            for subscriber in selection.subscribers:
                subscriber.missed(None)

    def add(self, subscriber: Subscriber) -> None:
        """Its selection is the one in `selections` where there is one of its key."""
        selection = subscriber.selection
        if selection.key not in self.selections:
            self.selections[selection.key] = selection
            self._index(selection)
        selection.subscribers.append(subscriber)

    def remove(self, subscriber: Subscriber) -> bool:
        """Returns whether nobody uses its selection any more."""
        selection = subscriber.selection
        selection.subscribers.remove(subscriber)
        if selection.subscribers:
            return False
        del self.selections[selection.key]
        self._unindex(selection)
        return True

    def change_devices(self, selection: Selection, devices: frozenset[bytes] | None) -> None:
        """The group or the query of the selection now gives other devices."""
        self._unindex(selection)
        selection.devices = devices
        self._index(selection)

    def _fan_out(self, record: Record, event_id: EventId) -> None:
        selections = self._by_device.get(record.device, ())
        whole: bytes | None = None
        for selection in (*selections, *(s for s in self._wide if s.includes(record.device))):
            for subscriber in selection.subscribers:
                if record.kind not in subscriber.kinds:
                    continue
                if subscriber.metrics is None:
                    whole = whole or encode(record, event_id)
                    event = whole
                else:
                    event = encode(record, event_id, subscriber.metrics)
                if event is not None:
                    subscriber.offer(event)

    def _index(self, selection: Selection) -> None:
        if selection.devices is None or len(selection.devices) > INDEXED_MAX:
            self._wide.append(selection)
            return
        for device in selection.devices:
            self._by_device.setdefault(device, []).append(selection)

    def _unindex(self, selection: Selection) -> None:
        if selection in self._wide:
            self._wide.remove(selection)
            return
        for device in selection.devices or ():
            listed = self._by_device[device]
            listed.remove(selection)
            if not listed:
                del self._by_device[device]

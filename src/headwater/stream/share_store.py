"""What the gateways of a shared subscription agree on, in the stream SESSION: whose sessions wait for its messages, and who
was given which of them at QoS 2.

A gateway writes down whom it is about to give a message to before it does. When it dies in between, the message is
nobody else's [MQTT-4.8.2-5]: the next gateway of that client's session finds the receipt, and sends it. Receipts of a
client are numbered, and its session knows which numbers it has (stream/session_store.py); what is missing there was never
sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec

from headwater.stream.keyed import KeyedStream, Overtaken
from headwater.stream.message_log import Place

BATCHES_MAX = 1_000
"""Of which receipts are kept; more of a group are not under way at once."""


class Receipt(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """client   its key; b"" = its session ends with its connection
    number   rises with each receipt of the client; without one it only tells receipts apart
    """

    client: bytes = b""
    number: int = 0


class ShareRecord(msgspec.Struct, array_like=True):
    """sessions  keys of the clients whose sessions outlive their connections and have subscribed
    given     sequence of a batch -> index in it -> who has it
    settled   batches that are done with: a NATS that was killed forgets the last acknowledgements, and hands them out again
    """

    sessions: list[bytes] = []
    given: dict[int, dict[int, Receipt]] = {}
    settled: list[int] = []

    def receipts_of(self, client: bytes) -> list[tuple[Place, int]]:
        """Places and numbers."""
        return [
            ((sequence, index), receipt.number)
            for sequence, receipts in self.given.items()
            for index, receipt in receipts.items()
            if receipt.client == client
        ]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ShareRecord)


class ShareStore:
    """The record of one share.

    record  as it was read or written last
    """

    def __init__(self, stream: KeyedStream, subject: str, ttl_s: int) -> None:
        self.record = ShareRecord()
        self._stream = stream
        self._subject = subject
        self._ttl_s = ttl_s
        self._revision: int | None = None
        self._changing = asyncio.Lock()

    async def read(self) -> ShareRecord:
        """Raises ReadFailed."""
        async with self._changing:
            await self._load()
            return self.record

    async def enlist(self, client: bytes) -> None:
        """Raises what `_change` does, as all of these do."""
        if client not in self.record.sessions:

            def enlisted(record: ShareRecord) -> None:
                record.sessions = [*(each for each in record.sessions if each != client), client]

            await self._change(enlisted)

    async def dismiss(self, clients: Iterable[bytes]) -> None:
        gone = set(clients)
        if gone & set(self.record.sessions):

            def without(record: ShareRecord) -> None:
                record.sessions = [each for each in record.sessions if each not in gone]

            await self._change(without)

    async def note(self, sequence: int, receipts: Mapping[int, Receipt], settled: Iterable[int]) -> set[int]:
        """Returns the indices whose receipts are these now: a batch may be with two gateways, and what one has noted is not
        the other's to give.

        settled  batches whose receipts nobody needs any more
        """

        def noted(record: ShareRecord) -> None:
            for each in settled:
                record.given.pop(each, None)
            record.settled = sorted({*record.settled, *settled})[-BATCHES_MAX:]
            if sequence not in record.settled:
                record.given[sequence] = {**receipts, **record.given.get(sequence, {})}
            record.given = dict(sorted(record.given.items())[-BATCHES_MAX:])

        await self._change(noted)
        given = self.record.given.get(sequence, {})
        return {index for index, receipt in receipts.items() if given.get(index) == receipt}

    async def take_back(self, sequence: int, indices: Iterable[int]) -> None:
        """These were given to nobody."""

        def without(record: ShareRecord) -> None:
            for index in indices:
                record.given.get(sequence, {}).pop(index, None)

        await self._change(without)

    async def _load(self) -> None:
        stored = await self._stream.find(self._subject)
        self.record = _decoder.decode(stored.data) if stored is not None and stored.data else ShareRecord()
        self._revision = stored.sequence if stored is not None else 0

    async def _change(self, change: Callable[[ShareRecord], object]) -> None:
        """Raises ReadFailed, StreamFull, StreamUnavailable."""
        async with self._changing:
            while True:
                if self._revision is None:
                    await self._load()
                expected, self._revision = self._revision, None  # until it is known what is stored
                change(self.record)
                try:
                    self._revision = await self._stream.put(
                        self._subject, _encoder.encode(self.record), expected=expected, ttl_s=self._ttl_s
                    )
                except Overtaken:
                    continue
                return

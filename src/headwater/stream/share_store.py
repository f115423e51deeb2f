"""What the gateways of a shared subscription agree on, in the stream SESSION: whose sessions wait for its messages, who was
given which of them at QoS 2, and which batches are done with (stream/settled.py).

A gateway writes down whom it is about to give a message to before it does. When it dies in between, the message is
nobody else's [MQTT-4.8.2-5]: the next gateway of that client's session finds the receipt, and sends it. Receipts of a
client are numbered, and its session knows which numbers it has (stream/session_store.py); what is missing there was never
sent. A gateway that was taken for dead and is not can write no receipt any more for a client that another one has taken
over: the numbers of that one begin higher, and the record says where.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from headwater.stream.keyed import KeyedStream, Overtaken
from headwater.stream.message_log import Place
from headwater.stream.settled import SettledBatches

BATCHES_MAX = 1_000
"""Of which receipts are kept; more of a group are not under way at once."""


class Receipt(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """client   its key; b"" = its session ends with its connection
    number   rises with each receipt of the client; without one it only tells receipts apart
    """

    client: bytes = b""
    number: int = 0


class ShareRecord(msgspec.Struct, array_like=True):
    """sessions  keys of the clients whose sessions outlive their connections and have subscribed -> the number that the
              receipts of the gateway which serves it now are above
    given     sequence of a batch -> index in it -> who has it
    floor     batches up to this sequence are done with
    """

    sessions: dict[bytes, int] = {}
    given: dict[int, dict[int, Receipt]] = {}
    floor: int = 0

    def receipts_of(self, client: bytes) -> list[tuple[Place, int]]:
        """Places and numbers."""
        return [
            ((sequence, index), receipt.number)
            for sequence, receipts in self.given.items()
            for index, receipt in receipts.items()
            if receipt.client == client
        ]

    def newest_of(self, client: bytes) -> int:
        """No number up to this one is free."""
        return max((self.sessions.get(client, 0), *(number for _, number in self.receipts_of(client))))

    def refuses(self, receipt: Receipt) -> bool:
        """Its client is served by another gateway now."""
        return bool(receipt.client) and receipt.number <= self.sessions.get(receipt.client, 0)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ShareRecord)


@dataclass(frozen=True, slots=True)
class Noted:
    """Indices of a batch.

    ours     their receipts are written
    refused  nobody has them, and their clients are served by other gateways now
    """

    ours: set[int]
    refused: set[int]


class ShareStore:
    """The record of one share.

    record  as it was read or written last
    """

    def __init__(self, stream: KeyedStream, subject: str, ttl_s: int) -> None:
        self.record = ShareRecord()
        self._stream = stream
        self._subject = subject
        self._ttl_s = ttl_s
        self._settled = SettledBatches(stream, subject)
        self._revision: int | None = None
        self._changing = asyncio.Lock()

    async def read(self) -> ShareRecord:
        """Raises ReadFailed."""
        async with self._changing:
            await self._load()
            return self.record

    async def taken(self, sequence: int) -> set[int] | None:
        """Indices of a batch that somebody has. None = it is done with. Raises ReadFailed."""
        async with self._changing:
            await self._load(sequence)
            return None if self._is_settled(sequence) else set(self.record.given.get(sequence, ()))

    async def enlist(self, client: bytes) -> None:
        """Raises what `_change` does, as all of these do."""
        if client not in self.record.sessions:
            await self._change(lambda record: record.sessions.setdefault(client, 0))

    async def dismiss(self, clients: Iterable[bytes]) -> None:
        gone = set(clients)
        if not gone.isdisjoint(self.record.sessions):

            def without(record: ShareRecord) -> None:
                record.sessions = {client: above for client, above in record.sessions.items() if client not in gone}

            await self._change(without)

    async def take_over(self, client: bytes, above: int) -> list[tuple[Place, int]]:
        """The gateway that served the client is dead, or seems to be: from now on only receipts above this number are noted
        for the client. Returns those that it has."""

        def taken_over(record: ShareRecord) -> None:
            record.sessions[client] = max(above, record.sessions.get(client, 0))

        await self._change(taken_over)
        return self.record.receipts_of(client)

    async def note(self, sequence: int, receipts: Mapping[int, Receipt], settled: Iterable[int]) -> Noted:
        """A batch may be with two gateways, and what one has noted is not the other's to give.

        settled  batches whose receipts nobody needs any more: they are marked, and so are the clients' sessions
        """

        def noted(record: ShareRecord) -> None:
            for each in settled:
                record.given.pop(each, None)
            if not self._is_settled(sequence):
                acceptable = {index: receipt for index, receipt in receipts.items() if not record.refuses(receipt)}
                record.given[sequence] = {**acceptable, **record.given.get(sequence, {})}
            record.given = dict(sorted(record.given.items())[-BATCHES_MAX:])

        await self._change(noted, sequence)
        if self._is_settled(sequence):
            return Noted(set(), set())
        given = self.record.given.get(sequence, {})
        return Noted(
            {index for index, receipt in receipts.items() if given.get(index) == receipt},
            {index for index, receipt in receipts.items() if index not in given},
        )

    async def take_back(self, sequence: int, indices: Iterable[int]) -> None:
        """These were given to nobody."""

        def without(record: ShareRecord) -> None:
            for index in indices:
                record.given.get(sequence, {}).pop(index, None)

        await self._change(without)

    async def drop(self, settled: Iterable[int]) -> None:
        """As `note` does, where nothing more is noted."""

        def without(record: ShareRecord) -> None:
            for each in settled:
                record.given.pop(each, None)

        await self._change(without)

    async def settle(self, sequences: Iterable[int]) -> bool:
        """Nobody is given these again. True = it is time to `raise_floor`."""
        async with self._changing:
            return await self._settled.mark(sequences)

    async def raise_floor(self, floor: int) -> None:
        """floor: the consumer has heard that all batches up to this sequence are done with"""

        def raised(record: ShareRecord) -> None:
            record.floor = max(record.floor, floor)

        if floor > self.record.floor:
            await self._change(raised)
            await self._settled.forget(below=floor)

    def _is_settled(self, sequence: int) -> bool:
        return sequence <= self.record.floor or sequence in self._settled

    async def _load(self, sequence: int | None = None) -> None:
        """Together, or a receipt could be gone and the mark that came before that not be seen."""
        found = await self._stream.select((self._subject, *self._settled.subjects(sequence)))
        self._settled.learn(found)
        stored = next((message for message in found if message.subject == self._subject), None)
        self.record = _decoder.decode(stored.data) if stored is not None else ShareRecord()
        self._revision = stored.sequence if stored is not None else 0

    async def _change(self, change: Callable[[ShareRecord], object], sequence: int | None = None) -> None:
        """sequence: of a batch, where the change depends on whether it is done with. Raises ReadFailed, StreamFull,
        StreamUnavailable."""
        async with self._changing:
            while True:
                if self._revision is None or (sequence is not None and not self._settled.knows(sequence)):
                    await self._load(sequence)
                assert self._revision is not None
                expected, self._revision = self._revision, None  # until it is known what is stored
                change(self.record)
                try:
                    self._revision = await self._stream.put(
                        self._subject, _encoder.encode(self.record), expected=expected, ttl_s=self._ttl_s
                    )
                except Overtaken:
                    continue
                return

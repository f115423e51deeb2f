"""The general way from a payload to records: decode, find, split, open, judge the time, normalise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from headwater.device.profile import Decoder
from headwater.ingest import senml
from headwater.ingest.decoders import DECODERS
from headwater.ingest.errors import Rejected
from headwater.ingest.shapes import Shape, split
from headwater.ingest.timestamps import judge, microseconds

Observed = tuple[int, dict[str, Any]]
"""(observed_at in microseconds, body)"""
Normalise = Callable[[dict[Any, Any]], dict[str, Any]]


class Outcome(NamedTuple):
    """What became of one record of a message.

    source    the record as it was decoded; of SenML, whose records lean on each other, as it was resolved
    observed  None where the record has nothing to keep (every value null or dropped), or was rejected
    """

    position: int
    source: Any
    observed: Observed | None
    rejected: Rejected | None


class Reader:
    """Reads one form of payload in one shape. Stateless: one instance serves every device of a profile."""

    __slots__ = ("_decode", "_future_us", "_normalise", "_senml", "_shape")

    def __init__(self, decoder: Decoder, shape: Shape, normalise: Normalise, future_us: int) -> None:
        self._decode = DECODERS[decoder]
        self._senml = decoder in {Decoder.SENML_JSON, Decoder.SENML_CBOR}
        self._shape = shape
        self._normalise = normalise
        self._future_us = future_us

    def read(self, payload: bytes, received_us: int) -> list[Observed]:
        """All or nothing. Raises Rejected, which names the first bad record."""
        return self.read_tree(self._decode(payload), received_us)

    def read_tree(self, tree: Any, received_us: int) -> list[Observed]:
        records = []
        for outcome in self._outcomes(tree, received_us):
            if outcome.rejected is not None:
                raise outcome.rejected
            if outcome.observed is not None:
                records.append(outcome.observed)
        return records

    def each(self, payload: bytes, received_us: int) -> list[Outcome]:
        """Record by record. Raises Rejected where the payload as a whole cannot be read."""
        return list(self._outcomes(self._decode(payload), received_us))

    def _outcomes(self, tree: Any, received_us: int) -> Iterator[Outcome]:
        for index, (source, time, values) in enumerate(self._opened(tree, received_us)):
            try:
                if isinstance(values, Rejected):
                    raise values
                observed_us = received_us if time is None else judge(microseconds(time), received_us, self._future_us)
                body = self._normalise(values)
                yield Outcome(index, source, (observed_us, body) if body else None, None)
            except Rejected as rejected:
                yield Outcome(index, source, None, rejected.at(index))

    def _opened(self, tree: Any, received_us: int) -> Iterator[tuple[Any, Any, dict[Any, Any] | Rejected]]:
        if self._senml:
            for observed_us, values in senml.resolve(tree, received_us):
                yield {"ts": observed_us, "values": values}, observed_us, values
            return
        part, common_time = self._shape.find(tree)
        for item in split(part):
            try:
                time, values = self._shape.open(item)
                yield item, (common_time if time is None else time), values
            except Rejected as rejected:
                yield item, None, rejected

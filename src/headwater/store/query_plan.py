"""Which table answers which part of the time range.

A roll-up may stand in for raw rows only where each of its buckets lies inside one bucket of the answer. So the range is cut
into segments: the coarsest roll-up in the middle, finer ones towards the ragged ends, raw rows where nothing else fits. The
result is exact for every range and every calendar.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

import msgspec

from headwater.store.query_interval import SECOND_US


class Source(StrEnum):
    RAW = "raw"
    MINUTE = "1m"
    HOUR = "1h"
    DAY = "1d"


WIDTH_US = {Source.DAY: 86_400 * SECOND_US, Source.HOUR: 3_600 * SECOND_US, Source.MINUTE: 60 * SECOND_US}
"""coarsest first; buckets of roll-ups are aligned to the Unix epoch"""


class Segment(msgspec.Struct, frozen=True):
    """[start_us, end_us) is read from `source`."""

    source: Source
    start_us: int
    end_us: int


def segments(start_us: int, end_us: int, starts: Sequence[int]) -> list[Segment]:
    """starts: of the answer's buckets, as `bucket_starts` gives them."""
    inner = starts[1:]
    usable = [source for source, width in WIDTH_US.items() if all(at % width == 0 for at in inner)]
    return _cut(start_us, end_us, usable)


def _cut(start_us: int, end_us: int, usable: Sequence[Source]) -> list[Segment]:
    if start_us >= end_us:
        return []
    if not usable:
        return [Segment(Source.RAW, start_us, end_us)]
    coarsest, finer = usable[0], usable[1:]
    width = WIDTH_US[coarsest]
    first, last = start_us + -start_us % width, end_us - end_us % width
    if first >= last:
        return _cut(start_us, end_us, finer)
    middle = Segment(coarsest, first, last)
    return [*_cut(start_us, first, finer), middle, *_cut(last, end_us, finer)]


def rolled_span(parts: Sequence[Segment]) -> tuple[int, int] | None:
    """The one range that roll-ups answer, if any: raw segments are only ever at the two ends."""
    rolled = [part for part in parts if part.source is not Source.RAW]
    assert all(left.end_us == right.start_us for left, right in pairwise(rolled))
    return (rolled[0].start_us, rolled[-1].end_us) if rolled else None

"""How far the other lanes are, for a record that may repeat one of theirs."""

from __future__ import annotations

from typing import Any

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from headwater.stream import subjects
from headwater.stream.topology import UPLINK_STREAM


class StreamFrontier:
    def __init__(self, pool: Any, jetstream: JetStreamContext, lanes: int) -> None:
        self._pool = pool
        self._jetstream = jetstream
        self._lanes = lanes

    async def lowest_pending(self, lane: int) -> int | None:
        """The lowest stream sequence that any other lane has not stored yet; None where there is none."""
        rows = await self._pool.fetch(
            """
            SELECT lane, sequence - (SELECT sequence_offset FROM uplink_stream ORDER BY id DESC LIMIT 1) AS sequence
            FROM ingest_position WHERE consumer = 'store'
            """
        )
        positions = {row["lane"]: max(0, row["sequence"]) for row in rows}
        pending = []
        for other in range(self._lanes):
            if other == lane:
                continue
            try:
                # Not a direct get: a replica that lags behind would say that there is nothing older.
                message = await self._jetstream.get_msg(
                    UPLINK_STREAM, seq=positions.get(other, 0) + 1, subject=subjects.up(other), next=True
                )
            except NotFoundError:
                continue
            assert message.seq is not None
            pending.append(message.seq)
        return min(pending, default=None)

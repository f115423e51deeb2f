"""How far a consumer has come, kept where its results are.

Owns `ingest_position`, the locks on lanes and the list of UPLINK streams there have been. A lane belongs to the database
session that holds its advisory lock, and that same session writes: when it is lost, so is the lock, and whoever held it
can neither write nor move the position.

Positions are sequences of the stream plus an offset. A stream that was made anew counts from 1 again; its offset puts it
behind everything there was, so positions only rise and no record of it is taken for a known one.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import structlog
from nats.js import JetStreamContext

from headwater.stream.topology import UPLINK_STREAM

log = structlog.get_logger(__name__)

_STREAM_LOCK = zlib.crc32(b"headwater.uplink_stream") >> 1


SET_BACK_LOOKS = 10
SET_BACK_PAUSE_S = 1.0


class PositionLost(Exception):
    """The position is not what this session thinks: start over from what it is."""


async def read_position(connection: Any, consumer: str, lane: int) -> int:
    """Everything up to this has been done: a sequence of UPLINK plus `stream_offset`; 0 = nothing. lane: or a partition."""
    await connection.execute(
        "INSERT INTO ingest_position (consumer, lane) VALUES ($1, $2) ON CONFLICT DO NOTHING", consumer, lane
    )
    position = await connection.fetchval(
        "SELECT sequence FROM ingest_position WHERE consumer = $1 AND lane = $2", consumer, lane
    )
    return int(position)


async def move_position(connection: Any, consumer: str, lane: int, *, expected: int, to: int) -> None:
    """First statement of the transaction that does the work: whoever comes second waits here, and then finds out.

    Raises PositionLost.
    """
    moved = await connection.fetchval(
        """
        UPDATE ingest_position SET sequence = $4, updated_at = now()
        WHERE consumer = $1 AND lane = $2 AND sequence = $3
        RETURNING true
        """,
        consumer, lane, expected, to,
    )  # fmt: skip
    if not moved:
        raise PositionLost(f"{consumer} {lane} is not at {expected}")


async def stream_offset(connection: Any, jetstream: JetStreamContext) -> int:
    """What to add to a sequence of the present UPLINK stream. Notices a stream that was made anew or set back."""
    for attempt in range(SET_BACK_LOOKS):
        # In this order: positions only follow the stream.
        position = await _highest_position(connection)
        info = await jetstream.stream_info(UPLINK_STREAM)
        created, last = str(info.created), int(info.state.last_seq)
        known = await connection.fetchrow("SELECT created, sequence_offset FROM uplink_stream ORDER BY id DESC LIMIT 1")
        if known is not None and known["created"] == created and position - known["sequence_offset"] <= last:
            return int(known["sequence_offset"])
        if known is None or known["created"] != created:
            break
        # A new leader may not have applied its whole log yet: look again before believing it.
        await asyncio.sleep(SET_BACK_PAUSE_S)
        log.warning("stream_behind_position", attempt=attempt, last_sequence=last, position=position)
    return await _adopt(connection, jetstream)


async def _adopt(connection: Any, jetstream: JetStreamContext) -> int:
    """A stream that we have not seen before, or one that was restored to an older state.

    Every position changes, so that a session which still writes what the stream was finds out before it writes.
    """
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = on")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _STREAM_LOCK)
        # What such a session is writing now still counts: the offset comes behind it.
        await connection.execute("SELECT FROM ingest_position WHERE consumer <> 'rollup' ORDER BY consumer, lane FOR UPDATE")
        known = await connection.fetchrow("SELECT created, sequence_offset FROM uplink_stream ORDER BY id DESC LIMIT 1")
        position = await _highest_position(connection)
        # Looked at again: another session may have adopted it while we waited, and all of them have come far since.
        info = await jetstream.stream_info(UPLINK_STREAM)
        created, last = str(info.created), int(info.state.last_seq)
        if known is None:
            offset = position
        elif known["created"] != created:
            offset = position + 1
            log.error("stream_made_anew", created=created, position=position)
            await connection.execute("UPDATE ingest_position SET sequence = $1 WHERE consumer <> 'rollup'", offset)
        elif position - known["sequence_offset"] <= last:
            return int(known["sequence_offset"])
        else:
            offset = position + 1 - last
            log.error("stream_set_back", last_sequence=last, position=position)
            # What the stream still has, each consumer has done as far as it had come.
            await connection.execute(
                """
                UPDATE ingest_position SET sequence = $2 + least(greatest(sequence - $1, 0), $3)
                WHERE consumer <> 'rollup'
                """,
                known["sequence_offset"], offset, last,
            )  # fmt: skip
        await connection.execute("INSERT INTO uplink_stream (created, sequence_offset) VALUES ($1, $2)", created, offset)
        return offset


async def _highest_position(connection: Any) -> int:
    return int(await connection.fetchval("SELECT coalesce(max(sequence), 0) FROM ingest_position"))

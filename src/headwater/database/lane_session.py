"""Sessions of headwater_writer that hold something for as long as they live: a lane, a membership, a duty.

A worker that was frozen, or whose machine vanished, must not hold it for ever: the server ends a session that says nothing
for a while, so its holder speaks up now and then.
"""

from __future__ import annotations

import zlib
from typing import Any

import asyncpg

from headwater.database.session import type_json_decoder, type_json_encoder

PING_S = 10.0
"""How often a holder that has nothing to do speaks up; well within idle_session_timeout."""

_SETTINGS = {
    "timezone": "UTC",
    "idle_session_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
    "statement_timeout": "120s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "15000",
    # Plans of our statements are cheap and their rows many: compiling them costs more than it saves.
    "jit": "off",
}
CONNECT_S = 10.0
COMMAND_S = 150.0
"""A little more than statement_timeout: the server's word on it comes first."""


async def open_lane_session(url: str, application_name: str, *, synchronous_commit: bool = True) -> Any:
    """An asyncpg connection that speaks jsonb as Python values."""
    settings = {
        **_SETTINGS,
        "application_name": application_name,
        "synchronous_commit": "on" if synchronous_commit else "off",
    }
    connection = await asyncpg.connect(url, timeout=CONNECT_S, command_timeout=COMMAND_S, server_settings=settings)
    try:
        await connection.set_type_codec(
            "jsonb",
            schema="pg_catalog",
            format="binary",
            encoder=lambda value: b"\x01" + type_json_encoder.encode(value),
            decoder=lambda data: type_json_decoder.decode(data[1:]),
        )
    except BaseException:
        connection.terminate()
        raise
    return connection


def lock_key(name: str) -> int:
    """A name's first half of a two-part advisory lock; a positive int4, so it reads the same in pg_locks."""
    return zlib.crc32(f"headwater.{name}".encode()) >> 1


async def try_lock(connection: Any, name: str, number: int) -> bool:
    """Hold it for as long as this session lives; False where another session does."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1::int, $2::int)", lock_key(name), number))

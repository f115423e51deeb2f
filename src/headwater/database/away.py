"""What asyncpg raises when PostgreSQL is away, or ends a session; anything else is a fault of ours."""

from __future__ import annotations

import asyncpg

AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""InternalClientError, which is none of the others, is said of a session that the server has ended and whose socket is not
closed yet."""

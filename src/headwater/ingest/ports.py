"""What ingest needs from the stream, written by the one who needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from headwater.errors import QuotaExceeded, Unavailable
from headwater.stream.envelope import DeadLetter, Record


class StreamFull(QuotaExceeded):
    """The stream refuses: PostgreSQL has been away for longer than the backlog may last."""

    code = "stream.full"


class StreamUnavailable(Unavailable):
    """NATS cannot store now."""

    code = "stream.unavailable"


class Uplink(Protocol):
    def submit(self, records: Sequence[Record]) -> asyncio.Future[None]:
        """Done when the stream has stored every record; fails with StreamFull or StreamUnavailable."""

    def reject(self, tenant_id: UUID, letter: DeadLetter) -> asyncio.Future[None]:
        """Done when the dead letter is stored."""

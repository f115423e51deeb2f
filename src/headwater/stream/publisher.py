"""Publishing until it is stored, or until it is certain that it is not.

A publish whose acknowledgement did not come is repeated with the same `Nats-Msg-Id`, so the stream keeps it once. The
stream's duplicate window (two minutes) is longer than we ever repeat.

Nothing is handed to a client without a connection: it would keep it, and send it when NATS is back, although we had given up
and the device was told so, or has sent it again elsewhere. What remains is what a server got and never answered, frozen
with its socket open.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError

from headwater.ingest.ports import StreamFull, StreamUnavailable

ATTEMPT_S = 3.0
"""An acknowledgement takes milliseconds; a leader election about two seconds."""
GIVE_UP_S = 45.0
"""Long enough for a killed nats-server to come back, short enough for the duplicate window."""
RETRY_S = 0.2
FULL_RETRY_AFTER_S = 5.0

_FULL = frozenset({10077, 10023, 10047})
"""JSStreamStoreFailed ("maximum bytes exceeded"), JSInsufficientResources, JSStorageResourcesExceeded."""


class Publisher:
    """Publishes to streams. One per process; safe for any number of concurrent calls."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream
        self._client = jetstream._nc  # its context shows it under no other name
        self._instance = uuid.uuid4().hex[:16]
        self._number = itertools.count(1)

    async def publish(self, subject: str, payload: bytes, *, message_id: str | None = None) -> int:
        """Returns the stream sequence once stored (fsynced or replicated). Raises StreamFull, StreamUnavailable."""
        headers = {"Nats-Msg-Id": message_id or f"{self._instance}-{next(self._number)}"}
        loop = asyncio.get_running_loop()
        give_up = loop.time() + GIVE_UP_S
        while True:
            try:
                if not self._client.is_connected:
                    raise nats.errors.ConnectionReconnectingError
                ack = await self._jetstream.publish(subject, payload, timeout=ATTEMPT_S, headers=headers)
            except APIError as error:
                if error.err_code in _FULL and "peer" not in (error.description or ""):
                    raise StreamFull("the stream is full", retry_after_s=FULL_RETRY_AFTER_S) from error
                problem: Exception = error
            except NoStreamResponseError as error:
                problem = error
            except nats.errors.MaxPayloadError as error:
                raise StreamUnavailable("a message is larger than NATS's max_payload; raise it") from error
            except (TimeoutError, nats.errors.Error, OSError) as error:
                problem = error
            else:
                return int(ack.seq)
            if loop.time() >= give_up:
                raise StreamUnavailable(f"the stream did not answer for {GIVE_UP_S:.0f} s") from problem
            await asyncio.sleep(RETRY_S)


class CorePublisher:
    """Publishes to whoever listens now, and stores nothing: for QoS 0, where a message may be lost (section 4.3.1)."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def publish(self, subject: str, payload: bytes) -> int:
        """Returns 0. Raises StreamUnavailable."""
        try:
            if not self._client.is_connected:
                raise nats.errors.ConnectionReconnectingError
            await self._client.publish(subject, payload)
        except (nats.errors.Error, OSError) as error:
            raise StreamUnavailable("NATS is away") from error
        return 0

"""An ordered reader of one subject of UPLINK, from a stream sequence onwards.

Owns a disposable consumer: ephemeral, in memory, without acknowledgements, pulled. The place is the caller's, kept with
what it did; here it is only where to start again. Whatever goes wrong (a gap in the consumer's sequence, a missing
heart-beat, a reconnection, a leader change, the consumer gone) has one answer: a new consumer behind the last message that
was received. So nothing is skipped and nothing is given twice.

Refuses to read ahead without end: one pull is under way at a time, and only while what waits here is below the bounds.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from typing import Any, NamedTuple

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from headwater.stream.topology import UPLINK_STREAM

log = structlog.get_logger(__name__)

MESSAGES_MAX = 1024
"""A pull's messages: under light load a second or two of them."""
BYTES_MAX = 8 << 20
"""A pull's bytes, and about half of what a reader may hold; above NATS's largest sensible max_payload."""
HEARTBEAT_S = 2.0
"""The server's sign of life while it has nothing; two missing mean that the consumer is gone."""
EXPIRES_S = 30.0
INACTIVE_S = 30.0
"""After this long without a pull the server forgets a consumer whose reader died."""
REQUEST_S = 3.0
"""A leader election takes about two seconds."""
PAUSE_S = 0.25
"""Between attempts to make a consumer while NATS cannot."""


class Delivery(NamedTuple):
    sequence: int
    """stream sequence"""
    data: bytes


class _Place(NamedTuple):
    consumer: str
    stream_sequence: int
    consumer_sequence: int


class OrderedReader:
    """Use as `async with OrderedReader(client, subject, after=position) as reader`, then call `take` for ever.

    position  stream sequence of the last message given out
    """

    def __init__(
        self, client: Client, subject: str, *, after: int, stream: str = UPLINK_STREAM,
        messages_max: int = MESSAGES_MAX, bytes_max: int = BYTES_MAX,
    ) -> None:  # fmt: skip
        self.position = after
        self._client = client
        self._subject = subject
        self._stream = stream
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._received = after
        """stream sequence of the last message that came in order"""
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._consumer = ""
        self._consumer_sequence = 0
        self._pull = 0
        """number of the pull under way, which stands in its reply subject"""
        self._pull_remaining = 0
        self._pull_received = 0
        self._bounded = True
        """a message larger than `bytes_max` is pulled alone and without that bound"""
        self._broken = "new"
        self._reconnects = 0
        self._heard_at = 0.0
        self.restarts = 0

    async def __aenter__(self) -> OrderedReader:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._abandon()

    async def take(self, *, bytes_max: int, wait_s: float) -> list[Delivery]:
        """The next messages in order, until `bytes_max` is reached; waits up to `wait_s` for the first, then gives none."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            await self._look_after()
            if self._waiting:
                return self._give(bytes_max)
            remaining = deadline - loop.time()
            if remaining <= 0:
                return []
            self._arrived.clear()
            try:
                async with asyncio.timeout(min(remaining, HEARTBEAT_S / 2)):
                    await self._arrived.wait()
            except TimeoutError:
                continue

    def _give(self, bytes_max: int) -> list[Delivery]:
        given, size = [], 0
        while self._waiting and size < bytes_max:
            given.append(self._waiting.popleft())
            size += len(given[-1].data)
        self._waiting_bytes -= size
        self.position = given[-1].sequence
        return given

    async def _look_after(self) -> None:
        """Keep a consumer alive and one pull under way, as far as NATS lets us now."""
        if not self._client.is_connected:
            self._broken = self._broken or "disconnected"
            await asyncio.sleep(0.05)
            return
        if self._client.stats["reconnects"] != self._reconnects:
            self._broken = self._broken or "reconnected"
        if (
            not self._broken
            and asyncio.get_running_loop().time() - self._heard_at > 2.5 * HEARTBEAT_S
            and self._pull_remaining
        ):
            self._broken = "no heart-beat"
        try:
            if self._broken:
                await self._start()
            if not self._pull_remaining and self._has_room():
                await self._ask()
        except (nats.errors.Error, TimeoutError, OSError, msgspec.DecodeError) as error:
            log.info("reader_waits", subject=self._subject, reason=str(error) or type(error).__name__)
            self._broken = self._broken or "refused"
            await asyncio.sleep(PAUSE_S)

    def _has_room(self) -> bool:
        return len(self._waiting) < self._messages_max // 2 and self._waiting_bytes < self._bytes_max // 2

    async def _start(self) -> None:
        """A new consumer behind the last message that came in order."""
        if self._broken != "new":
            self.restarts += 1
            log.info("reader_restarts", subject=self._subject, after=self._received, reason=self._broken)
        await self._abandon()
        self._reconnects = self._client.stats["reconnects"]
        name = f"r{uuid.uuid4().hex}"
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._received + 1,
            "filter_subject": self._subject,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "max_waiting": 8,
            "inactive_threshold": int(INACTIVE_S * 1e9),
        }
        await self._request(
            f"$JS.API.CONSUMER.CREATE.{self._stream}.{name}.{self._subject}",
            {"stream_name": self._stream, "config": config, "action": "create"},
        )
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._on_message, pending_bytes_limit=0)
        self._consumer = name
        self._consumer_sequence = 0
        self._pull_remaining = 0
        self._bounded = True
        self._broken = ""

    async def _abandon(self) -> None:
        subscription, self._subscription = self._subscription, None
        consumer, self._consumer = self._consumer, ""
        if subscription is None or self._client.is_closed:
            return
        try:
            await subscription.unsubscribe()
            await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}")
        except (nats.errors.Error, OSError):
            # The server forgets both by itself; we only wanted to be polite.
            log.debug("reader_not_abandoned", subject=self._subject)

    async def _request(self, subject: str, body: dict[str, Any]) -> None:
        answer = await self._client.request(subject, msgspec.json.encode(body), timeout=REQUEST_S)
        error = msgspec.json.decode(answer.data).get("error")
        if error is not None:
            raise nats.errors.Error(f"{error.get('description')} ({error.get('err_code')})")

    async def _ask(self) -> None:
        self._pull += 1
        self._pull_remaining = self._messages_max if self._bounded else 1
        self._pull_received = 0
        request: dict[str, Any] = {
            "batch": self._pull_remaining,
            "expires": int(EXPIRES_S * 1e9),
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        if self._bounded:
            request["max_bytes"] = self._bytes_max
        self._heard_at = asyncio.get_running_loop().time()
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
            msgspec.json.encode(request),
            reply=f"{self._inbox}.{self._pull}",
        )

    async def _on_message(self, message: Msg) -> None:
        """A message of the stream, or a status. Whatever is still under way from an earlier consumer is not looked at."""
        place = _place_of(message.reply)
        if place is None:
            self._on_status(message)
            return
        if place.consumer != self._consumer or self._broken:
            return
        self._heard_at = asyncio.get_running_loop().time()
        if place.consumer_sequence != self._consumer_sequence + 1 or place.stream_sequence <= self._received:
            self._break(f"message {place.consumer_sequence} after {self._consumer_sequence}")
            return
        self._consumer_sequence = place.consumer_sequence
        self._received = place.stream_sequence
        self._pull_remaining = max(0, self._pull_remaining - 1)
        self._pull_received += 1
        self._bounded = True
        self._waiting.append(Delivery(place.stream_sequence, message.data))
        self._waiting_bytes += len(message.data)
        self._arrived.set()

    def _on_status(self, message: Msg) -> None:
        inbox, _, pull = message.subject.rpartition(".")
        if inbox != self._inbox or pull != str(self._pull):
            return
        self._heard_at = asyncio.get_running_loop().time()
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "").lower()
        if status == "100":
            return
        if status == "408" or "batch completed" in description:
            self._pull_remaining = 0
        elif status == "409" and "exceeds maxbytes" in description:
            self._pull_remaining = 0
            # Nothing came before it: that message alone is larger than our bound.
            self._bounded = self._pull_received > 0
        else:
            self._break(f"{status} {description}".strip() or "unknown status")
        self._arrived.set()

    def _break(self, reason: str) -> None:
        self._broken = reason
        self._arrived.set()


def _place_of(reply: str) -> _Place | None:
    """$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, in newer servers with
    <domain>.<account> before the stream. Source: NATS ADR-15. None where it is no message of a stream.
    """
    if not reply.startswith("$JS.ACK."):
        return None
    tokens = reply.split(".")
    first = 2 if len(tokens) == 9 else 4
    return _Place(tokens[first + 1], int(tokens[first + 3]), int(tokens[first + 4]))

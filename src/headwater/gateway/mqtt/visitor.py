"""A connection between accept and CONNECT, why it may not stay, and who wants to hear of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import structlog

from headwater.gateway.mqtt.back_off import TokenBucket

log = structlog.get_logger(__name__)

LOG_LINES_PER_S, LOG_LINES_BURST = 1, 20
"""Of refused connections. A flood is counted, not written down: a line takes a third of a millisecond, in which no device is
served."""
STAGES = ("accept", "proxy", "tls", "websocket", "mqtt")


class Visitor:
    """A connection between accept and CONNECT."""

    __slots__ = ("address", "drop", "host", "is_here", "over", "refuse", "scheme", "since")

    def __init__(self, address: str, since: float) -> None:
        self.address = address
        self.host = ""
        """of whom it counts; empty = of nobody"""
        self.scheme = ""
        """of the port that it came to"""
        self.since = since
        self.drop: Callable[[Refusal], None] = drop_nobody
        """ends it; whoever carries it on puts a new one there, while it is here"""
        self.refuse: Callable[[Refusal], None] = drop_nobody
        """tells whoever wants to hear why it may not stay; of its port, while it is here"""
        self.is_here = True
        self.over = False
        """it was refused; whatever it ends with afterwards is no news"""


def drop_nobody(_refusal: Refusal) -> None:
    return


class Refusal(NamedTuple):
    """Why a connection ended before anybody knew whose it was.

    stage     one of STAGES
    protocol  the MQTT version, where it came that far
    """

    stage: str
    code: str
    detail: str
    protocol: str = ""


class Refusals(Protocol):
    """Who wants to hear of connections that were refused before authentication. Called often in an attack: be brief."""

    def refused(self, visitor: Visitor, refusal: Refusal) -> None: ...


class LoggedRefusals:
    """A log line each, up to LOG_LINES_BURST and then LOG_LINES_PER_S; how many more there were stands in the next one."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lines = TokenBucket(LOG_LINES_PER_S, LOG_LINES_BURST, now())
        self._unsaid = 0

    def refused(self, visitor: Visitor, refusal: Refusal) -> None:
        if self._lines.wait_s(self._now()) > 0:
            self._unsaid += 1
            return
        self._lines.take()
        log.info(
            "connection_refused", address=visitor.address, listener=visitor.scheme, stage=refusal.stage, code=refusal.code,
            detail=refusal.detail, unsaid=self._unsaid,
        )  # fmt: skip
        self._unsaid = 0

"""TCP ports: which are free."""

from __future__ import annotations

import random
import socket
from collections import deque
from pathlib import Path

from headwater.errors import DomainError

_given: deque[int] = deque(maxlen=1_000)
"""Who asks for several wants different ones, and uses none of them before the last."""


class PortTaken(DomainError):
    code = "port.taken"


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Nobody listens there, not even somebody who would share (SO_REUSEPORT)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port that was free a moment ago, and is not one that was given before; below those that the kernel gives to outgoing
    connections.

    A client that keeps trying to reach a server that restarts would now and then be given the server's own port, connect
    to itself, and keep the server from coming back.
    """
    lowest = _ephemeral_lowest()
    while True:
        port = random.randrange(max(1024, lowest - 16_000), lowest)  # noqa: S311  # not a secret
        if port not in _given and is_free(port) and is_free(port, "0.0.0.0"):  # noqa: S104  # asked, not served
            _given.append(port)
            return port


def _ephemeral_lowest() -> int:
    try:
        return max(4096, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]))
    except OSError:
        return 32_768

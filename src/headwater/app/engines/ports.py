"""TCP ports: which are free."""

from __future__ import annotations

import socket

from headwater.errors import DomainError


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
    """A port that was free a moment ago; whoever starts a server on it must be ready to ask again."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""Load generators for MQTT brokers, ours or another: each a program of its own that says what it found as JSON.

`publish`       many devices, each with a window of unacknowledged messages; or idle connections that are held
`delivery`      from publishers to subscribers: every message is counted where it arrives
`arrivals`      connections, from TCP to CONNACK
`handshakes`    TLS connections that come and go
`storm`         devices that all come back at once
`siege`         strangers that attack

Written on epoll and plain sockets, because a load generator shares the machine with what it measures.
"""

from headwater.testing.load.arrivals import raise_file_limit
from headwater.testing.load.publish import Load, Result, hold, run
from headwater.testing.load.wire import Credentials, read_credentials

__all__ = ["Credentials", "Load", "Result", "hold", "raise_file_limit", "read_credentials", "run"]

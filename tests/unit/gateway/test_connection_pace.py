"""A connection's own quota: what is above it is not read, and nothing else happens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from headwater.gateway.metering import TenantMeter
from headwater.gateway.mqtt.connection import MQTTConnection
from headwater.gateway.mqtt.publishing import Publishing
from headwater.gateway.mqtt.visitor import Visitor
from headwater.protocols.mqtt import Connect, Publish, encode_packet
from headwater.protocols.mqtt.limits import Limits
from headwater.tenancy.quotas import Quotas

MESSAGE = encode_packet(Publish("a", b"1", 0), 4)


@pytest.fixture(autouse=True)
def _nothing_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes of a message is another matter."""
    monkeypatch.setattr(Publishing, "publish", lambda _publishing, _packet: None)


class Transport:
    """Remembers whether it is read."""

    def __init__(self) -> None:
        self.is_reading = True
        self.written = b""

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        raise AssertionError("it was closed")

    def get_write_buffer_size(self) -> int:
        return 1

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, _name: str) -> None:
        return None


class World:
    def __init__(self, **quotas: int) -> None:
        self.now = 0.0
        listener = SimpleNamespace(
            limits=Limits(), now=lambda: self.now, opened=lambda _connection: None, lane=SimpleNamespace(full=False),
            admission=SimpleNamespace(admit=lambda _connection: None, leave=lambda _connection: None),
        )  # fmt: skip
        self.connection = MQTTConnection(cast("Any", listener), Visitor("192.0.2.1:1", 0.0))
        self.transport = Transport()
        self.connection.connection_made(cast("Any", self.transport))
        hello = Connect(client_id="a", protocol_level=4, keep_alive_s=1)
        self.connection.data_received(encode_packet(hello, 4))
        self.connection.meter = TenantMeter(Quotas(**quotas))
        self.connection.handle(self.connection.accept(session_present=False, received=()))

    def second(self) -> None:
        self.now += 1
        self.connection.tick(self.now)


@pytest.mark.parametrize("quotas", [{"device_messages_per_s": 10}, {"device_bytes_per_s": 10 * len(MESSAGE)}])
def test_what_is_too_much_is_paid_back_in_time(quotas: dict[str, int]) -> None:
    world = World(**quotas)
    world.connection.data_received(MESSAGE * 10)  # a second's worth, either way
    assert world.transport.is_reading
    world.connection.data_received(MESSAGE * 25)
    assert not world.transport.is_reading
    reading = []
    for _ in range(3):
        world.second()  # the keep-alive of 1 s does not run out meanwhile
        reading.append(world.transport.is_reading)
    assert reading == [False, False, True]


def test_what_is_not_used_is_not_saved() -> None:
    world = World(device_messages_per_s=10)
    for _ in range(10):
        world.second()
        world.connection.data_received(MESSAGE)
    world.connection.data_received(MESSAGE * 11)
    assert not world.transport.is_reading


def test_a_silent_connection_that_is_read_from_times_out_as_ever() -> None:
    world = World(device_messages_per_s=10)
    world.second()
    with pytest.raises(AssertionError, match="it was closed"):
        world.second()


def test_a_new_quota_holds_from_the_next_second() -> None:
    world = World(device_messages_per_s=1_000)
    world.connection.data_received(MESSAGE * 100)
    assert world.connection.meter is not None
    world.connection.meter.apply(Quotas(device_messages_per_s=10), 1)
    world.second()
    world.connection.data_received(MESSAGE * 11)
    assert not world.transport.is_reading

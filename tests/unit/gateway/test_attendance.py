"""What a gateway says of its devices when the stream refuses for a while."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.clock import FakeClock

from headwater.device.presence import Ended
from headwater.device.principal import Principal, ProfileVersion
from headwater.device.profile import ProfileDefinition
from headwater.gateway import presence
from headwater.gateway.presence import Attendance
from headwater.ids import uuid7
from headwater.ingest.ports import StreamFull
from headwater.stream.envelope import Kind
from headwater.tenancy.quotas import Quotas
from headwater.testing.memory_uplink import MemoryUplink


def principal() -> Principal:
    profile = ProfileVersion(uuid7(), 1, ProfileDefinition())
    return Principal(uuid7(), "acme", Quotas(), uuid7(), "sensor", profile, uuid7())


@pytest.fixture
def uplink() -> MemoryUplink:
    return MemoryUplink()


@pytest.fixture
def attendance(uplink: MemoryUplink, monkeypatch: pytest.MonkeyPatch) -> Attendance:
    monkeypatch.setattr(presence, "AGAIN_S", 0)
    return Attendance(uplink, uuid7(), FakeClock())


def came(attendance: Attendance, device: Principal, epoch: int = 1) -> None:
    attendance.came(device, epoch, 0, client_id="c", protocol="mqtt/5", address="a:1")


def refuse(uplink: MemoryUplink) -> None:
    uplink.refusal = StreamFull("full", retry_after_s=1)
    uplink.release()
    uplink.refusal = None


async def turns() -> None:
    """What is due is done."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_was_refused_is_said_again_once(attendance: Attendance, uplink: MemoryUplink) -> None:
    uplink.held = True
    devices = [principal(), principal()]
    for device in devices:
        came(attendance, device)
    refuse(uplink)
    await turns()
    refuse(uplink)
    await turns()
    uplink.release()
    await turns()
    uplink.release()
    assert [record.device for record in uplink.records] == [device.device_id.bytes for device in devices]


async def test_an_older_word_is_not_said_behind_a_newer_one_that_was_stored(
    attendance: Attendance, uplink: MemoryUplink
) -> None:
    device = principal()
    uplink.held = True
    came(attendance, device)
    refuse(uplink)
    attendance.left(device, 1, 1, reason=Ended.CONNECTION_LOST, detail="closed by the device")
    uplink.release()
    await turns()
    uplink.release()
    assert [record.kind for record in uplink.records] == [Kind.DISCONNECTED]


async def test_a_word_that_came_between_refusal_and_repetition_takes_its_place(
    attendance: Attendance, uplink: MemoryUplink
) -> None:
    device = principal()
    uplink.held = True
    came(attendance, device, epoch=1)
    refuse(uplink)
    await asyncio.sleep(0)  # it knows of the refusal, and the repetition is due in the next turn
    came(attendance, device, epoch=2)
    await turns()
    uplink.release()
    assert [record.epoch for record in uplink.records] == [2]


async def test_a_newer_word_is_not_forgotten_when_the_older_one_was_stored(
    attendance: Attendance, uplink: MemoryUplink
) -> None:
    device = principal()
    uplink.held = True
    came(attendance, device)
    uplink.release()
    attendance.left(device, 1, 1, reason=Ended.CONNECTION_LOST, detail="closed by the device")
    await turns()
    refuse(uplink)
    await turns()
    uplink.release()
    assert [record.kind for record in uplink.records] == [Kind.CONNECTED, Kind.DISCONNECTED]

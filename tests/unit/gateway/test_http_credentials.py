from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from headwater.device.authentication import Authentication, DeviceRefused, Presented
from headwater.device.principal import Principal, ProfileVersion
from headwater.device.profile import ProfileDefinition
from headwater.errors import Unavailable
from headwater.gateway.http import credentials as module
from headwater.gateway.http.credentials import Credentials, presented
from headwater.gateway.metering import Meters
from headwater.tenancy.quotas import Quotas

TENANT, PROFILE = uuid4(), ProfileVersion(uuid4(), 1, ProfileDefinition())


class Registry:
    """Knows every token that names a device id; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.wait: asyncio.Event | None = None
        self.failure: Exception | None = None

    async def authenticate(self, shown: Presented) -> Principal | None:
        self.asked += 1
        if self.wait is not None:
            await self.wait.wait()
        if self.failure is not None:
            raise self.failure
        assert shown.password is not None
        device_id = UUID(shown.password.decode())
        return Principal(TENANT, "t", Quotas(), device_id, "x", PROFILE, device_id)


@pytest.fixture
def registry() -> Registry:
    return Registry()


def bearer(number: int) -> bytes:
    return f"Bearer {UUID(int=number)}".encode()


async def test_asked_once_while_it_is_remembered(registry: Registry) -> None:
    now = [0.0]
    credentials = Credentials(Authentication((registry,)), now=lambda: now[0])
    for _ in range(3):
        assert (await credentials.identify(bearer(1))).principal.device_id == UUID(int=1)
    assert registry.asked == 1
    now[0] += module.REMEMBERED_S
    await credentials.identify(bearer(1))
    assert registry.asked == 2


async def test_a_change_while_we_ask_is_not_remembered(registry: Registry) -> None:
    meters = Meters()
    credentials = Credentials(Authentication((registry,)), meters)
    registry.wait = asyncio.Event()
    asking = asyncio.create_task(credentials.identify(bearer(1)))
    while not registry.asked:  # noqa: ASYNC110  # a turn of the loop is all it takes
        await asyncio.sleep(0)
    credentials.forget(UUID(int=1))
    registry.wait.set()
    await asking
    assert meters._meters == {}
    await credentials.identify(bearer(1))
    assert registry.asked == 2


async def test_forgetting_by_any_identifier_and_the_bound(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_MAX", 10)
    meters = Meters()
    credentials = Credentials(Authentication((registry,)), meters)
    for number in range(25):
        await credentials.identify(bearer(number))
    assert len(credentials._senders) == 10
    assert meters._meters[TENANT].connections == 1
    credentials.forget(UUID(int=24))
    assert len(credentials._senders) == 9
    credentials.forget(PROFILE.profile_id)
    assert (credentials._senders, credentials._digests, credentials._held, meters._meters) == ({}, {}, {}, {})


async def test_many_requests_of_a_device_that_is_not_remembered_yet(registry: Registry) -> None:
    meters = Meters()
    credentials = Credentials(Authentication((registry,)), meters)
    await asyncio.gather(*(credentials.identify(bearer(1)) for _ in range(50)))
    credentials.forget(TENANT)
    assert (credentials._senders, credentials._held, meters._meters) == ({}, {}, {})


async def test_a_registry_that_is_away_is_not_a_refusal(registry: Registry) -> None:
    registry.failure = ConnectionRefusedError()
    with pytest.raises(Unavailable):
        await Credentials(Authentication((registry,))).identify(bearer(1))


async def test_while_the_registry_is_away_the_known_go_on(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    credentials = Credentials(Authentication((registry,)), now=lambda: now[0])
    sender = await credentials.identify(bearer(1))
    registry.failure = ConnectionRefusedError()
    for _ in range(3):
        now[0] += module.REMEMBERED_S
        assert await credentials.identify(bearer(1)) is sender
    monkeypatch.setattr(module, "LOOKUP_S", 0.01)
    registry.wait = asyncio.Event()  # it hangs
    now[0] += module.REMEMBERED_S
    assert await credentials.identify(bearer(1)) is sender
    now[0] += module.REMEMBERED_S + module.STALE_S + 1
    with pytest.raises(Unavailable):
        await credentials.identify(bearer(1))


async def test_a_refusal_ends_what_was_remembered_and_a_debt_outlives_ten_seconds(registry: Registry) -> None:
    now = [0.0]
    meters = Meters()
    credentials = Credentials(Authentication((registry,)), meters, now=lambda: now[0])
    sender = await credentials.identify(bearer(1))
    assert sender.meter is not None
    sender.meter.left = -1_000
    now[0] += module.REMEMBERED_S
    again = await credentials.identify(bearer(1))
    assert again.meter is not None
    assert (again is not sender, again.meter.left) == (True, -1_000)
    now[0] += module.REMEMBERED_S
    registry.failure = DeviceRefused("revoked")
    with pytest.raises(DeviceRefused):
        await credentials.identify(bearer(1))
    assert (credentials._senders, meters._meters) == ({}, {})


@pytest.mark.parametrize("header", [b"", b"Bearer ", b"Digest x", b"Basic !", b"Basic /w==", b"\xff", b"hwd_x"])
def test_headers_that_present_nothing(header: bytes) -> None:
    with pytest.raises(DeviceRefused):
        presented(header)

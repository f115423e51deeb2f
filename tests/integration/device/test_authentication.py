"""Which devices come in, and each way to be refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from tests.support.engines import DatabaseURLs

from headwater.clock import SystemClock, to_datetime
from headwater.database.session import Database
from headwater.device.authentication import Authentication, DeviceRefused, DeviceSuspended, Presented, TokenAuthenticator
from headwater.device.credentials import LIVE_MAX
from headwater.device.errors import CredentialLimit
from headwater.device.profile import Metric, ProfileDefinition
from headwater.errors import Conflict
from headwater.tenancy import secrets
from headwater.tenancy.scope import TenantScope

from .conftest import Registry


class LaterClock(SystemClock):
    def now_us(self) -> int:
        return super().now_us() + 3_600_000_000


class CountingDatabase:
    """The real one, with its sessions counted, and able to be away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sessions = 0
        self.failing = False

    @asynccontextmanager
    async def lookup_session(self) -> AsyncIterator[Any]:
        self.sessions += 1
        if self.failing:
            raise ConnectionError("away")
        async with self._database.lookup_session() as connection:
            yield connection


@pytest.fixture
def authentication(registry: Registry) -> Authentication:
    return Authentication([TokenAuthenticator(registry.database, SystemClock())])


async def test_all_three_ways_to_show_a_token(
    registry: Registry, scope: TenantScope, authentication: Authentication
) -> None:
    device = await registry.make(scope, "a")
    issued = await registry.credentials.issue(scope, device.id)
    second = await registry.credentials.issue(scope, device.id)
    for presented in (
        Presented(issued.username, issued.password.encode()),
        Presented(issued.password),
        Presented(None, issued.password.encode()),
        Presented(f"{issued.username}?SDK=CRTPython&Version=1", issued.password.encode()),
        Presented("?SDK=CRTPython&Version=1", issued.password.encode()),
        Presented(second.username, second.password.encode()),
    ):
        principal = await authentication.authenticate(presented)
        assert (principal.tenant_id, principal.device_id, principal.external_id) == (scope.tenant_id, device.id, "a")
        assert principal.credential_id in {issued.id, second.id}


async def test_a_changed_profile_is_another_version(
    registry: Registry, scope: TenantScope, authentication: Authentication
) -> None:
    profile = await registry.profiles.create(scope, "p", ProfileDefinition())
    device = await registry.make(scope, "a", profile="p")
    issued = await registry.credentials.issue(scope, device.id)
    first = await authentication.authenticate(Presented(issued.password))
    assert (await authentication.authenticate(Presented(issued.password))).profile is first.profile
    await registry.profiles.update(scope, profile.id, definition=ProfileDefinition(metrics=(Metric("t"),)))
    second = await authentication.authenticate(Presented(issued.password))
    assert (second.profile.version, second.profile.definition.metrics[0].name) == (2, "t")
    assert registry.events.seen == [("profile", profile.id, "changed")]


async def test_refusals(
    registry: Registry, scope: TenantScope, authentication: Authentication, database_urls: DatabaseURLs
) -> None:
    device, other = await registry.make(scope, "a"), await registry.make(scope, "b")
    issued = await registry.credentials.issue(scope, device.id)
    good = Presented(issued.username, issued.password.encode())

    forged = secrets.mint(secrets.DEVICE, issued.id).text.encode()
    unknown = secrets.mint(secrets.DEVICE, device.id).text.encode()
    for presented in (
        Presented(issued.username, forged),
        Presented(issued.username, unknown),
        Presented(str(other.id), issued.password.encode()),
        Presented("someone", issued.password.encode()),
        Presented(issued.username, b"\xff\xfe"),
        Presented(issued.username, issued.password.encode() + b"\n"),
        Presented("someone", b""),
        Presented(),
    ):
        with pytest.raises(DeviceRefused):
            await authentication.authenticate(presented)

    later = Authentication([TokenAuthenticator(registry.database, LaterClock())])
    soon = to_datetime(SystemClock().now_us()) + timedelta(minutes=1)
    brief = await registry.credentials.issue(scope, device.id, expires_at=soon)
    assert (await authentication.authenticate(Presented(brief.password))).device_id == device.id
    with pytest.raises(DeviceRefused, match="expired"):
        await later.authenticate(Presented(brief.password))

    await registry.devices.suspend(scope, device.id)
    with pytest.raises(DeviceSuspended, match="suspended"):
        await authentication.authenticate(good)
    await registry.devices.resume(scope, device.id)

    operator: Any = await asyncpg.connect(database_urls.operator)
    await operator.execute("UPDATE headwater.tenant SET status = 'suspended' WHERE id = $1", scope.tenant_id)
    with pytest.raises(DeviceSuspended, match="tenant"):
        await authentication.authenticate(good)
    await operator.execute("UPDATE headwater.tenant SET status = 'active' WHERE id = $1", scope.tenant_id)
    await operator.close()

    await registry.credentials.revoke(scope, device.id, issued.id)
    with pytest.raises(DeviceRefused, match="revoked"):
        await authentication.authenticate(good)
    await registry.devices.delete(scope, device.id)
    with pytest.raises(DeviceRefused):
        await authentication.authenticate(Presented(brief.password))


async def test_credentials_are_bounded(registry: Registry, scope: TenantScope) -> None:
    device = await registry.make(scope, "a")
    issued = [await registry.credentials.issue(scope, device.id) for _ in range(LIVE_MAX)]
    with pytest.raises(CredentialLimit):
        await registry.credentials.issue(scope, device.id)
    await registry.credentials.revoke(scope, device.id, issued[0].id)
    assert (await registry.credentials.revoke(scope, device.id, issued[0].id)).revoked_at is not None
    fresh = await registry.credentials.issue(scope, device.id)
    assert issued[0].password not in repr(issued[0])
    assert fresh.id in {c.id for c in await registry.credentials.list(scope, device.id)}
    with pytest.raises(Conflict):
        await registry.credentials.issue(scope, device.id, expires_at=to_datetime(0))


async def test_lookup_of_many_credentials(registry: Registry, scope: TenantScope) -> None:
    issued = [
        await registry.credentials.issue(scope, (await registry.make(scope, external_id)).id) for external_id in ("a", "b")
    ]
    authenticator = TokenAuthenticator(registry.database, SystemClock())
    found = await authenticator.lookup([i.id for i in issued] + [scope.tenant_id])
    assert {credential: one.external_id for credential, one in found.items()} == {issued[0].id: "a", issued[1].id: "b"}
    assert found[issued[0].id].profile is found[issued[1].id].profile
    assert {authenticator.principal(one, credential).external_id for credential, one in found.items()} == {"a", "b"}
    assert "hash" not in repr(found)


async def test_a_storm_shares_queries(registry: Registry, scope: TenantScope) -> None:
    issued = [await registry.credentials.issue(scope, (await registry.make(scope, f"d{n}")).id) for n in range(20)]
    forged = [secrets.mint(secrets.DEVICE, i.id).text for i in issued[:5]]
    counting = CountingDatabase(registry.database)
    authenticator = TokenAuthenticator(counting, SystemClock())  # type: ignore[arg-type]  # forwards what is asked of it
    tries = [authenticator.authenticate(Presented(token)) for token in [i.password for i in issued] * 10 + forged]
    impatient = asyncio.create_task(authenticator.authenticate(Presented(issued[0].password)))
    running = asyncio.gather(*tries, return_exceptions=True)
    await asyncio.sleep(0)
    impatient.cancel()
    answers = await running
    assert sorted({a.external_id for a in answers[:200]}) == sorted(f"d{n}" for n in range(20))  # type: ignore[union-attr]  # principals
    assert all(isinstance(a, DeviceRefused) for a in answers[200:])
    assert counting.sessions <= 3


async def test_a_failing_database_is_told_to_those_who_asked(registry: Registry, scope: TenantScope) -> None:
    issued = await registry.credentials.issue(scope, (await registry.make(scope, "a")).id)
    counting = CountingDatabase(registry.database)
    authenticator = TokenAuthenticator(counting, SystemClock())  # type: ignore[arg-type]  # forwards what is asked of it
    counting.failing = True
    answers = await asyncio.gather(
        *(authenticator.authenticate(Presented(issued.password)) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(answer, ConnectionError) for answer in answers)
    counting.failing = False
    assert await authenticator.authenticate(Presented(issued.password)) is not None

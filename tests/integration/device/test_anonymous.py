"""Who comes in without a credential, where a gateway was told to let them in."""

from __future__ import annotations

from uuid import UUID

import pytest

from headwater.app.anonymous import NAME, ensure_door
from headwater.clock import SystemClock
from headwater.device.anonymous import AnonymousAuthenticator
from headwater.device.authentication import Authentication, DeviceRefused, DeviceSuspended, Presented, TokenAuthenticator
from headwater.device.principal import Principal
from headwater.tenancy import secrets
from headwater.tenancy.scope import TenantScope

from .conftest import Registry


class Door:
    def __init__(self, registry: Registry, slug: str) -> None:
        self.tokens = TokenAuthenticator(registry.database, SystemClock())
        self.authentication = Authentication((self.tokens, AnonymousAuthenticator(registry.database, self.tokens, slug)))

    async def enter(self, username: str | None = None, password: str | None = None) -> Principal:
        return await self.authentication.authenticate(Presented(username, password.encode() if password else None))


@pytest.fixture
async def door(registry: Registry, scope: TenantScope) -> Door:
    async with registry.database.tenant_session(scope.tenant_id) as connection:
        slug = await connection.fetchval("SELECT slug FROM tenant")
    return Door(registry, slug)


async def credential(registry: Registry, scope: TenantScope, device_id: UUID) -> UUID:
    return (await registry.credentials.list(scope, device_id))[0].id


async def test_the_door_is_made_once(registry: Registry, scope: TenantScope, stranger: TenantScope, door: Door) -> None:
    with pytest.raises(DeviceRefused, match="--dev-anonymous"):
        await door.enter()
    await ensure_door(registry.database, registry.events, stranger)
    with pytest.raises(DeviceRefused, match="--dev-anonymous"):
        await door.enter()
    await ensure_door(registry.database, registry.events, scope)
    await ensure_door(registry.database, registry.events, scope)
    assert await registry.names(scope) == [NAME]
    principal = await door.enter()
    assert (principal.tenant_id, principal.external_id, principal.anonymous) == (scope.tenant_id, NAME, True)
    assert len(await registry.credentials.list(scope, principal.device_id)) == 1


async def test_whoever_shows_no_token_is_anonymous(registry: Registry, scope: TenantScope, door: Door) -> None:
    await ensure_door(registry.database, registry.events, scope)
    device = await registry.make(scope, "a")
    issued = await registry.credentials.issue(scope, device.id)
    for presented in ((), ("me",), ("me", "secret"), (None, "secret"), (str(device.id), "guess"), ("", "")):
        assert (await door.enter(*presented)).anonymous
    for shown in ((issued.username, issued.password), (issued.password,), (None, issued.password)):
        principal = await door.enter(*shown)
        assert (principal.device_id, principal.anonymous) == (device.id, False)
    for wrong in (issued.password[:-1] + ("A" if issued.password[-1] != "A" else "B"), secrets.mint("hwd", issued.id).text):
        with pytest.raises(DeviceRefused):
            await door.enter("me", wrong)


async def test_no_token_opens_it_where_nobody_was_told_to(registry: Registry, scope: TenantScope, door: Door) -> None:
    await ensure_door(registry.database, registry.events, scope)
    principal = await door.enter()
    with pytest.raises(DeviceRefused):
        await Authentication((door.tokens,)).authenticate(Presented())
    for username in (None, str(principal.device_id)):
        with pytest.raises(DeviceRefused, match="wrong token"):
            await door.enter(username, secrets.mint(secrets.DEVICE, principal.credential_id).text)


async def test_what_was_anonymous_stays_so_when_asked_again(registry: Registry, scope: TenantScope, door: Door) -> None:
    await ensure_door(registry.database, registry.events, scope)
    principal = await door.enter()
    rows = await door.tokens.lookup([principal.credential_id])
    assert door.tokens.principal(rows[principal.credential_id], principal.credential_id) == principal


async def test_closing_the_door(registry: Registry, scope: TenantScope, door: Door) -> None:
    await ensure_door(registry.database, registry.events, scope)
    first = await door.enter()
    await registry.devices.suspend(scope, first.device_id)
    with pytest.raises(DeviceSuspended):
        await door.enter()
    await registry.devices.resume(scope, first.device_id)
    await registry.credentials.revoke(scope, first.device_id, first.credential_id)
    with pytest.raises(DeviceRefused, match="revoked"):
        await door.enter()
    await registry.devices.delete(scope, first.device_id)
    with pytest.raises(DeviceRefused, match="deleted"):
        await door.enter()
    await ensure_door(registry.database, registry.events, scope)
    assert (await door.enter()).device_id != first.device_id

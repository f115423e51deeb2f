"""Logging in, refreshing, switching, logging out; what ends a session."""

from __future__ import annotations

from uuid import UUID

import httpx
from tests.integration.api.conftest import People
from tests.support.api import PASSWORD, api_client, api_services, bearer
from tests.support.clock import FakeClock
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.api.app import APIServices
from headwater.tenancy.scope import Role


async def test_login_gives_the_roles_rights(client: httpx.AsyncClient, people: People) -> None:
    await people.add("vera@example.com", Role.VIEWER)
    session = await people.login("VERA@example.com")
    me = (await client.get("/api/v1/me", headers=bearer(session["access_token"]))).json()
    assert (me["role"], me["tenant_id"], me["person"]["email"]) == ("viewer", str(people.tenant), "vera@example.com")
    assert "device:read" in me["permissions"]
    assert "device:write" not in me["permissions"]
    assert "password" not in str(me)


async def test_wrong_password_and_unknown_person_look_the_same(client: httpx.AsyncClient, people: People) -> None:
    await people.add("vera@example.com", Role.VIEWER)
    answers = [
        await client.post("/api/v1/auth/login", json={"email": email, "password": "wrong"})
        for email in ("vera@example.com", "nobody@example.com")
    ]
    assert [a.status_code for a in answers] == [401, 401]
    bodies = [{k: v for k, v in a.json().items() if k != "instance"} for a in answers]
    assert bodies[0] == bodies[1]
    assert bodies[0]["code"] == "auth.credentials_wrong"


async def test_guessing_is_slowed_down_and_then_forgiven(database_urls: DatabaseURLs, tenant_factory: TenantFactory) -> None:
    clock = FakeClock()
    async with api_services(database_urls, clock=clock) as services, api_client(services) as client:
        people = People(client, services, await tenant_factory())
        await people.add("vera@example.com", Role.VIEWER)

        async def login(password: str) -> httpx.Response:
            return await client.post("/api/v1/auth/login", json={"email": "vera@example.com", "password": password})

        for _ in range(5):
            assert (await login("wrong")).status_code == 401
        refused = await login(PASSWORD)
        assert (refused.status_code, refused.json()["code"]) == (429, "auth.too_many_attempts")
        clock.advance(int(refused.headers["retry-after"]))
        assert (await login(PASSWORD)).status_code == 200


async def test_refresh_rotates_and_reuse_ends_the_session(client: httpx.AsyncClient, people: People) -> None:
    await people.add("vera@example.com", Role.VIEWER)
    first = await people.login("vera@example.com")
    second = (await client.post("/api/v1/auth/refresh", json={"refresh_token": first["refresh_token"]})).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert (await client.get("/api/v1/me", headers=bearer(second["access_token"]))).status_code == 200

    stolen = await client.post("/api/v1/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert (stolen.status_code, stolen.json()["code"]) == (401, "auth.token_revoked")
    after = await client.post("/api/v1/auth/refresh", json={"refresh_token": second["refresh_token"]})
    assert after.status_code == 401
    ended = await client.get("/api/v1/me", headers=bearer(second["access_token"]))
    assert (ended.status_code, ended.json()["code"]) == (401, "auth.token_revoked")


async def test_logout_ends_the_access_token_too(client: httpx.AsyncClient, people: People) -> None:
    await people.add("vera@example.com", Role.VIEWER)
    session, other = await people.login("vera@example.com"), await people.login("vera@example.com")
    headers = bearer(session["access_token"])
    assert (await client.post("/api/v1/auth/logout", headers=headers)).status_code == 204
    assert (await client.get("/api/v1/me", headers=headers)).status_code == 401
    assert (await client.post("/api/v1/auth/refresh", json={"refresh_token": session["refresh_token"]})).status_code == 401
    assert (await client.get("/api/v1/me", headers=bearer(other["access_token"]))).status_code == 200


async def test_lifetimes(database_urls: DatabaseURLs, tenant_factory: TenantFactory) -> None:
    clock = FakeClock()
    async with api_services(database_urls, clock=clock) as services, api_client(services) as client:
        people = People(client, services, await tenant_factory())
        await people.add("vera@example.com", Role.VIEWER)
        session = await people.login("vera@example.com")
        clock.advance(16 * 60)
        stale = await client.get("/api/v1/me", headers=bearer(session["access_token"]))
        assert (stale.status_code, stale.json()["code"]) == (401, "auth.token_expired")
        session = (await client.post("/api/v1/auth/refresh", json={"refresh_token": session["refresh_token"]})).json()
        assert (await client.get("/api/v1/me", headers=bearer(session["access_token"]))).status_code == 200
        clock.advance(31 * 86_400)
        gone = await client.post("/api/v1/auth/refresh", json={"refresh_token": session["refresh_token"]})
        assert (gone.status_code, gone.json()["code"]) == (401, "auth.token_expired")


async def test_one_access_token_is_for_one_tenant(
    client: httpx.AsyncClient, people: People, tenant_factory: TenantFactory
) -> None:
    other = await tenant_factory("zeta")
    await people.add("vera@example.com", Role.VIEWER)
    await people.add("vera@example.com", Role.ADMIN, tenant=other)
    session = await people.login("vera@example.com")
    assert (session["tenant"]["slug"], [t["slug"] for t in session["tenants"]]) == ("acme", ["acme", "zeta"])
    assert (await people.login("vera@example.com", "zeta"))["tenant"]["role"] == "admin"

    headers = bearer(session["access_token"])
    switched = (await client.post("/api/v1/auth/switch", headers=headers, json={"tenant": "zeta"})).json()
    assert switched["refresh_token"] is None
    seen = await client.get("/api/v1/tenant", headers=bearer(switched["access_token"]))
    assert seen.json()["id"] == str(other)
    assert (await client.get("/api/v1/tenant", headers=headers)).json()["id"] == str(people.tenant)
    kept = (await client.post("/api/v1/auth/refresh", json={"refresh_token": session["refresh_token"]})).json()
    assert kept["tenant"]["slug"] == "zeta"
    strange = await client.post("/api/v1/auth/switch", headers=headers, json={"tenant": "nowhere"})
    assert (strange.status_code, strange.json()["code"]) == (403, "auth.not_a_member")


async def test_rights_that_are_taken_away_are_gone_with_the_next_request(
    client: httpx.AsyncClient, people: People, admin: dict[str, str], operator: dict[str, str]
) -> None:
    vera = await people.add("vera@example.com", Role.ADMIN)
    headers = await people.headers("vera@example.com")
    assert (await client.get("/api/v1/audit", headers=headers)).status_code == 200
    await client.patch(f"/api/v1/people/{vera}", headers=admin, json={"role": "viewer"})
    assert (await client.get("/api/v1/audit", headers=headers)).status_code == 403

    tenant = f"/api/v1/operator/tenants/{people.tenant}"
    assert (await client.post(f"{tenant}/suspend", headers=operator)).json()["status"] == "suspended"
    for some in (headers, admin):
        refused = await client.get("/api/v1/tenant", headers=some)
        assert (refused.status_code, refused.json()["code"]) == (403, "tenant.suspended")
    assert (await client.post(f"{tenant}/resume", headers=operator)).status_code == 200
    assert (await client.get("/api/v1/tenant", headers=headers)).status_code == 200

    await client.post(f"/api/v1/operator/people/{vera}/suspend", headers=operator)
    assert (await client.get("/api/v1/tenant", headers=headers)).status_code == 401  # the session has ended
    login = {"email": "vera@example.com", "password": PASSWORD}
    refused = await client.post("/api/v1/auth/login", json=login)
    assert (refused.status_code, refused.json()["code"]) == (403, "person.suspended")
    await client.post(f"/api/v1/operator/people/{vera}/resume", headers=operator)
    headers = await people.headers("vera@example.com")
    assert (await client.delete(f"/api/v1/people/{vera}", headers=admin)).status_code == 204
    refused = await client.get("/api/v1/tenant", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.not_a_member")


async def test_ones_own_account(client: httpx.AsyncClient, people: People) -> None:
    await people.add("vera@example.com", Role.VIEWER)
    headers, other = await people.headers("vera@example.com"), await people.headers("vera@example.com")
    renamed = await client.patch("/api/v1/me", headers=headers, json={"name": "Vera Rubin"})
    assert renamed.json()["person"]["name"] == "Vera Rubin"
    change = {"current_password": "wrong", "new_password": "a quite new password"}
    refused = await client.post("/api/v1/me/password", headers=headers, json=change)
    assert refused.json()["code"] == "auth.credentials_wrong"
    change["current_password"] = PASSWORD
    assert (await client.post("/api/v1/me/password", headers=headers, json=change)).status_code == 204
    assert (await client.get("/api/v1/me", headers=headers)).status_code == 200
    assert (await client.get("/api/v1/me", headers=other)).status_code == 401
    login = {"email": "vera@example.com", "password": "a quite new password"}
    assert (await client.post("/api/v1/auth/login", json=login)).status_code == 200


async def test_tokens_are_no_people(client: httpx.AsyncClient, admin: dict[str, str], operator: dict[str, str]) -> None:
    assert (await client.post("/api/v1/auth/logout", headers=admin)).status_code == 403
    me = (await client.get("/api/v1/me", headers=operator)).json()
    assert (me["operator"], me["permissions"], me["tenant_id"]) == (True, [], None)
    refused = await client.get("/api/v1/tenant", headers=operator)
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.forbidden")


async def test_an_operator_person_has_no_right_inside_a_tenant(
    client: httpx.AsyncClient, people: People, services: APIServices, tenant: UUID
) -> None:
    await people.add("olga@example.com", Role.VIEWER)
    assert services.operator_pool is not None
    headers = await people.headers("olga@example.com")
    assert (await client.get("/api/v1/operator/tenants", headers=headers)).status_code == 403
    async with services.operator_pool.acquire() as connection:
        await connection.execute("UPDATE person SET operator = true")
        await connection.execute("DELETE FROM membership")
    assert (await client.get("/api/v1/operator/tenants", headers=headers)).json()["items"][0]["id"] == str(tenant)
    session = await people.login("olga@example.com")
    assert session["tenant"] is None
    refused = await client.get("/api/v1/tenant", headers=bearer(session["access_token"]))
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.forbidden")

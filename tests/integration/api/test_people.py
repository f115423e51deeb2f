"""Members, invitations, forgotten passwords: who may do what to whom."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from tests.integration.api.conftest import People
from tests.support.api import PASSWORD, bearer, mint_token
from tests.support.tenants import TenantFactory

from headwater.api.app import APIServices
from headwater.tenancy.scope import PERMISSIONS, Role


async def invite(client: httpx.AsyncClient, headers: dict[str, str], email: str, role: str = "viewer") -> Any:
    answer = await client.post("/api/v1/invitations", headers=headers, json={"email": email, "role": role})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_invited_joins_and_works(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    invitation = await invite(client, admin, "noor@example.com", "operator")
    listed = (await client.get("/api/v1/invitations", headers=admin)).json()["items"]
    assert [i["email"] for i in listed] == ["noor@example.com"]
    assert "token" not in listed[0]
    acceptance = {"token": invitation["token"], "password": "chosen by noor", "name": "Noor"}
    session = (await client.post("/api/v1/auth/accept-invitation", json=acceptance)).json()
    assert (session["tenant"]["role"], session["person"]["name"]) == ("operator", "Noor")
    assert (await client.get("/api/v1/people", headers=bearer(session["access_token"]))).status_code == 200
    again = await client.post("/api/v1/auth/accept-invitation", json=acceptance)
    assert (again.status_code, again.json()["code"]) == (401, "auth.one_time_token_invalid")
    assert (await client.get("/api/v1/invitations", headers=admin)).json()["items"] == []
    refused = await client.post("/api/v1/invitations", headers=admin, json={"email": "Noor@Example.com", "role": "viewer"})
    assert (refused.status_code, refused.json()["code"]) == (409, "person.already_member")


async def test_inviting_tells_nothing_about_other_tenants(
    client: httpx.AsyncClient, people: People, admin: dict[str, str], tenant_factory: TenantFactory
) -> None:
    elsewhere = await tenant_factory("other")
    await people.add("known@example.com", Role.OWNER, tenant=elsewhere)
    answers = [await invite(client, admin, f"{name}@example.com") for name in ("known", "unknown")]
    assert answers[0].keys() == answers[1].keys()
    assert (await client.get("/api/v1/people", headers=admin)).json()["items"] == []
    # Whoever has an account joins with its password, not with a new one.
    token = answers[0]["token"]
    wrong = await client.post("/api/v1/auth/accept-invitation", json={"token": token, "password": "not the password"})
    assert (wrong.status_code, wrong.json()["code"]) == (401, "auth.credentials_wrong")
    session = (await client.post("/api/v1/auth/accept-invitation", json={"token": token, "password": PASSWORD})).json()
    assert (session["tenant"]["slug"], [t["slug"] for t in session["tenants"]]) == ("acme", ["acme", "other"])


async def test_withdrawn_invitation(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    invitation = await invite(client, admin, "noor@example.com")
    path = f"/api/v1/invitations/{invitation['id']}"
    assert (await client.get(path, headers=admin)).json()["email"] == "noor@example.com"
    assert (await client.delete(path, headers=admin)).status_code == 204
    assert (await client.get(path, headers=admin)).status_code == 404
    acceptance = {"token": invitation["token"], "password": "chosen by noor"}
    assert (await client.post("/api/v1/auth/accept-invitation", json=acceptance)).status_code == 401


async def test_an_administrator_can_neither_make_nor_unmake_nor_become_an_owner(
    client: httpx.AsyncClient, people: People
) -> None:
    owner = await people.add("owner@example.com", Role.OWNER)
    adam = await people.add("adam@example.com", Role.ADMIN)
    headers = await people.headers("adam@example.com")
    attempts = [
        await client.post("/api/v1/invitations", headers=headers, json={"email": "x@example.com", "role": "owner"}),
        await client.patch(f"/api/v1/people/{adam}", headers=headers, json={"role": "owner"}),
        await client.patch(f"/api/v1/people/{owner}", headers=headers, json={"role": "viewer"}),
        await client.delete(f"/api/v1/people/{owner}", headers=headers),
        await client.post(f"/api/v1/people/{owner}/password-reset", headers=headers),
    ]
    assert [(a.status_code, a.json()["code"]) for a in attempts] == [(403, "token.permission_not_held")] * 5


async def test_a_narrow_token_cannot_make_itself_an_administrator(
    client: httpx.AsyncClient, services: APIServices, people: People
) -> None:
    await people.add("owner@example.com", Role.OWNER)
    headers = bearer(await mint_token(services.database, people.tenant, {"person:write", *PERMISSIONS[Role.VIEWER]}))
    assert (await invite(client, headers, "v@example.com", "viewer"))["role"] == "viewer"
    refused = await client.post("/api/v1/invitations", headers=headers, json={"email": "x@example.com", "role": "admin"})
    assert refused.json()["code"] == "token.permission_not_held"


async def test_a_tenant_keeps_an_owner_even_in_a_race(client: httpx.AsyncClient, people: People) -> None:
    first = await people.add("a@example.com", Role.OWNER)
    headers = await people.headers("a@example.com")
    refused = await client.delete(f"/api/v1/people/{first}", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "person.last_owner")
    second = await people.add("b@example.com", Role.OWNER)
    token = bearer(await mint_token(people.services.database, people.tenant))
    answers = await asyncio.gather(
        client.delete(f"/api/v1/people/{first}", headers=token),
        client.patch(f"/api/v1/people/{second}", headers=token, json={"role": "viewer"}),
    )
    assert sorted(a.status_code for a in answers)[-1] == 409
    left = [p["role"] for p in (await client.get("/api/v1/people", headers=token)).json()["items"]]
    assert left.count("owner") == 1


async def test_demoting_and_removing_end_the_tokens_that_went_too_far(
    client: httpx.AsyncClient, people: People, admin: dict[str, str]
) -> None:
    adam = await people.add("adam@example.com", Role.ADMIN)
    headers = await people.headers("adam@example.com")

    async def make(permission: str) -> dict[str, str]:
        body = {"name": permission, "permissions": [permission]}
        return bearer((await client.post("/api/v1/tokens", headers=headers, json=body)).json()["secret"])

    far, near = await make("audit:read"), await make("person:read")
    await client.patch(f"/api/v1/people/{adam}", headers=admin, json={"role": "viewer"})
    assert (await client.get("/api/v1/audit", headers=far)).status_code == 401
    assert (await client.get("/api/v1/people", headers=near)).status_code == 200
    await client.delete(f"/api/v1/people/{adam}", headers=admin)
    assert (await client.get("/api/v1/people", headers=near)).status_code == 401


async def test_versions(client: httpx.AsyncClient, people: People, admin: dict[str, str]) -> None:
    adam = await people.add("adam@example.com", Role.ADMIN)
    path = f"/api/v1/people/{adam}"
    seen = await client.get(path, headers=admin)
    assert seen.headers["etag"] == '"1"'
    unchanged = await client.get(path, headers={**admin, "If-None-Match": '"1"'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    changed = await client.patch(path, headers={**admin, "If-Match": '"1"'}, json={"role": "viewer"})
    assert changed.headers["etag"] == '"2"'
    late = await client.patch(path, headers={**admin, "If-Match": '"1"'}, json={"role": "operator"})
    assert (late.status_code, late.json()["code"], late.json()["version"]) == (412, "resource.version_conflict", 2)
    weak = await client.patch(path, headers={**admin, "If-Match": 'W/"2"'}, json={"role": "operator"})
    assert weak.status_code == 412
    broken = await client.patch(path, headers={**admin, "If-Match": "2"}, json={"role": "operator"})
    assert broken.status_code == 400
    assert (await client.delete(path, headers={**admin, "If-Match": '"2"'})).status_code == 204


async def test_forgotten_password(client: httpx.AsyncClient, people: People, admin: dict[str, str]) -> None:
    vera = await people.add("vera@example.com", Role.VIEWER)
    headers = await people.headers("vera@example.com")
    first = (await client.post(f"/api/v1/people/{vera}/password-reset", headers=admin)).json()
    second = (await client.post(f"/api/v1/people/{vera}/password-reset", headers=admin)).json()

    async def set_password(token: str) -> int:
        body = {"token": token, "password": "remembered now"}
        return (await client.post("/api/v1/auth/set-password", json=body)).status_code

    assert await set_password(first["token"]) == 401  # replaced
    assert await set_password(second["token"]) == 204
    assert await set_password(second["token"]) == 401  # used
    assert (await client.get("/api/v1/me", headers=headers)).status_code == 401
    login = {"email": "vera@example.com", "password": "remembered now"}
    assert (await client.post("/api/v1/auth/login", json=login)).status_code == 200


async def test_nobody_resets_the_password_of_somebody_who_works_elsewhere_too(
    client: httpx.AsyncClient, people: People, admin: dict[str, str], tenant_factory: TenantFactory
) -> None:
    vera = await people.add("vera@example.com", Role.VIEWER)
    made = (await client.post(f"/api/v1/people/{vera}/password-reset", headers=admin)).json()
    await people.add("vera@example.com", Role.OWNER, tenant=await tenant_factory("other"))
    refused = await client.post(f"/api/v1/people/{vera}/password-reset", headers=admin)
    assert (refused.status_code, refused.json()["code"]) == (409, "person.shared")
    # A token from before the person joined the other tenant is of no use either.
    body = {"token": made["token"], "password": "taken over!"}
    assert (await client.post("/api/v1/auth/set-password", json=body)).json()["code"] == "person.shared"


async def test_people_quota(client: httpx.AsyncClient, services: APIServices, tenant_factory: TenantFactory) -> None:
    small = bearer(await mint_token(services.database, await tenant_factory("small", quotas={"people_max": 1})))
    await invite(client, small, "a@example.com")
    refused = await client.post("/api/v1/invitations", headers=small, json={"email": "b@example.com", "role": "viewer"})
    assert (refused.status_code, refused.json()["code"], refused.json()["max"]) == (429, "tenant.quota_reached", 1)
    assert int(refused.headers["retry-after"]) > 0

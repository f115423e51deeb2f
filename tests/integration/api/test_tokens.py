"""API tokens over HTTP: scoped, shown once, revocable, idempotent."""

from __future__ import annotations

import asyncio
from uuid import UUID

import httpx
from tests.support.api import bearer, mint_token
from tests.support.tenants import TenantFactory

from headwater.api.app import APIServices


async def test_made_used_listed_and_revoked(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    made = await client.post("/api/v1/tokens", headers=admin, json={"name": "ci", "permissions": ["token:read"]})
    assert made.status_code == 201, made.text
    token = made.json()
    own = bearer(token["secret"])

    shown = await client.get(made.headers["location"], headers=own)
    assert shown.status_code == 200
    assert "secret" not in shown.json()
    assert shown.json()["last_used_at"] is not None
    assert [t["name"] for t in (await client.get("/api/v1/tokens", headers=own)).json()["items"]] == ["ci", "test"]
    refused = await client.post("/api/v1/tokens", headers=own, json={"name": "x", "permissions": ["token:read"]})
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.forbidden")

    assert (await client.post(f"/api/v1/tokens/{token['id']}/revoke", headers=admin)).json()["revoked_at"] is not None
    gone = await client.get(made.headers["location"], headers=own)
    assert (gone.status_code, gone.json()["code"]) == (401, "auth.token_revoked")
    assert gone.headers["content-type"] == "application/problem+json"


async def test_nobody_gives_away_what_he_does_not_hold(
    client: httpx.AsyncClient, services: APIServices, tenant: UUID
) -> None:
    narrow = bearer(await mint_token(services.database, tenant, {"token:write"}))
    answer = await client.post("/api/v1/tokens", headers=narrow, json={"name": "x", "permissions": ["device:read"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "token.permission_not_held")
    assert answer.json()["permissions"] == ["device:read"]


async def test_revoking_ends_what_was_made_with_it(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    async def make(headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        body = {"name": "chain", "permissions": ["token:write", "token:read"]}
        token = (await client.post("/api/v1/tokens", headers=headers, json=body)).json()
        return token["id"], bearer(token["secret"])

    first, parent = await make(admin)
    _, child = await make(parent)
    _, grandchild = await make(child)
    assert (await client.delete(f"/api/v1/tokens/{first}", headers=admin)).status_code == 204
    for headers in (parent, child, grandchild):
        assert (await client.get("/api/v1/tokens", headers=headers)).status_code == 401


async def test_repeated_with_an_idempotency_key(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    body = {"name": "ci", "permissions": ["token:read"]}
    headers = {**admin, "Idempotency-Key": "k-1"}
    first = await client.post("/api/v1/tokens", headers=headers, json=body)
    again = await client.post("/api/v1/tokens", headers=headers, json=body)
    assert first.status_code == again.status_code == 201
    assert again.headers["idempotency-replayed"] == "true"
    assert first.headers["location"] == again.headers["location"]
    assert again.json() == {**first.json(), "secret": None, "secret_omitted": True}
    other = await client.post("/api/v1/tokens", headers=headers, json={**body, "name": "other"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency.mismatch")
    assert len((await client.get("/api/v1/tokens", headers=admin)).json()["items"]) == 2


async def test_an_answer_is_not_repeated_once_what_it_made_is_gone(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    headers = {**admin, "Idempotency-Key": "k"}
    body = {"name": "ci", "permissions": ["token:read"]}
    made = await client.post("/api/v1/tokens", headers=headers, json=body)
    assert (await client.delete(made.headers["location"], headers=admin)).status_code == 204
    again = await client.post("/api/v1/tokens", headers=headers, json=body)
    assert (again.status_code, again.json()["code"]) == (409, "idempotency.gone")


async def test_a_token_does_not_end_itself(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    (own,) = (await client.get("/api/v1/tokens", headers=admin)).json()["items"]
    path = f"/api/v1/tokens/{own['id']}"
    for answer in (await client.delete(path, headers=admin), await client.post(f"{path}/revoke", headers=admin)):
        assert (answer.status_code, answer.json()["code"]) == (409, "token.in_use")
    assert (await client.get(path, headers=admin)).json()["revoked_at"] is None


async def test_many_at_once_with_one_key_make_one(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    headers = {**admin, "Idempotency-Key": "race"}
    body = {"name": "ci", "permissions": ["token:read"]}
    answers = await asyncio.gather(*(client.post("/api/v1/tokens", headers=headers, json=body) for _ in range(6)))
    codes = sorted({(a.status_code, a.json().get("code")) for a in answers}, key=str)
    assert set(codes) <= {(201, None), (409, "idempotency.in_progress")}
    assert len((await client.get("/api/v1/tokens", headers=admin)).json()["items"]) == 2


async def test_a_failure_is_not_remembered(client: httpx.AsyncClient, services: APIServices, tenant: UUID) -> None:
    headers = {**bearer(await mint_token(services.database, tenant, {"token:write"})), "Idempotency-Key": "k"}
    for _ in range(2):
        answer = await client.post("/api/v1/tokens", headers=headers, json={"name": "x", "permissions": ["device:read"]})
        assert answer.json()["code"] == "token.permission_not_held"


async def test_pages(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    for number in range(4):
        await client.post("/api/v1/tokens", headers=admin, json={"name": f"t{number}", "permissions": ["token:read"]})
    names: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/api/v1/tokens", headers=admin, params=params)).json()
        names += [t["name"] for t in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert names == ["t3", "t2", "t1", "t0", "test"]
    forged = await client.get("/api/v1/tokens", headers=admin, params={"cursor": "AAAA"})
    assert (forged.status_code, forged.json()["code"]) == (409, "cursor.invalid")


async def test_another_tenant_sees_nothing(
    client: httpx.AsyncClient, services: APIServices, admin: dict[str, str], tenant_factory: TenantFactory
) -> None:
    made = await client.post("/api/v1/tokens", headers=admin, json={"name": "ci", "permissions": ["token:read"]})
    stranger = bearer(await mint_token(services.database, await tenant_factory("other")))
    answer = await client.get(made.headers["location"], headers=stranger)
    assert (answer.status_code, answer.json()["code"]) == (404, "resource.not_found")
    assert (await client.delete(made.headers["location"], headers=stranger)).status_code == 404
    assert [t["name"] for t in (await client.get("/api/v1/tokens", headers=stranger)).json()["items"]] == ["test"]


async def test_a_wrong_body_names_each_field(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    answer = await client.post(
        "/api/v1/tokens", headers=admin, json={"name": 5, "permissions": ["no:such"], "expires_in_s": "60"}
    )
    assert answer.status_code == 400
    assert {e["name"] for e in answer.json()["errors"]} == {"name", "permissions[0]", "expires_in_s"}
    answer = await client.post("/api/v1/tokens", headers=admin, json={"name": "x"})
    assert [e["name"] for e in answer.json()["errors"]] == ["permissions"]
    answer = await client.post("/api/v1/tokens", headers=admin, content=b"{")
    assert (answer.status_code, answer.json()["code"]) == (400, "request.invalid")
    answer = await client.get("/api/v1/tokens", headers=admin, params={"limit": 0})
    assert (answer.status_code, answer.json()["errors"][0]["name"]) == (400, "limit")


async def test_what_is_wrong_before_any_noun(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    cases = [
        (await client.get("/api/v1/nothing"), 404, "request.path_unknown"),
        (await client.get("/api/v1/tokens/not-a-uuid", headers=admin), 404, "request.path_unknown"),
        (await client.patch("/api/v1/tokens", headers=admin), 405, "request.method_not_allowed"),
        (await client.post("/api/v1/tokens", headers={**admin, "content-type": "text/csv"}, content=b"a"), 415,
         "request.media_type_unsupported"),
        (await client.post("/api/v1/tokens", headers=admin, json={"name": "x" * 2_000_000}), 413, "request.too_large"),
        (await client.get("/api/v1/tokens"), 401, "auth.unauthenticated"),
        (await client.get("/api/v1/tokens", headers=bearer("garbage")), 401, "auth.unauthenticated"),
    ]  # fmt: skip
    for answer, status, code in cases:
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert cases[2][0].headers["allow"] == "GET, OPTIONS, POST"
    assert cases[5][0].headers["www-authenticate"].startswith("Bearer")
    options = await client.options("/api/v1/tokens")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, OPTIONS, POST")

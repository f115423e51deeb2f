"""The tenant, its audit trail, its rate limits; and the operator's plane above it."""

from __future__ import annotations

import asyncio
from uuid import UUID

import httpx
import msgspec
import nats
from tests.integration.api.conftest import People
from tests.support.api import PASSWORD, api_client, api_services, bearer, mint_token
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.api.app import APIServices
from headwater.stream import subjects
from headwater.tenancy import operation
from headwater.tenancy.scope import Role


async def test_reads_and_renames_itself(client: httpx.AsyncClient, tenant: UUID, admin: dict[str, str]) -> None:
    seen = await client.get("/api/v1/tenant", headers=admin)
    assert (seen.json()["id"], seen.json()["quotas"]["devices_max"]) == (str(tenant), 1_000_000)
    changed = await client.patch("/api/v1/tenant", headers={**admin, "If-Match": '"1"'}, json={"name": "Acme Ltd"})
    assert (changed.json()["name"], changed.headers["etag"]) == ("Acme Ltd", '"2"')
    late = await client.patch("/api/v1/tenant", headers={**admin, "If-Match": '"1"'}, json={"name": "x"})
    assert late.status_code == 412
    refused = await client.patch("/api/v1/tenant", headers=admin, json={"name": "x", "quotas": {}})
    assert (refused.status_code, refused.json()["errors"][0]["name"]) == (400, "quotas")


async def test_audit_says_who_did_what_from_where(client: httpx.AsyncClient, people: People, admin: dict[str, str]) -> None:
    adam = await people.add("adam@example.com", Role.ADMIN)
    headers = await people.headers("adam@example.com")
    token = (await client.post("/api/v1/tokens", headers=headers, json={"name": "ci", "permissions": ["token:read"]})).json()
    await client.patch("/api/v1/tenant", headers=headers, json={"name": "Acme Ltd"})

    entries = (await client.get("/api/v1/audit", headers=admin)).json()["items"]
    assert [e["action"] for e in entries] == ["tenant:change", "token:create", "session:start"]
    made = entries[1]
    assert (made["actor"], made["subject"], made["address"]) == (f"person:{adam}", f"token:{token['id']}", "127.0.0.1")
    assert made["detail"]["permissions"] == ["token:read"]
    assert token["secret"] not in str(entries)

    async def actions(**params: str) -> list[str]:
        page = (await client.get("/api/v1/audit", headers=admin, params=params)).json()
        return [e["action"] for e in page["items"]]

    assert await actions(action="token:create") == ["token:create"]
    assert await actions(subject=f"token:{token['id']}") == ["token:create"]
    assert await actions(actor="person:nobody") == []
    assert await actions(since=made["at"], until=entries[0]["at"]) == ["token:create"]
    page = (await client.get("/api/v1/audit", headers=admin, params={"limit": 2})).json()
    assert await actions(cursor=page["next_cursor"]) == ["session:start"]
    other = await client.get("/api/v1/audit", headers=admin, params={"cursor": page["next_cursor"], "action": "x"})
    assert other.json()["code"] == "cursor.invalid"


async def test_rate_limits(client: httpx.AsyncClient, services: APIServices, tenant_factory: TenantFactory) -> None:
    slow = await tenant_factory("slow", quotas={"token_requests_per_s": 2, "requests_per_s": 3})
    first, second = [bearer(await mint_token(services.database, slow)) for _ in range(2)]
    answers = [await client.get("/api/v1/tenant", headers=first) for _ in range(6)]
    refused = [a for a in answers if a.status_code == 429]
    assert refused
    assert (refused[0].json()["code"], refused[0].headers["retry-after"]) == ("request.rate_limited", "1")
    # The second token has a bucket of its own, until the tenant's is empty.
    answers = [await client.get("/api/v1/tenant", headers=second) for _ in range(4)]
    assert answers[0].status_code == 200
    assert "this tenant" in next(a for a in answers if a.status_code == 429).json()["detail"]


async def test_a_group_scoped_token_is_refused_where_nobody_looks_at_its_group(
    client: httpx.AsyncClient, services: APIServices, tenant: UUID
) -> None:
    group = UUID(int=1)
    async with services.database.tenant_session(tenant) as connection:
        await connection.execute(
            "INSERT INTO device_group (id, tenant_id, name, kind) VALUES ($1, $2, 'north', 'static')", group, tenant
        )
    scoped = bearer(await mint_token(services.database, tenant, group_id=group))
    for path in ("tenant", "people", "tokens", "audit", "invitations"):
        refused = await client.get(f"/api/v1/{path}", headers=scoped)
        assert (refused.status_code, refused.json()["code"]) == (403, "auth.group_scoped")
    assert (await client.get("/api/v1/me", headers=scoped)).json()["group_id"] == str(group)


async def test_health(database_urls: DatabaseURLs, nats_url: str, client: httpx.AsyncClient) -> None:
    down = await client.get("/api/v1/health")
    assert (down.status_code, down.json()) == (503, {"status": "unavailable", "database": "ok", "nats": "unavailable"})
    async with api_services(database_urls, nats_url=nats_url) as services, api_client(services) as whole:
        assert (await whole.get("/api/v1/health")).json() == {"status": "ok", "database": "ok", "nats": "ok"}
        assert (await whole.get("/api/v1/health/live")).status_code == 204


# --- the operator's plane ----------------------------------------------------------------------------------------------

NEW = {"slug": "beta", "name": "Beta", "owner": {"email": "bea@example.com", "password": PASSWORD, "name": "Bea"}}


async def test_an_operator_makes_a_tenant_whose_owner_logs_in(client: httpx.AsyncClient, operator: dict[str, str]) -> None:
    made = await client.post("/api/v1/operator/tenants", headers=operator, json=NEW)
    assert made.status_code == 201, made.text
    assert (made.json()["people"], made.json()["devices"], made.headers["etag"]) == (1, 0, '"1"')
    login = {"email": "bea@example.com", "password": PASSWORD}
    session = (await client.post("/api/v1/auth/login", json=login)).json()
    assert (session["tenant"]["slug"], session["tenant"]["role"]) == ("beta", "owner")
    again = await client.post("/api/v1/operator/tenants", headers=operator, json=NEW)
    assert (again.status_code, again.json()["code"]) == (409, "tenant.slug_taken")
    # A person who exists keeps the password.
    other = {**NEW, "slug": "gamma", "owner": {"email": "BEA@example.com", "password": "another password"}}
    assert (await client.post("/api/v1/operator/tenants", headers=operator, json=other)).status_code == 201
    assert len((await client.post("/api/v1/auth/login", json=login)).json()["tenants"]) == 2
    entries = (await client.get("/api/v1/operator/audit", headers=operator)).json()["items"]
    assert [e["action"] for e in entries] == ["tenant:create", "tenant:create"]
    assert PASSWORD not in str(entries)


async def test_quotas(client: httpx.AsyncClient, operator: dict[str, str], tenant: UUID, admin: dict[str, str]) -> None:
    path = f"/api/v1/operator/tenants/{tenant}"
    changed = await client.put(f"{path}/quotas", headers={**operator, "If-Match": '"1"'}, json={"devices_max": 5})
    assert changed.json()["quotas"]["devices_max"] == 5
    assert (await client.get("/api/v1/tenant", headers=admin)).json()["quotas"]["devices_max"] == 5
    late = await client.put(f"{path}/quotas", headers={**operator, "If-Match": '"1"'}, json={})
    assert late.status_code == 412
    refused = await client.put(f"{path}/quotas", headers=operator, json={"devices_max": -1})
    assert (refused.status_code, refused.json()["errors"][0]["name"]) == (400, "devices_max")


async def test_an_operators_token_does_not_end_itself(client: httpx.AsyncClient, operator: dict[str, str]) -> None:
    where = "/api/v1/operator/tokens"
    (own,) = (await client.get(where, headers=operator)).json()["items"]
    refused = await client.post(f"{where}/{own['id']}/revoke", headers=operator)
    assert (refused.status_code, refused.json()["code"]) == (409, "token.in_use")
    other = (await client.post(where, headers=operator, json={"name": "other"})).json()
    assert (await client.post(f"{where}/{own['id']}/revoke", headers=bearer(other["secret"]))).status_code == 200
    assert (await client.get(where, headers=operator)).status_code == 401


async def test_deleting_a_tenant_takes_everything_of_it(
    client: httpx.AsyncClient, services: APIServices, operator: dict[str, str], people: People, admin: dict[str, str]
) -> None:
    await people.add("vera@example.com", Role.OWNER)
    headers = await people.headers("vera@example.com")
    path = f"/api/v1/operator/tenants/{people.tenant}"
    assert (await client.delete(path, headers={**operator, "If-Match": '"7"'})).status_code == 412
    assert (await client.delete(path, headers=operator)).status_code == 204
    assert (await client.get(path, headers=operator)).status_code == 404
    assert (await client.get("/api/v1/tenant", headers=admin)).status_code == 401
    assert (await client.get("/api/v1/tenant", headers=headers)).json()["code"] == "auth.not_a_member"
    assert services.operator_pool is not None
    async with services.operator_pool.acquire() as connection:
        for table in ("membership", "api_token", "profile", "audit_entry"):
            left = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", people.tenant)
            assert (table, left) == (table, 0)
    entry = (await client.get("/api/v1/operator/audit", headers=operator)).json()["items"][0]
    assert (entry["action"], entry["detail"]["slug"]) == ("tenant:delete", "acme")


async def test_operator_tokens(client: httpx.AsyncClient, operator: dict[str, str], admin: dict[str, str]) -> None:
    made = (await client.post("/api/v1/operator/tokens", headers=operator, json={"name": "ci"})).json()
    own = bearer(made["secret"])
    assert (await client.get("/api/v1/operator/tokens", headers=own)).json()["items"][0]["name"] == "ci"
    await client.post(f"/api/v1/operator/tokens/{made['id']}/revoke", headers=operator)
    assert (await client.get("/api/v1/operator/tokens", headers=own)).json()["code"] == "auth.token_revoked"
    assert (await client.get("/api/v1/operator/tokens", headers=admin)).status_code == 403


async def test_gateways_hear_of_it(database_urls: DatabaseURLs, nats_url: str, tenant_factory: TenantFactory) -> None:
    tenant = await tenant_factory()
    async with api_services(database_urls, nats_url=nats_url) as services, api_client(services) as client:
        listener = await nats.connect(nats_url)
        heard = await listener.subscribe(subjects.registry(tenant, "tenant", tenant))
        await listener.flush()
        assert services.operator_pool is not None
        async with services.operator_pool.acquire() as connection:
            operator = bearer((await operation.mint_operator_token(connection, "test")).text)
        path = f"/api/v1/operator/tenants/{tenant}"
        await client.post(f"{path}/suspend", headers=operator)
        await client.post(f"{path}/resume", headers=operator)
        await client.put(f"{path}/quotas", headers=operator, json={"devices_max": 1})
        await client.delete(path, headers=operator)
        events = [msgspec.msgpack.decode((await heard.next_msg(timeout=5)).data)["event"] for _ in range(4)]
        assert events == ["suspended", "resumed", "changed", "deleted"]
        await listener.close()


async def test_without_an_operators_connection(services: APIServices, operator: dict[str, str]) -> None:
    async with api_client(_without_pool(services)) as client:
        refused = await client.get("/api/v1/operator/tenants", headers=operator)
        assert (refused.status_code, refused.json()["code"]) == (503, "service.unavailable")
        assert refused.headers["retry-after"]


def _without_pool(services: APIServices) -> APIServices:
    return APIServices(services.secret_key, services.database, None, None, None, services.clock)


async def test_postgres_away_is_503(services: APIServices, admin: dict[str, str]) -> None:
    async with api_client(services) as client:
        services.database._pool.terminate()
        answers = await asyncio.gather(*(client.get("/api/v1/tenant", headers=admin) for _ in range(3)))
        assert {(a.status_code, a.json()["code"]) for a in answers} == {(503, "service.unavailable")}

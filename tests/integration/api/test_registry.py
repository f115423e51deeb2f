"""The registry over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from tests.support.api import api_client, api_services, bearer, mint_token
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.api.app import APIServices

DEVICES = "/api/v1/devices"


@pytest.fixture
async def services(database_urls: DatabaseURLs) -> AsyncIterator[APIServices]:
    async with api_services(database_urls) as made:
        yield made


@pytest.fixture
async def tenant(tenant_factory: TenantFactory) -> UUID:
    return await tenant_factory("acme")


@pytest.fixture
async def client(services: APIServices, tenant: UUID) -> AsyncIterator[httpx.AsyncClient]:
    async with api_client(services) as made:
        made.headers.update(bearer(await mint_token(services.database, tenant)))
        yield made


async def make(client: httpx.AsyncClient, external_id: str, **fields: Any) -> dict[str, Any]:
    answer = await client.post(DEVICES, json={"external_id": external_id, **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_device_from_making_to_deleting(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    body = {"external_id": "p1", "labels": {"site": "north"}, "attributes": {"floor": 3}}
    made = await client.post(DEVICES, json=body, headers=headers)
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    again = await client.post(DEVICES, json=body, headers=headers)
    assert again.json() == made.json()
    path = made.headers["location"]

    stale = await client.patch(path, json={"name": "x"}, headers={"If-Match": '"7"'})
    assert (stale.status_code, stale.json()["code"], stale.json()["current_version"]) == (
        412,
        "resource.version_conflict",
        1,
    )
    changed = await client.patch(path, json={"name": "Pump", "labels": {"site": None}}, headers={"If-Match": '"1"'})
    assert (changed.json()["name"], changed.json()["labels"], changed.headers["etag"]) == ("Pump", {}, '"2"')
    assert (await client.get(path)).json()["presence"]["connected"] is False

    credential = await client.post(f"{path}/credentials", json={})
    shown = credential.json()
    assert shown["client_id"] == shown["username"] == made.json()["id"]
    assert shown["password"].startswith("hwd_")
    listed = (await client.get(f"{path}/credentials")).json()["items"]
    assert [c["id"] for c in listed] == [shown["id"]]
    assert "password" not in listed[0]
    revoked = await client.post(f"{path}/credentials/{shown['id']}/revoke")
    assert revoked.json()["revoked_at"] is not None

    assert (await client.post(f"{path}/suspend")).json()["status"] == "suspended"
    assert (await client.post(f"{path}/resume")).json()["status"] == "registered"
    assert (await client.post(f"{path}/decommission")).json()["status"] == "decommissioned"
    refused = await client.post(f"{path}/resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "device.decommissioned")
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404


async def test_list_pages_and_binds_the_cursor(client: httpx.AsyncClient) -> None:
    for n in range(5):
        await make(client, f"d{n}", labels={"parity": str(n % 2)})
    found: list[str] = []
    params: dict[str, Any] = {"q": "external_id != d4", "sort": "-labels.parity", "limit": 3}
    while True:
        page = (await client.get(DEVICES, params=params)).json()
        found += [device["external_id"] for device in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert found == ["d3", "d1", "d2", "d0"]
    moved = await client.get(DEVICES, params={**params, "sort": "labels.parity"})
    assert (moved.status_code, moved.json()["code"]) == (409, "cursor.invalid")
    wrong = await client.get(DEVICES, params={"q": "labels.parity ="})
    assert (wrong.status_code, wrong.json()["code"], wrong.json()["position"]) == (400, "filter.invalid", 16)


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", DEVICES, {"external_id": "a/b"}, "request.invalid"),
        ("POST", DEVICES, {"external_id": "a\n"}, "device.invalid"),
        ("POST", DEVICES, {"external_id": "a", "name": "\0"}, "request.invalid"),
        ("POST", DEVICES, {"external_id": "a", "attributes": {"x": ["\0"]}}, "device.invalid"),
        ("POST", DEVICES, {"external_id": "a", "profile": "\0"}, "device.invalid"),
        ("POST", DEVICES, {"external_id": "a", "color": 1}, "request.invalid"),
        ("POST", "/api/v1/profiles", {"name": "p", "definition": {"metrics": [{"name": "a\0"}]}}, "profile.invalid"),
        ("POST", "/api/v1/profiles", {"name": "p\0"}, "request.invalid"),
        ("POST", "/api/v1/groups", {"name": "g", "query": "\0"}, "filter.invalid"),
        ("POST", "/api/v1/groups", {"name": "g", "query": "status = x"}, "filter.invalid"),
    ],
)
async def test_what_cannot_be_kept_is_refused(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any], code: str
) -> None:
    answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text


async def test_profile(client: httpx.AsyncClient) -> None:
    made = await client.post("/api/v1/profiles", json={"name": "pump", "definition": {"metrics": [{"name": "t"}]}})
    assert made.status_code == 201
    path = made.headers["location"]
    unchanged = await client.get(path, headers={"If-None-Match": made.headers["etag"]})
    assert unchanged.status_code == 304
    changed = await client.patch(path, json={"definition": {"metrics": [{"name": "t", "unit": "Cel"}]}})
    assert changed.json()["version"] == 2
    device = await make(client, "a", profile="pump")
    in_use = await client.delete(path)
    assert (in_use.status_code, in_use.json()["code"]) == (409, "profile.in_use")
    await client.delete(f"{DEVICES}/{device['id']}")
    assert (await client.delete(path)).status_code == 204
    (default,) = (await client.get("/api/v1/profiles")).json()["items"]
    assert (await client.delete(f"/api/v1/profiles/{default['id']}")).status_code == 409
    wrong = await client.post("/api/v1/profiles", json={"name": "x", "definition": {"topics": [{"filter": "a/#/b"}]}})
    assert (wrong.json()["code"], wrong.json()["pointer"]) == ("profile.invalid", "/topics/0/filter")
    twice = await client.post("/api/v1/profiles", json={"name": "x", "definition": {"metrics": [{"name": "t"}] * 2}})
    assert (twice.status_code, twice.json()["code"]) == (409, "profile.contradictory")
    unknown = await client.post(DEVICES, json={"external_id": "b", "profile": "nobody's"})
    assert (unknown.status_code, unknown.json()["code"]) == (409, "reference.unknown")


async def test_group(client: httpx.AsyncClient, services: APIServices, tenant: UUID) -> None:
    ids = [(await make(client, f"d{n}"))["id"] for n in range(3)]
    path = (await client.post("/api/v1/groups", json={"name": "g"})).headers["location"]
    nobody = path.rsplit("/", 1)[1]
    added = await client.post(f"{path}/devices/add", json={"device_ids": [*ids[:2], nobody]})
    assert added.json() == {"changed": 2, "unknown": [nobody]}
    assert [d["id"] for d in (await client.get(f"{path}/devices")).json()["items"]] == ids[:2]
    assert (await client.post(f"{path}/devices/remove", json={"device_ids": ids})).json()["changed"] == 2
    assert (await client.get(f"/api/v1/groups/{ids[0]}/devices")).status_code == 404
    await client.post(f"{path}/devices/add", json={"device_ids": ids[:1]})
    narrow = bearer(await mint_token(services.database, tenant, group_id=UUID(nobody)))
    assert [d["id"] for d in (await client.get(DEVICES, headers=narrow)).json()["items"]] == ids[:1]
    in_use = await client.delete(path)
    assert (in_use.status_code, in_use.json()["code"]) == (409, "group.in_use")
    assert (await client.get(f"{DEVICES}/{ids[1]}", headers=narrow)).status_code == 404
    refused = await client.post(DEVICES, headers=narrow, json={"external_id": "x"})
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.group_scoped")


async def test_files(client: httpx.AsyncClient) -> None:
    csv = b"external_id,name,labels.site,attributes.floor\r\na,=cmd(),north,3\r\n/,x,,\r\nb,B,,text\r\na,again,,\r\n"
    answer = await client.post(
        f"{DEVICES}/import", params={"credentials": "new"}, content=csv, headers={"Content-Type": "text/csv"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.text
    *lines, last = [msgspec.json.decode(line) for line in answer.text.splitlines()]
    assert last["summary"] == {
        "lines": 4, "created": 2, "updated": 0, "unchanged": 0, "exists": 1, "bad": 1, "credentials": 2,
    }  # fmt: skip
    by_line = {line["line"]: line for line in lines}
    assert by_line[2]["password"].startswith("hwd_")
    assert (by_line[3]["code"], by_line[3]["column"]) == ("device.invalid", "external_id")
    assert by_line[5]["outcome"] == "exists"

    table = await client.get(f"{DEVICES}/export", params={"sort": "ignored"})
    header, first, *_ = table.text.splitlines()
    assert header == "external_id,name,profile,status,labels.site,attributes.floor,id,connected,last_seen_at,created_at"
    assert first.startswith("a,'=cmd(),default,registered,north,3,")
    again = await client.post(
        f"{DEVICES}/import", params={"mode": "upsert"}, content=table.content, headers={"Content-Type": "text/csv"}
    )
    assert msgspec.json.decode(again.content)["summary"]["unchanged"] == 2

    lines_of = await client.get(f"{DEVICES}/export", params={"format": "ndjson", "q": "external_id = b"})
    (only,) = lines_of.text.splitlines()
    assert msgspec.json.decode(only)["attributes"] == {"floor": "text"}

    for content, kind, status, code in (
        (b"", "text/csv", 400, "import.invalid"),
        (b"name\nx\n", "text/csv", 400, "import.invalid"),
        (b"{}", "application/json", 415, "request.media_type_unsupported"),
    ):
        wrong = await client.post(f"{DEVICES}/import", content=content, headers={"Content-Type": kind})
        assert (wrong.status_code, wrong.json()["code"]) == (status, code)
    wrong = await client.get(f"{DEVICES}/export", params={"q": "nope"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "filter.invalid")

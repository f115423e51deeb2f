"""Telemetry over HTTP, in every format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pyarrow
import pytest
from tests.integration.store.stored import Stored, Telemetry
from tests.support.api import api_client, api_services, bearer, mint_token
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.api.app import APIServices
from headwater.clock import to_us

START = to_us(datetime(2026, 5, 1, tzinfo=UTC))
RANGE = {"from": "2026-05-01T00:00:00Z", "to": "2026-05-02T00:00:00Z"}
MINUTE_US = 60_000_000


@pytest.fixture
async def services(database_urls: DatabaseURLs) -> AsyncIterator[APIServices]:
    async with api_services(database_urls) as made:
        yield made


@pytest.fixture
async def telemetry(database_urls: DatabaseURLs, tenant_factory: TenantFactory) -> Telemetry:
    return Telemetry(database_urls, await tenant_factory())


@pytest.fixture
async def devices(telemetry: Telemetry) -> list[UUID]:
    """Each sends `t` once a minute for five minutes; the second one, besides, one text."""
    made = await telemetry.devices(2)
    messages = [
        Stored(made[d], START + n * MINUTE_US, {"t": float(n + 10 * d), "on": n % 2 == 0}) for d in (0, 1) for n in range(5)
    ]
    await telemetry.store([*messages, Stored(made[1], START + 1, {"text": "hé,llo"})], rolled_up_to=1)
    await telemetry.latest(messages[4])
    return made


@pytest.fixture
async def client(services: APIServices, telemetry: Telemetry) -> AsyncIterator[httpx.AsyncClient]:
    async with api_client(services) as made:
        made.headers.update(bearer(await mint_token(services.database, telemetry.tenant)))
        yield made


def path(device: UUID) -> str:
    return f"/api/v1/devices/{device}/telemetry"


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    problem: dict[str, Any] = answer.json()
    return problem


async def test_messages_come_in_pages(client: httpx.AsyncClient, devices: list[UUID]) -> None:
    seen: list[Any] = []
    params: dict[str, Any] = {**RANGE, "limit": 2, "order": "desc", "metric": "t"}
    while True:
        body = ok(await client.get(path(devices[0]), params=params))
        assert body["kind"] == "messages"
        seen += body["items"]
        if body["next_cursor"] is None:
            break
        params["cursor"] = body["next_cursor"]
    assert [item["values"] for item in seen] == [{"t": float(n)} for n in (4, 3, 2, 1, 0)]
    assert seen[0]["observed_at"] == "2026-05-01T00:04:00Z"
    params.update(cursor=body["next_cursor"] or params["cursor"], metric="on")
    refused(await client.get(path(devices[0]), params=params), 409, "cursor.invalid")


async def test_aggregates(client: httpx.AsyncClient, devices: list[UUID]) -> None:
    params = {**RANGE, "interval": "2m", "metric": ["t", "on"], "aggregate": ["avg", "count", "last"]}
    body = ok(await client.get(path(devices[0]), params=params))
    assert body["kind"] == "aggregates"
    assert body["sources"] == ["1m"]
    numbers, switch = body["series"]
    assert (numbers["metric"], numbers["type"], numbers["device_id"]) == ("t", "float", str(devices[0]))
    assert numbers["points"] == [
        {"at": "2026-05-01T00:00:00Z", "avg": 0.5, "count": 2, "last": 1.0},
        {"at": "2026-05-01T00:02:00Z", "avg": 2.5, "count": 2, "last": 3.0},
        {"at": "2026-05-01T00:04:00Z", "avg": 4.0, "count": 1, "last": 4.0},
    ]
    assert switch["points"][0] == {"at": "2026-05-01T00:00:00Z", "avg": 0.5, "count": 2, "last": False}
    filled = ok(await client.get(path(devices[0]), params={**params, "interval": "1h", "fill": "null", "metric": "t"}))
    assert len(filled["series"][0]["points"]) == 24
    assert filled["series"][0]["points"][1] == {"at": "2026-05-01T01:00:00Z", "avg": None, "count": 0, "last": None}


async def test_everything_can_be_counted(client: httpx.AsyncClient, devices: list[UUID]) -> None:
    body = {**RANGE, "metrics": ["t"], "interval": "all", "aggregates": ["count"], "by_device": False}
    answer = ok(await client.post("/api/v1/telemetry/query", json=body))
    assert answer["series"] == [
        {"device_id": None, "metric": "t", "type": "float", "points": [{"at": "2026-05-01T00:00:00Z", "count": 10}]}
    ]
    one = ok(await client.post("/api/v1/telemetry/query", json={**body, "devices": {"ids": [str(devices[1])]}}))
    assert one["series"][0]["points"][0]["count"] == 5


async def test_several_devices_in_one_stream(client: httpx.AsyncClient, devices: list[UUID]) -> None:
    answer = await client.post("/api/v1/telemetry/query", json={**RANGE, "metrics": ["t"]})
    times = [item["observed_at"] for item in ok(answer)["items"]]
    assert len(times) == 10
    assert times == sorted(times)
    lines = await client.post("/api/v1/telemetry/query", json=RANGE, headers={"Accept": "application/x-ndjson"})
    assert lines.headers["content-type"] == "application/x-ndjson"
    items = [json.loads(line) for line in lines.text.splitlines()]
    assert len(items) == 11
    assert [item["device_id"] for item in items] == sorted(item["device_id"] for item in items)


async def test_csv_and_arrow(client: httpx.AsyncClient, devices: list[UUID]) -> None:
    params: dict[str, Any] = {**RANGE, "metric": ["t", "text"]}
    answer = await client.get(path(devices[1]), params=params, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["t"] for row in rows] == ["10.0", "", "11.0", "12.0", "13.0", "14.0"]
    assert rows[1]["text"] == "hé,llo"
    limited = await client.get(path(devices[1]), params={**params, "format": "csv", "limit": 2})
    assert len(limited.text.splitlines()) == 3
    arrow = await client.get(path(devices[1]), params={**params, "format": "arrow"})
    table = pyarrow.ipc.open_stream(arrow.content).read_all()
    assert table.column("t").to_pylist() == [10.0, None, 11.0, 12.0, 13.0, 14.0]
    aggregated = await client.get(
        path(devices[1]), params={**params, "interval": "all", "format": "csv", "aggregate": "count"}
    )
    assert [(row["metric"], row["count"]) for row in csv.DictReader(io.StringIO(aggregated.text))] == [
        ("t", "5"),
        ("text", "1"),
    ]


async def test_latest_and_metrics(client: httpx.AsyncClient, devices: list[UUID]) -> None:
    one = ok(await client.get(f"/api/v1/devices/{devices[0]}/latest"))
    assert one["values"]["t"] == {
        "value": 4.0, "type": "float", "observed_at": "2026-05-01T00:04:00Z", "received_at": "2026-05-01T00:04:01Z",
    }  # fmt: skip
    several = ok(await client.get("/api/v1/telemetry/latest", params={"metric": "on"}))
    assert [list(item["values"]) for item in several["items"]] == [["on"], []]
    named = ok(await client.get("/api/v1/telemetry/latest", params={"device": str(devices[1])}))
    assert [item["device_id"] for item in named["items"]] == [str(devices[1])]
    first = ok(await client.get("/api/v1/metrics", params={"limit": 2}))
    assert [(item["name"], item["type"]) for item in first["items"]] == [("on", "boolean"), ("t", "float")]
    rest = ok(await client.get("/api/v1/metrics", params={"limit": 2, "cursor": first["next_cursor"]}))
    assert ([item["name"] for item in rest["items"]], rest["next_cursor"]) == (["text"], None)
    assert [item["name"] for item in ok(await client.get("/api/v1/metrics", params={"prefix": "te"}))["items"]] == ["text"]


async def test_what_is_wrong_is_said(client: httpx.AsyncClient, devices: list[UUID]) -> None:
    where = path(devices[0])
    for params in ({"from": "yesterday"}, {"from": "2026-05-01T00:00:00"}, {"from": "1700000000"}):
        refused(await client.get(where, params=params), 400, "telemetry.query_invalid")
    for params in (
        {"from": "2026-05-02T00:00:00Z", "to": "2026-05-01T00:00:00Z"},
        {"aggregate": "avg"},
        {"interval": "1h", "cursor": "x"},
        {"format": "csv", "cursor": "x"},
    ):
        refused(await client.get(where, params=params), 409, "telemetry.query_contradictory")
    refused(await client.get(where, params={"interval": "1h", "time_zone": "Mars/Olympus"}), 409, "reference.unknown")
    for params in ({"limit": 10_001}, {**RANGE, "interval": "1s", "from": "2020-01-01T00:00:00Z"}):
        refused(await client.get(where, params=params), 409, "telemetry.query_too_large")
    for params in (
        {"interval": "1 hour"}, {"interval": "13mo"}, {"order": "up"}, {"limit": 0}, {"format": "xml"}, {"time_zone": "0.5"},
        {"interval": "null"}, {"limit": [5, 5]},
    ):  # fmt: skip
        refused(await client.get(where, params=params), 400, "request.invalid")
    refused(await client.get(where, headers={"Accept": "image/png"}), 406, "telemetry.format_unknown")
    refused(await client.get(path(UUID(int=5))), 404, "resource.not_found")
    missing = {"devices": {"ids": [str(devices[0]), str(UUID(int=5))]}}
    refused(await client.post("/api/v1/telemetry/query", json=missing), 404, "resource.not_found")
    unknown = {"devices": {"group_id": str(UUID(int=5))}}
    refused(await client.post("/api/v1/telemetry/query", json=unknown), 404, "resource.not_found")
    refused(await client.post("/api/v1/telemetry/query", json={"metric": "t"}), 400, "request.invalid")


async def test_another_tenant_and_a_token_without_the_permission(
    client: httpx.AsyncClient,
    services: APIServices,
    devices: list[UUID],
    tenant_factory: TenantFactory,
    telemetry: Telemetry,
) -> None:
    stranger = bearer(await mint_token(services.database, await tenant_factory()))
    refused(await client.get(path(devices[0]), headers=stranger), 404, "resource.not_found")
    refused(await client.get(f"/api/v1/devices/{devices[0]}/latest", headers=stranger), 404, "resource.not_found")
    body = {**RANGE, "interval": "all", "aggregates": ["count"], "by_device": False}
    assert ok(await client.post("/api/v1/telemetry/query", json=body, headers=stranger))["series"] == []
    assert ok(await client.get("/api/v1/metrics", headers=stranger))["items"] == []
    lesser = bearer(await mint_token(services.database, telemetry.tenant, {"device:read"}))
    refused(await client.get(path(devices[0]), headers=lesser), 403, "auth.forbidden")

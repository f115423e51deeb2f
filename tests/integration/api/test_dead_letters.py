"""Dead letters over HTTP, over a real nats-server, up to the records in the stream."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from tests.integration.store.stored import Telemetry
from tests.support.api import api_client, api_services, bearer, mint_token
from tests.support.engines import DatabaseURLs
from tests.support.tenants import TenantFactory

from headwater.api.app import APIServices
from headwater.clock import to_us
from headwater.ids import uuid7
from headwater.stream import subjects
from headwater.stream.dead_letters import DeadLetters
from headwater.stream.envelope import DeadLetter, Flag, Kind, Record, decode_batch, encode_batch, encode_dead_letter
from headwater.stream.topology import DEAD_STREAM, UPLINK_STREAM, Topology, ensure
from headwater.tenancy.scope import ALL_PERMISSIONS, PERMISSIONS, Role

PATH = "/api/v1/dead-letters"
RECEIVED = to_us(datetime(2026, 5, 1, tzinfo=UTC))


@pytest.fixture
async def services(database_urls: DatabaseURLs, nats_url: str) -> AsyncIterator[APIServices]:
    async with api_services(database_urls, nats_url=nats_url) as made:
        assert made.jetstream is not None
        await ensure(made.jetstream, Topology(uplink_bytes_max=1 << 26, dead_bytes_max=1 << 26))
        yield made


@pytest.fixture
async def tenant(tenant_factory: TenantFactory) -> UUID:
    return await tenant_factory("acme")


@pytest.fixture
async def devices(database_urls: DatabaseURLs, tenant: UUID) -> list[UUID]:
    return await Telemetry(database_urls, tenant).devices(2)


@pytest.fixture
async def client(services: APIServices, tenant: UUID) -> AsyncIterator[httpx.AsyncClient]:
    async with api_client(services) as made:
        made.headers.update(bearer(await mint_token(services.database, tenant)))
        yield made


async def keep(
    services: APIServices, tenant: UUID, device: UUID | None, payload: bytes, *, at_us: int = RECEIVED, **fields: Any
) -> int:
    letter = DeadLetter(
        device=device.bytes if device else b"",
        source=fields.get("source", "mqtt"),
        topic=fields.get("topic", "v1/devices/me/telemetry"),
        code=fields.get("code", "payload.malformed"),
        detail="it was no JSON",
        received_at=at_us,
        payload=payload,
        content_type=fields.get("content_type", ""),
    )
    assert services.jetstream is not None
    return (await services.jetstream.publish(subjects.dead(tenant), encode_dead_letter(letter))).seq


async def stored(services: APIServices) -> list[Record]:
    """Everything in UPLINK."""
    assert services.jetstream is not None
    state = (await services.jetstream.stream_info(UPLINK_STREAM)).state
    records: list[Record] = []
    for sequence in range(max(1, state.first_seq), state.last_seq + 1):
        message = await services.jetstream.get_msg(UPLINK_STREAM, sequence)
        records += decode_batch(message.data or b"")
    return records


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_letters_are_listed_and_shown(
    client: httpx.AsyncClient, services: APIServices, tenant: UUID, devices: list[UUID]
) -> None:
    first = await keep(services, tenant, devices[0], b'{"t": }')
    second = await keep(services, tenant, devices[1], b"\xff\x00", at_us=RECEIVED + 10, code="metric.unknown")
    items = ok(await client.get(PATH))["items"]
    assert [item["sequence"] for item in items] == [second, first]
    assert (items[1]["preview"], items[0]["preview"], items[0]["payload_bytes"]) == ('{"t": }', None, 2)
    detail = ok(await client.get(f"{PATH}/{second}"))
    assert base64.b64decode(detail["payload"]) == b"\xff\x00"
    assert detail["received_at"] == "2026-05-01T00:00:00.000010Z"
    for params, expected in (
        ({"device_id": str(devices[0])}, [first]),
        ({"code": "metric.unknown"}, [second]),
        ({"from": "2026-05-01T00:00:00.000005Z"}, [second]),
        ({"to": "2026-05-01T00:00:00.000005Z"}, [first]),
        ({"order": "asc"}, [first, second]),
    ):
        assert [item["sequence"] for item in ok(await client.get(PATH, params=params))["items"]] == expected, params
    missing = await client.get(f"{PATH}/{second + 1}")
    assert (missing.status_code, missing.json()["code"]) == (404, "dead_letter.not_found")


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_are_complete_among_the_letters_of_others(
    client: httpx.AsyncClient, services: APIServices, tenant: UUID, devices: list[UUID], order: str
) -> None:
    """Letters of this tenant are rare here and dense there, so that the windows backwards grow and shrink."""
    assert services.jetstream is not None
    other = uuid7()
    mine = []
    for number in range(900):
        if number % 100 == 0 or number > 880 or 300 <= number < 330:
            mine.append(await keep(services, tenant, devices[0], str(number).encode(), code=f"c.{number % 2}"))
        else:
            await keep(services, other, None, b"x")
    await services.jetstream.delete_msg(DEAD_STREAM, mine.pop(5))
    for wanted in ({}, {"code": "c.1"}):
        seen: list[str] = []
        params: dict[str, Any] = {"limit": 7, "order": order, **wanted}
        while True:
            page = ok(await client.get(PATH, params=params))
            assert len(page["items"]) <= 7
            seen += [item["sequence"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        letters = DeadLetters(services.nats, services.jetstream)  # type: ignore[arg-type]  # the fixture has connected
        chosen = [s for s in mine if not wanted or (await letters.get(tenant, s)).letter.code == "c.1"]
        assert seen == (chosen if order == "asc" else chosen[::-1])


async def test_a_replay_is_stored_once_and_deleted(
    client: httpx.AsyncClient, services: APIServices, tenant: UUID, devices: list[UUID]
) -> None:
    sequence = await keep(services, tenant, devices[0], b'[{"ts": 1777593600000, "values": {"t": 21.5}}, {"u": 3}]')
    assert services.jetstream is not None
    letter = (await services.jetstream.get_msg(DEAD_STREAM, sequence)).data
    result = ok(await client.post(f"{PATH}/{sequence}/replay"))
    assert result == {"replayed": 1, "records": 2, "refused_count": 0, "refused": [], "next_cursor": None}
    first, second = records = await stored(services)
    assert (first.tenant, first.device, first.kind, first.body) == (
        tenant.bytes,
        devices[0].bytes,
        Kind.TELEMETRY,
        {"t": 21.5},
    )
    assert (first.observed_at, second.observed_at, second.received_at) == (1777593600000000, RECEIVED, RECEIVED)
    assert all(record.flags & Flag.RESENT for record in records)
    assert (await client.get(f"{PATH}/{sequence}")).status_code == 404
    assert (await client.post(f"{PATH}/{sequence}/replay")).status_code == 404

    # Interrupted between storing and deleting: the letter is still there, and replayed again. Its sequence is another, as
    # if the stream's duplicate window were over; the store must know the records by what they are.
    again = (await services.jetstream.publish(subjects.dead(tenant), letter or b"")).seq
    ok(await client.post(f"{PATH}/{again}/replay"))
    assert (await stored(services))[2:] == records


async def test_an_interrupted_replay_is_known_again_by_the_stream(
    client: httpx.AsyncClient, services: APIServices, tenant: UUID, devices: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = await keep(services, tenant, devices[0], b'{"t": 1.0}')

    async def dies(*_: object) -> None:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(DeadLetters, "delete", dies)
        assert (await client.post(f"{PATH}/{sequence}/replay")).status_code == 503
    assert len(await stored(services)) == 1
    ok(await client.post(f"{PATH}/{sequence}/replay"))
    assert len(await stored(services)) == 1
    assert ok(await client.get(PATH))["items"] == []


async def test_what_is_refused_again_is_kept_with_the_reason(
    client: httpx.AsyncClient, services: APIServices, tenant: UUID, devices: list[UUID]
) -> None:
    bad = await keep(services, tenant, devices[0], b'{"t": ')
    gone = await keep(services, tenant, uuid7(), b'{"t": 1}')
    nobody = await keep(services, tenant, None, b"?")
    elsewhere = await keep(services, tenant, devices[0], b'{"t": 1}', topic="some/where")
    good = await keep(services, tenant, devices[1], b'{"t": 1}', source="http", topic="/v1/telemetry")
    event = await keep(services, tenant, devices[1], b'{"a": 1}', source="http", topic="/v1/events/alarm")
    cbor = await keep(services, tenant, devices[1], b"\xa1at\x01", content_type="application/cbor")
    batch = encode_batch([Record(tenant.bytes, devices[1].bytes, Kind.TELEMETRY, RECEIVED, RECEIVED, 1, 1, {"z": 1})])
    kept = await keep(
        services, tenant, devices[1], batch, source="store", content_type="application/vnd.headwater.records+msgpack"
    )
    foreign = await keep(
        services, tenant, devices[0], batch, source="store", content_type="application/vnd.headwater.records+msgpack"
    )
    result = ok(await client.post(f"{PATH}/replay", json={}))
    assert (result["replayed"], result["records"], result["refused_count"]) == (4, 4, 5)
    assert {one["sequence"]: one["code"] for one in result["refused"]} == {
        bad: "payload.malformed",
        gone: "dead_letter.device_gone",
        nobody: "dead_letter.device_gone",
        elsewhere: "dead_letter.topic_not_ingested",
        foreign: "payload.malformed",
    }
    left = [item["sequence"] for item in ok(await client.get(PATH, params={"order": "asc"}))["items"]]
    assert left == sorted([bad, gone, nobody, elsewhere, foreign])
    assert not {good, event, cbor, kept} & set(left)
    kinds = sorted((record.kind, sorted(record.body)) for record in await stored(services))
    assert kinds == [
        (Kind.TELEMETRY, ["t"]),
        (Kind.TELEMETRY, ["t"]),
        (Kind.TELEMETRY, ["z"]),
        (Kind.EVENT, ["data", "name"]),
    ]


async def test_many_are_replayed_and_deleted_in_pieces(
    client: httpx.AsyncClient, services: APIServices, tenant: UUID, devices: list[UUID]
) -> None:
    for number in range(25):
        await keep(services, tenant, devices[number % 2], b'{"t": %d}' % number, at_us=RECEIVED + number)
    body: dict[str, Any] = {"limit": 4, "device_id": str(devices[0])}
    replayed = 0
    while True:
        result = ok(await client.post(f"{PATH}/replay", json=body))
        replayed += result["replayed"]
        if result["next_cursor"] is None:
            break
        body["cursor"] = result["next_cursor"]
    assert replayed == 13
    assert sorted(record.body["t"] for record in await stored(services)) == list(range(0, 25, 2))
    assert ok(await client.post(f"{PATH}/delete", json={"to": "2026-05-01T00:00:00.000010Z"}))["deleted"] == 5
    [newest, *_] = ok(await client.get(PATH))["items"]
    assert (await client.delete(f"{PATH}/{newest['sequence']}")).status_code == 204
    assert (await client.delete(f"{PATH}/{newest['sequence']}")).status_code == 404
    assert len(ok(await client.get(PATH))["items"]) == 6


async def test_strangers_lesser_roles_and_groups(
    client: httpx.AsyncClient, services: APIServices, tenant: UUID, devices: list[UUID], tenant_factory: TenantFactory
) -> None:
    inside = await keep(services, tenant, devices[0], b'{"t": 1}')
    outside = await keep(services, tenant, devices[1], b'{"t": 2}')
    stranger = bearer(await mint_token(services.database, await tenant_factory()))
    assert ok(await client.get(PATH, headers=stranger))["items"] == []
    for method, path in (("GET", f"{PATH}/{inside}"), ("POST", f"{PATH}/{inside}/replay"), ("DELETE", f"{PATH}/{inside}")):
        assert (await client.request(method, path, headers=stranger)).status_code == 404
    assert ok(await client.post(f"{PATH}/replay", json={}, headers=stranger))["replayed"] == 0
    viewer = bearer(await mint_token(services.database, tenant, PERMISSIONS[Role.VIEWER]))
    assert (await client.post(f"{PATH}/{inside}/replay", headers=viewer)).status_code == 403
    operator = bearer(await mint_token(services.database, tenant, PERMISSIONS[Role.OPERATOR]))
    assert (await client.delete(f"{PATH}/{inside}", headers=operator)).status_code == 403

    group = uuid7()
    async with services.database.tenant_session(tenant) as connection:
        await connection.execute(
            "INSERT INTO device_group (id, tenant_id, name, kind) VALUES ($1, $2, 'g', 'static')", group, tenant
        )
        await connection.execute("INSERT INTO device_group_member VALUES ($1, $2, $3)", tenant, group, devices[0])
    limited = bearer(await mint_token(services.database, tenant, ALL_PERMISSIONS, group_id=group))
    assert [item["sequence"] for item in ok(await client.get(PATH, headers=limited))["items"]] == [inside]
    assert (await client.get(f"{PATH}/{outside}", headers=limited)).status_code == 404
    assert ok(await client.post(f"{PATH}/replay", json={}, headers=limited))["replayed"] == 1
    assert [item["sequence"] for item in ok(await client.get(PATH))["items"]] == [outside]

"""What a device may POST, what it hears, and what reaches the stream."""

from __future__ import annotations

import asyncio
import base64
import gzip
import time
from collections.abc import Callable
from typing import Any

import cbor2
import msgspec
import nats
import pytest
from tests.integration.gateway.conftest import HTTPDevice, HTTPDeviceFactory, Ingest, running_ingest
from tests.support.profiles import plain

from headwater.database.session import Database
from headwater.device.profile import Decoder, Metric, ProfileDefinition, UnknownMetrics
from headwater.ingest.ports import StreamFull, StreamUnavailable
from headwater.stream.envelope import Flag, Kind, decode_batch
from headwater.stream.publisher import Publisher
from headwater.stream.topology import UPLINK_STREAM, Topology, ensure
from headwater.stream.uplink import StreamUplink
from headwater.testing.memory_uplink import MemoryUplink

TELEMETRY, ATTRIBUTES, EVENT = "/v1/telemetry", "/v1/attributes", "/v1/events/door"
JSON = "application/json"


def bodies(ingest: Ingest) -> list[dict[str, Any]]:
    return [plain(record.body) for record in ingest.uplink.records]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # what we wait for has no event
            await asyncio.sleep(0.01)


async def connect_for_ever(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await asyncio.sleep(0.05)


async def write_for_ever(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(10):
        while True:
            writer.write(b"a" * 20_000)
            await writer.drain()
            await asyncio.sleep(0.01)


async def test_one_record(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device()
    ts = time.time_ns() // 1_000_000 - 5_000
    status, answer, headers = await ingest.post(
        TELEMETRY, f'{{"ts": {ts}, "values": {{"a": 21.5}}}}', device.bearer, Content_Type=JSON
    )
    assert (status, answer, headers["Content-Type"]) == (202, {"accepted": 1}, JSON)
    (record,) = ingest.uplink.records
    assert (record.tenant, record.device) == (device.tenant_id.bytes, device.device_id.bytes)
    assert (record.kind, record.observed_at, record.body, record.flags) == (Kind.TELEMETRY, ts * 1000, {"a": 21.5}, 0)
    assert abs(record.received_at - time.time_ns() // 1000) < 60_000_000


@pytest.mark.parametrize(
    ("content_type", "payload", "expected"),
    [
        ("", b'{"a": 1}', [{"a": 1}]),
        ("application/octet-stream", b'{"a": 1}', [{"a": 1}]),
        ("Application/JSON; charset=utf-8", b'[{"a": 1}, {"b": 2}]', [{"a": 1}, {"b": 2}]),
        ("application/senml+json", b'[{"n": "a", "v": 1}, {"n": "b", "vb": true}]', [{"a": 1, "b": True}]),
        ("application/senml+cbor", cbor2.dumps([{0: "a", 2: 1.5}]), [{"a": 1.5}]),
        ("application/cbor", cbor2.dumps({"a": 1}), [{"a": 1}]),
        ("application/msgpack", msgspec.msgpack.encode({"a": 1}), [{"a": 1}]),
        ("application/vnd.msgpack", msgspec.msgpack.encode([{"a": 1}]), [{"a": 1}]),
        ("application/x-ndjson", b'{"a": 1}\n\n  {"b": 2}\r\n{"c": 3}', [{"a": 1}, {"b": 2}, {"c": 3}]),
    ],
)
async def test_the_content_type_chooses_the_decoder(
    ingest: Ingest, http_device: HTTPDeviceFactory, content_type: str, payload: bytes, expected: list[dict[str, Any]]
) -> None:
    device = await http_device()
    headers = device.bearer | ({"Content-Type": content_type} if content_type else {})
    status, answer, _ = await ingest.post(TELEMETRY, payload, headers)
    assert (status, answer) == (202, {"accepted": len(expected)})
    assert bodies(ingest) == expected
    assert [record.sequence for record in ingest.uplink.records] == list(range(1, len(expected) + 1))


async def test_without_a_content_type_the_profile_decides(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device(ProfileDefinition(decoder=Decoder.CBOR))
    assert (await ingest.post(TELEMETRY, cbor2.dumps({"a": 1}), device.bearer))[0] == 202
    assert (await ingest.post(TELEMETRY, b'{"a": 1}', device.bearer, Content_Type=JSON))[0] == 202
    assert bodies(ingest) == [{"a": 1}, {"a": 1}]


async def test_attributes_and_events(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device()
    assert (await ingest.post(ATTRIBUTES, b'{"fw": "1.2", "old": null}', device.bearer))[:2] == (202, {"accepted": 1})
    assert (await ingest.post(EVENT, b'{"by": "Ada"}', device.bearer))[:2] == (202, {"accepted": 1})
    assert (await ingest.post(EVENT, b"", device.bearer))[:2] == (202, {"accepted": 1})
    assert [record.kind for record in ingest.uplink.records] == [Kind.ATTRIBUTES, Kind.EVENT, Kind.EVENT]
    assert bodies(ingest) == [
        {"fw": "1.2", "old": None},
        {"name": "door", "data": ("json", {"by": "Ada"})},
        {"name": "door", "data": ("json", None)},
    ]


async def test_gzip_and_its_bound(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device(quotas={"message_bytes_max": 2_000})
    headers = device.bearer | {"Content-Encoding": "gzip"}
    two_members = gzip.compress(b'{"a"') + gzip.compress(b": 1}")
    assert (await ingest.post(TELEMETRY, two_members, headers))[0] == 202
    status, problem, _ = await ingest.post(TELEMETRY, gzip.compress(b'{"a": "' + b"x" * 10_000_000 + b'"}'), headers)
    assert (status, problem["code"]) == (413, "payload.too_large")
    for broken in (gzip.compress(b'{"a": 1}')[:-4], b"not gzip at all"):
        status, problem, _ = await ingest.post(TELEMETRY, broken, headers)
        assert (status, problem["code"]) == (400, "payload.malformed")
    status, problem, _ = await ingest.post(TELEMETRY, b"{}", device.bearer | {"Content-Encoding": "br"})
    assert (status, problem["code"]) == (415, "http.encoding_unsupported")
    assert bodies(ingest) == [{"a": 1}]


async def test_a_bad_record_refuses_the_request_and_is_named(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device(ProfileDefinition(metrics=(Metric("t", max=100),), unknown_metrics=UnknownMetrics.REJECT))
    payload = b'[{"t": 1}, {"t": 101}, {"t": 2}, {"x": 1}, 5]'
    status, problem, headers = await ingest.post(TELEMETRY, payload, device.bearer, Content_Type=JSON)
    assert (status, headers["Content-Type"]) == (422, "application/problem+json")
    assert problem["code"] == "metric.out_of_bounds"
    assert problem["type"] == "/docs/problems/metric.out_of_bounds"
    assert (problem["accepted"], problem["rejected"]) == (0, 3)
    assert [(e["index"], e.get("metric"), e["code"]) for e in problem["errors"]] == [
        (1, "t", "metric.out_of_bounds"), (3, "x", "metric.unknown"), (4, None, "payload.malformed"),
    ]  # fmt: skip
    assert ingest.uplink.records == []
    ((tenant_id, letter),) = ingest.uplink.letters
    assert tenant_id == device.tenant_id
    assert (letter.device, letter.source, letter.topic) == (device.device_id.bytes, "http", TELEMETRY)
    assert (letter.payload, letter.content_type, letter.code) == (payload, JSON, "metric.out_of_bounds")


async def test_partial_keeps_the_good_and_buries_the_bad(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device(ProfileDefinition(metrics=(Metric("t", max=100),)))
    big = "1" * 30
    status, answer, _ = await ingest.post(
        TELEMETRY + "?partial=true", f'[{{"t": 1}}, {{"t": 101}}, {{"x": {big}}}]', device.bearer, Content_Type=JSON
    )
    assert status == 202
    assert (answer["accepted"], answer["rejected"]) == (1, 2)
    assert [error["index"] for error in answer["errors"]] == [1, 2]
    assert bodies(ingest) == [{"t": 1.0}]
    assert [letter.payload for _, letter in ingest.uplink.letters] == [b'{"t":101}', f'{{"x":{big}}}'.encode()]
    status, problem, _ = await ingest.post(TELEMETRY + "?partial=true", b'[{"t": 101}]', device.bearer)
    assert (status, problem["rejected"]) == (422, 1)
    status, problem, _ = await ingest.post(TELEMETRY + "?partial=perhaps", b"{}", device.bearer)
    assert (status, problem["code"]) == (400, "http.query_invalid")


async def test_ndjson_names_lines(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device()
    lines = b'{"a": 1}\nnot json\n{"a": 2}\n\n{"": 3}\n'
    headers = device.bearer | {"Content-Type": "application/x-ndjson"}
    status, problem, _ = await ingest.post(TELEMETRY, lines, headers)
    assert status == 400
    assert [(e["line"], e["code"]) for e in problem["errors"]] == [(2, "payload.malformed"), (5, "metric.name_invalid")]
    assert ingest.uplink.records == []
    status, answer, _ = await ingest.post(TELEMETRY + "?partial=true", lines, headers)
    assert (status, answer["accepted"], answer["rejected"]) == (202, 2, 2)
    assert bodies(ingest) == [{"a": 1}, {"a": 2}]
    assert [letter.payload for _, letter in ingest.uplink.letters] == [b"not json", b'{"": 3}'] * 2


@pytest.mark.parametrize("query", ["", "?partial=true"])
async def test_a_long_back_fill_goes_in_pieces_and_in_order(
    ingest: Ingest, http_device: HTTPDeviceFactory, query: str
) -> None:
    device = await http_device()

    async def body() -> Any:
        for start in range(0, 3_300, 330):
            yield b"".join(b'{"n": %d}\n' % number for number in range(start, start + 330))

    headers = device.bearer | {"Content-Type": "application/x-ndjson"}
    url = f"http://127.0.0.1:{ingest.port}{TELEMETRY}{query}"
    async with ingest.client.post(url, data=body(), headers=headers) as response:
        assert (response.status, (await response.json())["accepted"]) == (202, 3_300)
    assert [record.body["n"] for record in ingest.uplink.records] == list(range(3_300))
    assert [record.sequence for record in ingest.uplink.records] == list(range(1, 3_301))
    assert len({record.epoch for record in ingest.uplink.records}) == 1


async def test_bounds_of_ndjson(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device(quotas={"message_bytes_max": 100})
    headers = device.bearer | {"Content-Type": "application/x-ndjson"}
    for query in ("", "?partial=true"):
        for body in (b'{"a": "' + b"x" * 200 + b'"}\n', b'{"a": 1}\n' * 400):
            status, problem, _ = await ingest.post(TELEMETRY + query, body, headers)
            assert (status, problem["code"]) == (413, "payload.too_large")
        assert (await ingest.post(TELEMETRY + query, b"\n\n", headers))[1]["code"] == "payload.empty"
    ingest.uplink.records.clear()
    half_good = b'{"a": 1}\nbad\n{"a": "' + b"x" * 200 + b'"}\n'
    status, problem, _ = await ingest.post(TELEMETRY + "?partial=true", half_good, headers)
    assert (status, problem["code"], problem["line"], problem["accepted"]) == (413, "payload.too_large", 3, 1)
    assert bodies(ingest) == [{"a": 1}]
    assert [letter.payload for _, letter in ingest.uplink.letters] == [b"bad"]


async def test_a_body_that_is_too_large(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device(quotas={"message_bytes_max": 1_000})
    status, problem, _ = await ingest.post(TELEMETRY, b"x" * 500_000, device.bearer)
    assert (status, problem["code"], problem["bytes_max"]) == (413, "payload.too_large", 1_000)

    async def unannounced() -> Any:
        for _ in range(100):
            yield b"x" * 1_000

    url = f"http://127.0.0.1:{ingest.port}{TELEMETRY}"
    async with ingest.client.post(url, data=unannounced(), headers=device.bearer) as response:
        assert response.status == 413
    assert ingest.uplink.letters == []


async def test_epochs_rise_from_request_to_request(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device()
    await asyncio.gather(*(ingest.post(TELEMETRY, b'{"a": 1}', device.bearer) for _ in range(20)))
    epochs = [record.epoch for record in ingest.uplink.records]
    assert len(set(epochs)) == 20


async def test_resent_marks_what_has_a_time_of_its_own(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device()
    await ingest.post(TELEMETRY + "?resent=true", b'[{"ts": 1764000000, "a": 1}, {"a": 2}]', device.bearer)
    assert [record.flags for record in ingest.uplink.records] == [Flag.RESENT, 0]


async def test_202_waits_for_the_stream(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device()
    await ingest.post(TELEMETRY, b'{"warm": 1}', device.bearer)
    ingest.uplink.held = True
    answer = asyncio.create_task(ingest.post(TELEMETRY, b'{"a": 1}', device.bearer))
    done, _ = await asyncio.wait({answer}, timeout=0.3)
    assert not done
    ingest.uplink.release()
    assert (await answer)[0] == 202


async def test_a_stream_that_refuses(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device()
    ingest.uplink.refusal = StreamFull("the stream is full", retry_after_s=30)
    status, problem, headers = await ingest.post(TELEMETRY, b'{"a": 1}', device.bearer)
    assert (status, problem["code"], headers["Retry-After"]) == (503, "stream.full", "30")
    ingest.uplink.refusal = StreamUnavailable("no answer")
    status, problem, headers = await ingest.post(TELEMETRY, b'{"a": 1}', device.bearer)
    assert (status, problem["code"], headers["Retry-After"]) == (503, "stream.unavailable", "2")
    assert (await ingest.post(TELEMETRY, b'{"a"', device.bearer))[0] == 400  # though its dead letter is lost


async def test_who_is_let_in(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device()
    other = await http_device()

    def basic(user: str, password: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}

    for headers in (basic(str(device.device_id), device.token), basic(device.token, ""), basic("", device.token)):
        assert (await ingest.post(TELEMETRY, b'{"a": 1}', headers))[0] == 202
    wrong = device.token[:-1] + ("A" if device.token[-1] != "A" else "B")
    for headers in (
        {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Bearer {wrong}"},
        {"Authorization": f"Token {device.token}"}, basic(str(other.device_id), device.token), {"Authorization": "Basic §"},
        {"Authorization": "Bearer " + "x" * 5_000},
    ):  # fmt: skip
        status, problem, answer = await ingest.post(TELEMETRY, b'{"a": 1}', headers)
        assert (status, problem["code"]) == (401, "device.refused")
        assert answer["WWW-Authenticate"].startswith("Bearer")
        assert device.token not in str(problem)
    assert len(ingest.uplink.records) == 3


async def test_a_change_in_the_registry_ends_what_is_remembered(
    ingest: Ingest, http_device: HTTPDeviceFactory, database: Database
) -> None:
    device = await http_device()

    async def post() -> tuple[int, Any]:
        status, answer, _ = await ingest.post(TELEMETRY, b'{"a": 1}', device.bearer)
        return status, answer.get("code")

    async def change(sql: str) -> None:
        async with database.tenant_session(device.tenant_id) as connection:
            await connection.execute(sql)

    assert await post() == (202, None)
    await change("UPDATE device SET status = 'suspended'")
    assert await post() == (202, None)  # remembered
    ingest.app.forget(device.device_id)
    assert await post() == (403, "device.suspended")
    await change("UPDATE device SET status = 'active'")
    assert await post() == (202, None)
    await change("UPDATE device_credential SET revoked_at = now()")
    ingest.app.forget(device.credential_id)
    assert await post() == (401, "device.refused")


async def test_the_tenants_quota(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device(quotas={"messages_per_s": 20})
    answers = [await ingest.post(TELEMETRY, b'{"a": 1}', device.bearer) for _ in range(4)]
    assert [status for status, _, _ in answers] == [202, 202, 429, 429]
    assert answers[-1][1]["code"] == "quota.exceeded"
    assert int(answers[-1][2]["Retry-After"]) >= 1
    ingest.meters.refill()
    assert (await ingest.post(TELEMETRY, b'{"a": 1}', device.bearer))[0] == 202
    ingest.app.forget(device.tenant_id)
    assert ingest.meters._meters == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("POST", "/", JSON), (404, "http.path_unknown")),
        (("POST", "/v1/telemetry/", JSON), (404, "http.path_unknown")),
        (("GET", "/v1/telemetry", JSON), (405, "http.method_not_allowed")),
        (("POST", "/v1/health", JSON), (405, "http.method_not_allowed")),
        (("POST", "/v1/telemetry", "application/x-www-form-urlencoded"), (415, "http.media_type_unsupported")),
        (("POST", "/v1/events/a%20b", JSON), (400, "event.name_invalid")),
        (("POST", "/v1/events/", JSON), (400, "event.name_invalid")),
    ],
)
async def test_requests_that_are_wrong_in_form(
    ingest: Ingest, http_device: HTTPDeviceFactory, wrong: tuple[str, str, str], said: tuple[int, str]
) -> None:
    device = await http_device()
    method, path, content_type = wrong
    headers = device.bearer | {"Content-Type": content_type}
    url = f"http://127.0.0.1:{ingest.port}{path}"
    async with ingest.client.request(method, url, data=b'{"a": 1}', headers=headers) as response:
        assert (response.status, msgspec.json.decode(await response.read())["code"]) == said
        assert ("Allow" in response.headers) == (said[0] == 405)


async def test_health(ingest: Ingest) -> None:
    async with ingest.client.get(f"http://127.0.0.1:{ingest.port}/v1/health") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})


async def test_stop_lets_a_request_end(database: Database, http_device: HTTPDeviceFactory) -> None:
    device = await http_device()
    async with running_ingest(database, MemoryUplink()) as ingest:
        await ingest.post(TELEMETRY, b'{"warm": 1}', device.bearer)
        ingest.uplink.held = True
        answer = asyncio.create_task(ingest.post(TELEMETRY, b'{"a": 1}', device.bearer))
        await until(lambda: bool(ingest.uplink._open))
        ingest.stop.set()
        with pytest.raises(OSError):  # noqa: PT011  # refused or reset, as the kernel likes
            await connect_for_ever(ingest.port)
        ingest.uplink.release()
        assert (await answer)[0] == 202
        await asyncio.wait_for(ingest.served, 10)


async def test_endless_and_slow_heads_are_cut_off(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", ingest.port)
    writer.write(b"POST /v1/telemetry HTTP/1.1\r\nX: " + b"a" * 20_000)
    await writer.drain()
    with pytest.raises(ConnectionError):
        await write_for_ever(writer)
    monkeypatch.setattr("headwater.gateway.http.server.HEAD_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", ingest.port)
    writer.write(b"POST /v1/telemetry HTTP/1.1\r\n")
    assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_slow_body_is_cut_off(
    ingest: Ingest, http_device: HTTPDeviceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await http_device()
    monkeypatch.setattr("headwater.gateway.http.request.BODY_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", ingest.port)
    head = f"POST /v1/telemetry HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {device.token}\r\nContent-Length: 10\r\n\r\n"
    writer.write(head.encode() + b'{"a"')
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"http.timeout" in answer
    assert ingest.uplink.records == []


async def test_bulk_requests_of_one_device_are_limited(ingest: Ingest, http_device: HTTPDeviceFactory) -> None:
    device = await http_device()
    release = asyncio.Event()

    async def slow() -> Any:
        yield b'{"a": 1}\n'
        await release.wait()
        yield b'{"a": 2}\n'

    headers = device.bearer | {"Content-Type": "application/x-ndjson"}
    url = f"http://127.0.0.1:{ingest.port}{TELEMETRY}"
    first = [asyncio.create_task(_status(ingest, url, slow(), headers)) for _ in range(2)]
    await until(lambda: ingest.app._slots._total == 2)
    status, problem, _ = await ingest.post(TELEMETRY, b'{"a": 3}', headers)
    assert (status, problem["code"]) == (503, "http.busy")
    release.set()
    assert await asyncio.gather(*first) == [202, 202]
    assert (await ingest.post(TELEMETRY, b'{"a": 3}', headers))[0] == 202


async def _status(ingest: Ingest, url: str, data: Any, headers: dict[str, str]) -> int:
    async with ingest.client.post(url, data=data, headers=headers) as response:
        return response.status


async def test_through_the_real_stream(database: Database, http_device: HTTPDeviceFactory, nats_url: str) -> None:
    device: HTTPDevice = await http_device()
    connection = await nats.connect(nats_url)
    jetstream = connection.jetstream()
    topology = Topology(lanes=1, partitions=1, uplink_bytes_max=1 << 24, dead_bytes_max=1 << 24, message_bytes_max=1 << 24)
    await ensure(jetstream, topology)
    uplink = StreamUplink(Publisher(jetstream), topology, 0)
    async with running_ingest(database, uplink) as ingest:
        answers = await asyncio.gather(
            *(ingest.post(TELEMETRY, f'{{"n": {n}}}', device.bearer, Content_Type=JSON) for n in range(50))
        )
        assert {status for status, _, _ in answers} == {202}
        assert (await ingest.post(TELEMETRY, b"nonsense", device.bearer))[0] == 400
    info = await jetstream.stream_info(UPLINK_STREAM)
    stored: list[int] = []
    for sequence in range(1, info.state.messages + 1):
        message = await jetstream.get_msg(UPLINK_STREAM, sequence)
        assert message.data is not None
        stored += [record.body["n"] for record in decode_batch(message.data)]
    assert sorted(stored) == list(range(50))
    assert (await jetstream.stream_info("DEADLETTER")).state.messages == 1
    await connection.close()

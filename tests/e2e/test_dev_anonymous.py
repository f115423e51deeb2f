"""`headwater up --dev-anonymous`: a broker for whoever comes, and for nobody from elsewhere."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.engines import scratch_home
from tests.support.installation import Installation, installation, until

from headwater.app import gateway, settings
from headwater.app.settings import AnonymousNotLoopback, SettingsInvalid
from headwater.tenancy import secrets
from headwater.testing.mqtt_client import MQTTClient

STORED_S = 20


@pytest.fixture(scope="module")
def up() -> Iterator[Installation]:
    with scratch_home() as directory, installation(directory, "--dev-anonymous") as running:
        running.up()
        yield running


def mosquitto(up: Installation, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [program, "-h", "127.0.0.1", "-p", str(up.ports["mqtt"]), "-V", "5", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)


def call(up: Installation, path: str, body: Any = None) -> Any:
    ready = json.loads(up.ready_file.read_text())
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{ready['http_url']}/api/v1{path}", data=data)
    request.add_header("Authorization", f"Bearer {ready['admin_token']}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


@pytest.mark.parametrize("topic", ["a/b", "/", "$queue/x", "v1/devices/me/telemetry", "d/main/x/telemetry", "größe/温度"])
@pytest.mark.parametrize("credential", [(), ("-u", "me"), ("-u", "me", "-P", "guess")])
def test_whoever_comes_may_use_any_topic(up: Installation, topic: str, credential: tuple[str, ...]) -> None:
    # It hears itself: a client that publishes what it has subscribed to, once SUBACK is there.
    heard = mosquitto(up, "mosquitto_rr", *credential, "-q", "1", "-t", topic, "-e", topic, "-m", "not JSON", "-W", "10")
    assert (heard.stdout, heard.stderr, heard.returncode) == ("not JSON\n", "", 0)


@pytest.mark.parametrize(("asked_s", "told_s"), [(0, 60), (120, 60), (30, None)])
async def test_no_keep_alive_is_long(up: Installation, asked_s: int, told_s: int | None) -> None:
    async with MQTTClient("127.0.0.1", up.ports["mqtt"], version=5, keep_alive_s=asked_s) as client:
        assert client.connack is not None
        assert client.connack.properties.server_keep_alive_s == told_s


def test_what_the_broker_says_of_itself_is_read_only(up: Installation) -> None:
    refused = mosquitto(up, "mosquitto_pub", "-q", "1", "-t", "$SYS/broker/x", "-m", "1")
    assert "not authorized" in refused.stderr.lower()


def test_a_token_still_says_who_it_is(up: Installation) -> None:
    device = call(up, "/devices", {"external_id": "pump-1"})
    issued = call(up, f"/devices/{device['id']}/credentials", {})
    told = ("-q", "1", "-t", "v1/devices/me/telemetry", "-m", '{"temperature": 21.5}')
    sent = mosquitto(up, "mosquitto_pub", "-u", issued["username"], "-P", issued["password"], *told)
    assert (sent.returncode, sent.stderr) == (0, "")
    until(lambda: "temperature" in call(up, f"/devices/{device['id']}/latest")["values"], STORED_S, lambda: "not stored")
    wrong = secrets.mint(secrets.DEVICE, secrets.parse(issued["password"], secrets.DEVICE).row_id).text  # type: ignore[union-attr]  # it is one
    refused = mosquitto(up, "mosquitto_pub", "-u", issued["username"], "-P", wrong, *told)
    assert "bad user name or password" in refused.stderr.lower()
    # Nothing that came without a token became telemetry of a device, or a dead letter.
    assert {d["external_id"] for d in call(up, "/devices")["items"]} == {"anonymous", "pump-1"}
    assert call(up, "/dead-letters")["items"] == []


def test_http_ingest_asks_for_a_token(up: Installation) -> None:
    url = json.loads(up.ready_file.read_text())["ingest_url"]
    request = urllib.request.Request(f"{url}/v1/telemetry", data=b'{"temperature": 1}')
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=10)


def test_it_is_said_aloud(up: Installation) -> None:
    assert "anonymous access: every program on this machine" in up.output.read_text()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", ""])
def test_it_is_for_this_machine_only(tmp_path: Path, host: str) -> None:
    argv = [sys.executable, "-m", "headwater", "up", "--home", str(tmp_path / "home"), "--dev-anonymous", "--host", host]
    refused = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert (refused.returncode, "[settings.anonymous_not_loopback]" in refused.stderr) == (1, True), refused.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("setting", "value", "said"), [("HOST", "0.0.0.0", "HEADWATER_GATEWAY_HOST"), ("PROXY_PROTOCOL", "1", "balancer")]
)
async def test_a_gateway_by_itself_says_no_too(setting: str, value: str, said: str) -> None:
    named = {f"HEADWATER_GATEWAY_{setting}": value, "HEADWATER_GATEWAY_ANONYMOUS_TENANT": "main"}
    with pytest.raises(AnonymousNotLoopback, match=said):
        await gateway.run(settings.read(named), asyncio.Event())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback_has_many_names(host: str) -> None:
    settings.require_loopback(host, "--host")


@pytest.mark.parametrize(("host", "error"), [("10.0.0.1", AnonymousNotLoopback), ("no such host", SettingsInvalid)])
def test_and_others_are_not_it(host: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="--host"):
        settings.require_loopback(host, "--host")

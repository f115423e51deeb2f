"""`headwater up` as a person meets it: the whole tree, real engines."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.support.engines import in_a_loop_of_its_own, scratch_home
from tests.support.installation import Installation, alive, installation, until

import headwater
from headwater.app.engines.account import Account, can_reach
from headwater.app.engines.ports import free_port

CHILDREN = {"postgres", "nats", "worker-0", "gateway-0", "gateway-1", "api"}
RESTART_S = 40


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where every account can walk to."""
    with scratch_home() as path:
        yield path


def get(ready: dict[str, Any], path: str, token: str | None = None) -> Any:
    request = urllib.request.Request(ready["http_url"] + path)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def post(ready: dict[str, Any], path: str, body: Any, token: str | None = None) -> Any:
    request = urllib.request.Request(ready["http_url"] + path, data=json.dumps(body).encode(), method="POST")
    request.add_header("Content-Type", "application/json")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headwater", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_life(directory):
    """Ready, used, in the way of others, killed child by child, stopped with nothing left, started again, killed whole."""
    with installation(directory, "--gateways", "2") as up:
        ready = up.up()

        # The ready file says everything, to us alone.
        assert stat.S_IMODE(up.ready_file.stat().st_mode) == 0o600
        assert get(ready, "/api/v1/health")["status"] == "ok"
        assert get(ready, "/api/v1/tenant", ready["admin_token"])["slug"] == ready["tenant"] == "main"
        login = {"email": ready["admin_email"], "password": ready["admin_password"]}
        assert post(ready, "/api/v1/auth/login", login)["access_token"]
        tenants = get(ready, "/api/v1/operator/tenants", ready["operator_token"])
        assert [tenant["slug"] for tenant in tenants["items"]] == ["main"]
        assert ready["admin_password"] in up.output.read_text()
        assert set(up.children()) == CHILDREN

        check_status_and_doctor(up)
        check_devices_come_in_safely(ready)
        check_why_a_device_cannot_connect(ready)
        check_others_are_refused(up, directory)
        check_every_child_comes_back(up, ready)
        device = post(ready, "/api/v1/devices", {"external_id": "pump-1"}, ready["admin_token"])

        # SIGTERM: everything ends, the ports are free.
        everything = up.descendants()
        assert len(everything) >= len(CHILDREN)
        assert up.stop() == 0
        assert alive(everything) == []
        for port in up.ports.values():
            with socket.create_server(("127.0.0.1", port)):
                pass

        # Again on the same home: the same data and password, a new token, and the old one is of no use.
        again = up.up()
        assert again["admin_password"] == ready["admin_password"]
        assert again["admin_token"] != ready["admin_token"]
        assert get(again, f"/api/v1/devices/{device['id']}", again["admin_token"])["external_id"] == "pump-1"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(again, "/api/v1/tenant", ready["admin_token"])

        # Killed like a power cut: nothing outlives it for long, and the next start goes on.
        everything = up.descendants()
        up.kill()
        until(lambda: not alive(everything), 30, lambda: alive(everything))
        up.ready_file.unlink()
        last = up.up()
        assert last["admin_password"] is None  # nobody can know it any more
        assert get(last, f"/api/v1/devices/{device['id']}", last["admin_token"])["external_id"] == "pump-1"
        check_new_password(up, last)


def check_status_and_doctor(up: Installation) -> None:
    status = cli("status", "--home", str(up.home), "--json")
    assert status.returncode == 0, status.stderr
    said = json.loads(status.stdout)
    assert {child["name"] for child in said["up"]["children"]} == CHILDREN
    assert {stream["name"] for stream in said["streams"]} >= {"UPLINK", "DEADLETTER", "LIVE", "MESSAGE"}
    assert said["rows"]["tenant"] == 1
    assert said["problems"] == []
    assert "postgres" in cli("status", "--home", str(up.home)).stdout
    findings = json.loads(cli("doctor", "--home", str(up.home), "--json").stdout)
    assert [f for f in findings if f["code"] != "disk.nearly_full"] == []  # the machine's disk is not ours to judge


def check_why_a_device_cannot_connect(ready: dict[str, Any]) -> None:
    post(ready, "/api/v1/devices", {"external_id": "stray-1"}, ready["admin_token"])
    request = urllib.request.Request(f"{ready['ingest_url']}/v1/telemetry", data=b"{}", method="POST")
    request.add_header("Authorization", f"Basic {base64.b64encode(b'stray-1:wrong').decode()}")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=10)

    def told() -> str:
        where = ("--url", ready["http_url"], "--token", ready["admin_token"])
        return cli("devices", "timeline", "stray-1", *where).stdout

    until(lambda: "Refused: no credential that this platform knows, from 127.0.0.1" in told(), 20, told)


def check_devices_come_in_safely(ready: dict[str, Any]) -> None:
    """Whoever trusts the home's own authority finds MQTT behind TLS, with and without a WebSocket."""
    context = ssl.create_default_context(cafile=ready["ca_file"])
    for url, hello in ((ready["mqtts_url"], b"\xc0\0"), (ready["wss_url"], b"GET /mqtt HTTP/1.1\r\n\r\n")):
        address = urlsplit(url)
        with (
            socket.create_connection((address.hostname, address.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=address.hostname) as secured,
        ):
            secured.sendall(hello)
            said = secured.recv(100)
            assert said == b"" if url == ready["mqtts_url"] else said.startswith(b"HTTP/1.1 426 ")
    assert stat.S_IMODE(Path(ready["ca_file"]).with_name("ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(ready["ca_file"]).with_name("server.key").stat().st_mode) == 0o600
    with pytest.raises(urllib.error.HTTPError, match="426"):
        urllib.request.urlopen(ready["ws_url"].replace("ws://", "http://"), timeout=10)


def check_others_are_refused(up: Installation, directory: Path) -> None:
    same_home = cli("up", "--home", str(up.home), "--http-port", "1", "--mqtt-port", "2", "--ingest-port", "3")
    assert same_home.returncode == 1
    assert "[home.in_use]" in same_home.stderr
    others = [word for name in ("mqtts", "ws", "wss", "ingest") for word in (f"--{name}-port", str(free_port()))]
    taken = ("--http-port", str(up.ports["http"]), "--mqtt-port", str(up.ports["mqtt"]))
    same_port = cli("up", "--home", str(directory / "other"), *taken, *others)
    assert same_port.returncode == 1
    assert "[port.taken]" in same_port.stderr
    assert f"port {up.ports['http']} (--http-port), {up.ports['mqtt']} (--mqtt-port):" in same_port.stderr


def check_every_child_comes_back(up: Installation, ready: dict[str, Any]) -> None:
    for name, before in up.children().items():
        os.kill(before["pid"], signal.SIGKILL)

        def is_back(name: str = name, pid: int = before["pid"]) -> bool:
            now = up.children()[name]
            return now["pid"] not in {pid, None} and now["state"] == "ready" and now["restarts"] == 1

        until(is_back, RESTART_S, lambda name=name: (up.children()[name], up.output.read_text()[-3000:]))
    until(lambda: is_healthy(ready), RESTART_S, lambda: up.output.read_text()[-3000:])
    assert "gateway-0 was killed by signal 9" in up.output.read_text()
    findings = json.loads(cli("doctor", "--home", str(up.home), "--json").stdout)
    assert "stream.missing" not in {finding["code"] for finding in findings}


def is_healthy(ready: dict[str, Any]) -> bool:
    try:
        return bool(get(ready, "/api/v1/health")["status"] == "ok")
    except OSError:
        return False


def check_new_password(up: Installation, ready: dict[str, Any]) -> None:
    done = cli("person", "password", ready["admin_email"], "--home", str(up.home))
    assert done.returncode == 0, done.stderr
    password = done.stdout.rsplit(": ", 1)[1].strip()
    assert post(ready, "/api/v1/auth/login", {"email": ready["admin_email"], "password": password})["access_token"]
    nobody = cli("person", "password", "nobody@example.com", "--home", str(up.home))
    assert (nobody.returncode, "[resource.not_found]" in nobody.stderr) == (1, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has homes that others cannot walk to")
def test_as_root_with_a_closed_parent(directory):
    """The home lies below a directory of mode 0700, as /root is: the data goes where the engines can reach it."""
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    with installation(closed) as up:
        ready = up.up()
        assert get(ready, "/api/v1/health")["status"] == "ok"
        moved = (up.home / "postgres").resolve()
        assert (up.home / "postgres").is_symlink()
        assert "the account that it runs as cannot reach" in up.output.read_text()
        try:
            assert (moved / "data" / "PG_VERSION").exists()
            assert stat.S_IMODE(moved.stat().st_mode) == 0o700
            assert up.stop() == 0
            assert up.up()["tenant_id"] == ready["tenant_id"]
            assert up.stop() == 0
        finally:
            subprocess.run(["rm", "-rf", "--", str(moved.parent)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="this is how every other test runs when we are nobody special")
def test_as_an_ordinary_user(directory):
    python, environment = ordinary_python()
    directory = directory / "theirs"
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    with installation(directory, python=python, user=65534, environment=environment) as up:
        ready = up.up()
        assert get(ready, "/api/v1/tenant", ready["admin_token"])["slug"] == "main"
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in up.descendants()} == {65534}
        everything = up.descendants()
        assert up.stop(signal.SIGINT) == 0
        assert alive(everything) == []


def test_with_engines_of_others(directory, postgres_server, nats_url):
    """Settings that name engines win: `up` migrates and uses them, and runs none of its own."""
    name = in_a_loop_of_its_own(postgres_server.create("template0"))
    urls, address = postgres_server.urls(name), urlsplit(nats_url)
    environment = {
        "HEADWATER_DATABASE_OWNER_URL": urls.owner,
        "HEADWATER_DATABASE_URL": urls.app,
        "HEADWATER_DATABASE_WRITER_URL": urls.writer,
        "HEADWATER_DATABASE_OPERATOR_URL": urls.operator,
        "HEADWATER_NATS_URL": f"nats://{address.hostname}:{address.port}",
        "HEADWATER_NATS_USER": address.username or "",
        "HEADWATER_NATS_PASSWORD": address.password or "",
    }
    with installation(directory, environment=environment) as up:
        ready = up.up()
        assert set(up.children()) == {"worker-0", "gateway-0", "api"}
        assert get(ready, "/api/v1/health") == {"status": "ok", "database": "ok", "nats": "ok"}
        assert up.stop() == 0
    in_a_loop_of_its_own(postgres_server.drop(name))


def ordinary_python() -> tuple[list[str], dict[str, str]]:
    """A Python that an ordinary user may run, with our packages."""
    nobody = Account("nobody", 65534, 65534)
    source = Path(headwater.__file__).parents[1]
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PYTHONPATH": f"{source}:{packages}", "HOME": "/nonexistent", "PATH": path}
    for candidate in (Path(sys.executable), Path("/usr/bin/python3.11")):
        if candidate.exists() and can_reach(candidate, nobody) and can_reach(Path(packages) / "x", nobody):
            return [str(candidate)], environment
    pytest.skip("no Python of this version is where an ordinary user can reach it")

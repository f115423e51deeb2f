"""What the clients talk to: a whole `headwater up --dev-anonymous`, or, to try the scenarios themselves, a Mosquitto.

CLIENTS_AGAINST=mosquitto chooses the second: a scenario that fails there is wrong, or knows too much about us.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support.engines import scratch_home
from tests.support.installation import Installation, installation, until

from headwater.app.engines.ports import free_port
from headwater.app.process import die_with_parent
from headwater.ids import uuid7
from headwater.tenancy import secrets

from .client import Address
from .trust import Trust, make_trust

START_S = 20
RESTART_S = 40


@dataclass(frozen=True, slots=True)
class Credential:
    """refused: what a client hears that shows a wrong one, by the level of its protocol"""

    username: str
    password: str
    wrong: str
    topic: str
    """one that it may publish to"""
    payload: bytes
    refused: dict[int, int] = field(default_factory=dict)


class Broker(Protocol):
    def address(self, transport: str) -> Address: ...
    def credential(self) -> Credential: ...
    def kill_and_restart(self) -> None: ...


class Headwater:
    """`up` with one gateway, and with the certificate that it makes itself."""

    def __init__(self, up: Installation, ready: dict[str, Any]) -> None:
        self._up = up
        self._ready = ready

    def address(self, transport: str) -> Address:
        option = {"tcp": "mqtt", "tls": "mqtts"}.get(transport, transport)
        return Address(self._up.ports[option], transport, Path(self._ready["ca_file"]))

    def credential(self) -> Credential:
        """Of a device of its own."""
        device = self.call("/devices", {"external_id": f"client-{uuid7().hex}"})
        issued = self.call(f"/devices/{device['id']}/credentials", {})
        known = secrets.parse(issued["password"], secrets.DEVICE)
        assert known is not None
        return Credential(
            username=issued["username"],
            password=issued["password"],
            wrong=secrets.mint(secrets.DEVICE, known.row_id).text,
            topic=f"d/{self._ready['tenant']}/{device['id']}/telemetry",
            payload=b'{"temperature": 21.5}',
            refused={3: 0x86, 4: 0x86, 5: 0x86},
        )

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._ready['http_url']}/api/v1{path}", data=data)
        request.add_header("Authorization", f"Bearer {self._ready['admin_token']}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def kill_and_restart(self) -> None:
        before = self._up.children()["gateway-0"]
        os.kill(before["pid"], signal.SIGKILL)

        def is_back() -> bool:
            now = self._up.children()["gateway-0"]
            return now["state"] == "ready" and now["pid"] not in {None, before["pid"]}

        until(is_back, RESTART_S, lambda: (self._up.children()["gateway-0"], self._up.output.read_text()[-3000:]))


class Mosquitto:
    def __init__(self, directory: Path, trust: Trust) -> None:
        self._directory = directory
        self._trust = trust
        self._ports = {transport: free_port() for transport in ("tcp", "tls", "ws", "wss")}
        passwords = directory / "passwords"
        subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "pump-1", "right"], check=True)
        passwords.chmod(0o644)
        configuration = [
            "allow_anonymous true", f"password_file {passwords}", "persistence true", f"persistence_location {directory}/",
            "user root",
        ]  # fmt: skip
        for transport, port in self._ports.items():
            configuration.append(f"listener {port} 127.0.0.1")
            if transport in {"ws", "wss"}:
                configuration.append("protocol websockets")
            if transport in {"tls", "wss"}:
                configuration += [f"certfile {trust.certificate_file}", f"keyfile {trust.key_file}"]
        (directory / "mosquitto.conf").write_text("\n".join(configuration) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["mosquitto", "-c", str(self._directory / "mosquitto.conf")], stdout=log, stderr=log,
                env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  # it calls prctl and nothing else
            )  # fmt: skip
        until(self._listens, START_S, lambda: (self._directory / "log").read_text()[-2000:])

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._ports["wss"]), 1):
            return True
        return False

    def address(self, transport: str) -> Address:
        return Address(self._ports[transport], transport, self._trust.ca_file, bare_usernames=True)

    def credential(self) -> Credential:
        return Credential("pump-1", "right", "wrong", "any/topic", b"1", {3: 0x87, 4: 0x87, 5: 0x87})

    def kill_and_restart(self) -> None:
        """Stopped, not killed: a Mosquitto that is killed forgets."""
        self.stop()
        self.start()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()


@contextlib.contextmanager
def running_broker() -> Iterator[Broker]:
    with scratch_home() as directory:
        if os.environ.get("CLIENTS_AGAINST") == "mosquitto":
            mosquitto = Mosquitto(directory, make_trust(directory))
            try:
                yield mosquitto
            finally:
                mosquitto.stop()
            return
        with installation(directory, "--dev-anonymous") as up:
            yield Headwater(up, up.up())

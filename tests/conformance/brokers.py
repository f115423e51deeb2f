"""Servers to run the tables against: a mosquitto, and two gateways that are one broker."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from headwater.app.bootstrap import open_door
from headwater.app.engines.ports import free_port
from headwater.app.process import die_with_parent
from tests.support import engines, tenants

MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
TENANT = "conformance"
START_S = 60
STOP_S = 60


@contextmanager
def mosquitto(directory: Path) -> Iterator[int]:
    """Its port."""
    port = free_port()
    configuration = directory / "mosquitto.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(configuration)], stderr=subprocess.DEVNULL, cwd=Path("/"))
    try:
        _wait_until_it_listens(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def gateways(postgres: engines.TestPostgres, directory: Path, count: int) -> Iterator[tuple[int, ...]]:
    """The MQTT ports of gateway processes that are one broker, and let everybody in, to every topic."""
    name = engines.in_a_loop_of_its_own(postgres.create())
    urls = postgres.urls(name)
    engines.in_a_loop_of_its_own(_open_tenant(urls))
    with engines.nats_server() as nats, ExitStack() as stack:
        shared = {"HEADWATER_DATABASE_URL": urls.app, "HEADWATER_NATS_URL": nats.url_with_password}
        yield tuple(stack.enter_context(_gateway(f"gateway-{n}", shared, directory)) for n in range(count))
    engines.in_a_loop_of_its_own(postgres.drop(name))


@contextmanager
def _gateway(name: str, shared: dict[str, str], directory: Path) -> Iterator[int]:
    port = free_port()
    environment = {
        "HEADWATER_GATEWAY_NAME": name,
        "HEADWATER_GATEWAY_HOST": "127.0.0.1",
        "HEADWATER_GATEWAY_MQTT_PORT": str(port),
        "HEADWATER_GATEWAY_HTTP_PORT": str(free_port()),
        "HEADWATER_GATEWAY_WS_PORT": "0",
        "HEADWATER_GATEWAY_ANONYMOUS_TENANT": TENANT,
    }
    said = directory / f"{name}.log"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "headwater", "run", "gateway"], env=os.environ | shared | environment, stdout=output,
            stderr=subprocess.STDOUT, preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  # it calls prctl and nothing else
        )  # fmt: skip
    try:
        _wait_until_it_listens(port, process, said)
        yield port
    finally:
        process.terminate()
        code = process.wait(STOP_S)
    assert code == 0, said.read_text()[-4000:]


async def _open_tenant(urls: engines.DatabaseURLs) -> None:
    tenant_id = await tenants.tenant_factory(urls.operator)(TENANT)
    await open_door(urls.app, tenant_id)


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes], said: Path | None = None) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise AssertionError(f"{process.args!r}: {said.read_text()[-4000:] if said else ''}") from None
            time.sleep(0.02)
        else:
            return

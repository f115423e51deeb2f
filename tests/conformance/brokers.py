"""Servers to run the tables against: a mosquitto, and a gateway on a database and a nats-server of its own."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.app.bootstrap import open_door
from tests.support import engines, tenants
from tests.support.gateways import running_gateway

MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
TENANT = "conformance"
START_S = 60


@contextmanager
def mosquitto(directory: Path) -> Iterator[int]:
    """Its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = directory / "mosquitto.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(configuration)], stderr=subprocess.DEVNULL, cwd=Path("/"))
    try:
        _wait_until_it_listens(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@contextmanager
def gateway(postgres: engines.TestPostgres) -> Iterator[int]:
    """The MQTT port of a gateway that lets everybody in, to every topic; it has a thread and a loop of its own."""
    name = engines.in_a_loop_of_its_own(postgres.create())
    urls = postgres.urls(name)
    with engines.nats_server() as nats:
        engines.in_a_loop_of_its_own(_open_tenant(urls))
        running = _Thread(urls, nats.url_with_password)
        running.start()
        try:
            yield running.port
        finally:
            running.stop()
    engines.in_a_loop_of_its_own(postgres.drop(name))


async def _open_tenant(urls: engines.DatabaseURLs) -> None:
    tenant_id = await tenants.tenant_factory(urls.operator)(TENANT)
    await open_door(urls.app, tenant_id)


class _Thread(threading.Thread):
    def __init__(self, urls: engines.DatabaseURLs, nats_url: str) -> None:
        super().__init__(name="gateway", daemon=True)
        self._urls = urls
        self._nats_url = nats_url
        self._stop_asked: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self.port = 0

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # told to the test that started it
            self._failed = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop_asked = asyncio.Event()
        async with running_gateway(self._urls, self._nats_url, HEADWATER_GATEWAY_ANONYMOUS_TENANT=TENANT) as running:
            self.port = running.mqtt_port
            self._ready.set()
            await self._stop_asked.wait()

    def start(self) -> None:
        super().start()
        assert self._ready.wait(START_S)
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        assert self._loop is not None
        assert self._stop_asked is not None
        self._loop.call_soon_threadsafe(self._stop_asked.set)
        self.join(START_S)
        if self._failed is not None:
            raise self._failed

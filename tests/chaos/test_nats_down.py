"""nats-server away for longer than gateways repeat what they publish: devices are refused, go elsewhere, and resend."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest

from headwater.stream.publisher import GIVE_UP_S
from tests.chaos.account import settle
from tests.chaos.devices import WINDOW
from tests.chaos.waiting import until
from tests.chaos.world import BACK_S, DEVICES, World, world

REFUSED_S = 2 * GIVE_UP_S
UNDER_WAY = WINDOW * DEVICES
"""A device whose window is in two batches is refused with the first and resends, while the gateway still repeats the
second: the copy with DUP may be stored first, and the other one is compared with nothing (store/writer.py)."""


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_refused_devices_resend_and_lose_nothing(directory):
    async with world(directory, "--gateways", "2") as it:

        def refused() -> bool:
            # Nobody is let in meanwhile: what is kept of a client, and who serves it, is in NATS.
            return any(not device.client.is_connected for device in it.fleet.devices)

        async with without_nats(it):
            await until(refused, REFUSED_S, lambda: "nobody was refused")
        await it.fleet.acknowledges(len(it.fleet.devices))
        await it.all_ready()
        await it.fleet.finish()
        await settle(it.settings, it.fleet, doubled_max=UNDER_WAY)


@asynccontextmanager
async def without_nats(it: World) -> AsyncIterator[None]:
    """Killed, and its port is taken, so that it cannot come back."""
    port = urlsplit(it.settings.nats.url).port
    assert port is not None
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def taken() -> bool:
            with suppress(ProcessLookupError, TypeError):
                os.kill(it.up.children()["nats"]["pid"], signal.SIGKILL)
            with suppress(OSError):
                taker.bind(("127.0.0.1", port))
                taker.listen()  # bound alone, it would not keep anybody else from the port
                return True
            return False

        await until(taken, BACK_S, it.up.children)
        async with await asyncio.start_server(_hang_up, sock=taker):
            yield


def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()

"""PostgreSQL away while devices send: those who are known are acknowledged all the same, and the stream holds what comes."""

from __future__ import annotations

import os
import signal
import socket
from urllib.parse import urlsplit

import pytest

from tests.chaos.account import settle
from tests.chaos.devices import WINDOW
from tests.chaos.waiting import until
from tests.chaos.world import DEVICES, World, world

AWAY_MESSAGES = 30 * WINDOW * DEVICES
"""About a quarter of a minute of them, however slow the machine is."""


DOWN_S = 30.0
"""A fast shutdown ends sessions and writes a checkpoint."""


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_while_postgresql_is_frozen_devices_are_acknowledged(directory):
    async with world(directory) as it:
        with it.frozen("postgres"):
            await it.fleet.acknowledges(AWAY_MESSAGES)
        await finished(it)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_while_postgresql_is_down_devices_are_acknowledged(directory):
    async with world(directory) as it:
        before = it.pid("postgres")
        with it.supervisor_held():
            os.kill(before, signal.SIGINT)
            await until(lambda: not accepts(it.settings.database.owner_url), DOWN_S, lambda: "it still serves")
            await it.fleet.acknowledges(AWAY_MESSAGES)
        await it.ready_again("postgres", after=before)
        await finished(it)


def accepts(url: str) -> bool:
    address = urlsplit(url)
    assert address.hostname is not None
    try:
        socket.create_connection((address.hostname, address.port or 5432), timeout=5).close()
    except OSError:
        return False
    return True


async def finished(it: World) -> None:
    await it.fleet.finish()
    assert sum(device.client.connections_total for device in it.fleet.devices) == DEVICES  # nobody had to connect again
    await settle(it.settings, it.fleet)

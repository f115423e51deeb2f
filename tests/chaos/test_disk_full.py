"""A home's disk is full for a while: devices are not acknowledged, nothing is lost, and all goes on when there is room."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from headwater.app.own_engines import ROOM_BYTES_MIN
from tests.chaos.account import settle
from tests.chaos.devices import Fleet
from tests.chaos.world import world
from tests.support.engines import scratch_home

DISK_BYTES = ROOM_BYTES_MIN + (384 << 20)
"""Room for the engines' beginnings, and what nats-server is started again for."""
SPARE_BYTES = 1 << 20
FULL_S = 90.0
SILENT_S = 4.0
"""Longer than a publish is tried once, and than a nats-server needs to come back: whoever could be acknowledged would be."""


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with scratch_home() as directory:
        disk = directory / "disk"
        disk.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=711", "tmpfs", str(disk)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode != 0:
            pytest.skip(f"a small disk cannot be mounted here, which takes root: {made.stderr.strip()}")
        yield disk
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_full_disk_loses_nothing_and_is_survived(small_disk):
    async with world(small_disk) as it:
        ballast = small_disk / "ballast"
        fill(ballast, shutil.disk_usage(small_disk).free - SPARE_BYTES)
        await falls_silent(it.fleet)
        assert shutil.disk_usage(small_disk).free < SPARE_BYTES
        ballast.unlink()
        await it.fleet.acknowledges(len(it.fleet.devices))
        await it.all_ready()
        await it.fleet.finish()
        await settle(it.settings, it.fleet)


def fill(path: Path, size: int) -> None:
    with path.open("wb") as file, suppress(OSError):
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
            file.flush()


async def falls_silent(fleet: Fleet) -> None:
    """Returns when nobody has been acknowledged for SILENT_S."""
    async with asyncio.timeout(FULL_S):
        acknowledged = -1
        while acknowledged != fleet.acknowledged:
            acknowledged = fleet.acknowledged
            await asyncio.sleep(SILENT_S)

"""SIGKILL for every process of an installation in turn, again and again, while devices send."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import aiohttp
import pytest

from tests.chaos.account import settle
from tests.chaos.waiting import until
from tests.chaos.world import BACK_S, World, world

SEED = int(os.environ.get("CHAOS_SEED", "20261123"))
VICTIMS = ("gateway-0", "gateway-1", "worker-0", "api", "nats", "postgres")
ROUNDS = 2
"""Each is killed so often, every round in another order: what was killed while another was still starting differs."""
PAUSE_S = (0.3, 4.0)
"""Between two kills: now while the last victim is still away, now when all is well again."""


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_whoever_is_killed_what_was_acknowledged_is_stored_once(directory):
    chance = random.Random(SEED)
    async with world(directory, "--gateways", "2") as it:
        killed: list[str] = []
        try:
            for _ in range(ROUNDS):
                for victim in chance.sample(VICTIMS, len(VICTIMS)):
                    await running(it, victim)
                    os.kill(it.pid(victim), signal.SIGKILL)
                    killed.append(victim)
                    await asyncio.sleep(chance.uniform(*PAUSE_S))
            await it.fleet.acknowledges(len(it.fleet.devices))
            await it.all_ready()
            await it.fleet.finish()
            await settle(it.settings, it.fleet)
            await the_api_answers(it)
        except BaseException as error:
            error.add_note(f"CHAOS_SEED={SEED}, killed {', '.join(killed)}")
            raise


async def running(it: World, victim: str) -> None:
    """It may be waiting for its next start."""
    await until(lambda: it.up.children()[victim]["pid"] is not None, BACK_S, it.up.children)


async def the_api_answers(it: World) -> None:
    headers = {"Authorization": f"Bearer {it.ready['admin_token']}"}
    async with (
        aiohttp.ClientSession(it.ready["http_url"], headers=headers) as session,
        session.get("/api/v1/devices", params={"limit": 1}) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert len((await answer.json())["items"]) == 1

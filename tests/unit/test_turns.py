"""Turns: never two at once, however they come and go."""

from __future__ import annotations

import asyncio
import random

from headwater.turns import Turns


async def test_nobody_overtakes_and_nobody_is_beside_another() -> None:
    turns, order = Turns[str](), list[int]()
    inside = 0

    async def use(number: int) -> None:
        nonlocal inside
        async with turns.take("a"):
            inside += 1
            await asyncio.sleep(0)
            assert inside == 1
            order.append(number)
            inside -= 1

    tasks = []
    for number in range(200):  # each comes at another moment of those before it
        tasks.append(asyncio.create_task(use(number)))
        for _ in range(random.Random(number).randrange(4)):
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == list(range(200))
    assert len(turns) == 0


async def test_who_gives_up_lets_the_next_one_go() -> None:
    turns, first, reached = Turns[str](), asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with turns.take("a"):
            await first.wait()

    async def pass_by() -> None:
        async with turns.take("a"):
            reached.set()

    holding, waiting, last = (asyncio.create_task(each) for each in (hold(), hold(), pass_by()))
    await asyncio.sleep(0)
    waiting.cancel()
    first.set()
    async with asyncio.timeout(5):
        await reached.wait()
    await asyncio.gather(holding, last)
    async with turns.take("b"):
        assert len(turns) == 1
    assert len(turns) == 0

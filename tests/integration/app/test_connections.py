"""The roles' connection to NATS."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial

import pytest
from nats.errors import FlushTimeoutError
from tests.support.gateways import eventually
from tests.support.killable_nats import killable_nats

from headwater.app.connections import connect_nats
from headwater.app.engines import nats
from headwater.app.settings import NATSSettings

HEARD_S = 3.0
"""Much less than the 15 s after which a connection would be found stale."""


async def test_a_nats_that_stood_still_is_heard_as_soon_as_it_goes_on() -> None:
    with killable_nats() as engine:
        await engine.start()
        where = f"nats://127.0.0.1:{engine.server.port}"
        connection = await connect_nats(
            NATSSettings(url=where, user=nats.USER, password=engine.server.password), name="test"
        )
        heard = asyncio.Event()

        async def hear(_message: object) -> None:
            heard.set()

        await connection.subscribe("said", cb=hear)
        await connection.flush()
        with engine.standing_still(), pytest.raises(FlushTimeoutError):
            await connection.flush(timeout=0.2)  # type: ignore[arg-type]  # nats-py says int, and takes any number
        began = time.monotonic()
        await connection.flush(timeout=10)
        await connection.publish("said", b"1")
        async with asyncio.timeout(HEARD_S):
            await heard.wait()
        assert time.monotonic() - began < HEARD_S
        await connection.close()
        engine.kill()


async def test_a_connection_knows_how_long_nats_has_been_back() -> None:
    with killable_nats() as engine:
        await engine.start()
        where = f"nats://127.0.0.1:{engine.server.port}"
        connection = await connect_nats(
            NATSSettings(url=where, user=nats.USER, password=engine.server.password), name="test"
        )
        assert connection.back_for_s == math.inf, "it has never been away"
        engine.kill()
        await eventually(partial(_is, lambda: connection.back_for_s == -math.inf), "it is away")
        await engine.start()
        await eventually(partial(_is, lambda: connection.back_for_s >= 0), "it is back")
        await connection.close()


async def _is(condition: Callable[[], bool]) -> bool:
    return condition()

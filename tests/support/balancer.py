"""A TCP load balancer, as it stands before gateways: whoever connects gets the next server that answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

READ_BYTES = 65_536


@asynccontextmanager
async def balancer(ports: Sequence[int]) -> AsyncIterator[int]:
    """Its port."""
    turn = 0
    carrying: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        task = asyncio.current_task()
        assert task is not None
        carrying[task] = writer
        task.add_done_callback(lambda done: carrying.pop(done, None))
        try:
            for _ in ports:
                turn += 1
                with suppress(OSError):
                    behind = await asyncio.open_connection("127.0.0.1", ports[turn % len(ports)])
                    break
            else:
                return
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_copy(reader, behind[1]))
                    both.create_task(_copy(behind[0], writer))
            finally:
                behind[1].close()
        finally:
            writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in carrying.values():
            writer.transport.abort()  # its copies end with it; a cancelled task of a server is reported as an error
        await asyncio.gather(*carrying)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side has ended; the other hears of it."""
    with suppress(OSError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()

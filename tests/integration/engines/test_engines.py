"""The engines as tests and homes run them."""

from __future__ import annotations

import asyncpg
import nats
import pytest

from headwater.stream import topology


async def test_each_role_logs_in_with_its_password(database_urls):
    for url, role in (
        (database_urls.app, "headwater_app"),
        (database_urls.writer, "headwater_writer"),
        (database_urls.operator, "headwater_operator"),
    ):
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT current_user") == role
        assert await connection.fetchval("SELECT count(*) FROM migration") > 0  # found without a prefix
        await connection.close()


async def test_a_wrong_password_is_refused(database_urls):
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(database_urls.app.replace("headwater_app:", "headwater_app:x"))


async def test_the_plain_role_sees_one_tenant(database, tenant_factory):
    mine, other = await tenant_factory("mine"), await tenant_factory("other")
    async with database.tenant_session(mine) as connection:
        assert [r["tenant_id"] for r in await connection.fetch("SELECT tenant_id FROM profile")] == [mine]
        assert await connection.fetchval("SELECT count(*) FROM tenant WHERE id = $1", other) == 0


async def test_nats_stores_and_wants_a_password(nats_url):
    client = await nats.connect(nats_url)
    await topology.ensure(client.jetstream(), topology.Topology(uplink_bytes_max=1 << 20))
    ack = await client.jetstream().publish("hw.up.0", b"x")
    assert ack.seq == 1
    await client.close()
    with pytest.raises(nats.errors.Error):
        await nats.connect(nats_url.split("//")[0] + "//" + nats_url.split("@")[1], allow_reconnect=False)

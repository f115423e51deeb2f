"""What NATS says of the streams that we want."""

from __future__ import annotations

import nats
import pytest

from headwater.ingest.ports import StreamUnavailable
from headwater.stream.topology import GIB, Topology, ensure


async def test_a_server_without_room_is_told_in_words(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    with pytest.raises(StreamUnavailable, match=r"max_file_store of each server must be at least 1,048,583\.2 GiB"):
        await ensure(client.jetstream(), Topology(uplink_bytes_max=GIB << 20))
    await client.close()

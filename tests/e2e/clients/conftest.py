from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from .brokers import Broker, running_broker
from .mqttjs_client import BRIDGE
from .variants import Variant
from .world import World, world_of

MISSING = "install what `make test` installs: scripts/system-packages.sh mosquitto-clients; scripts/node-packages.sh"


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    with running_broker() as running:
        yield running


@pytest.fixture(scope="session")
def missing() -> set[str]:
    """Programs of clients that are not on this machine. CI has them all."""
    found = {
        "mosquitto": shutil.which("mosquitto_rr") is not None,
        "mqttjs": shutil.which("node") is not None and (BRIDGE.parent / "node_modules" / "mqtt").is_dir(),
    }
    absent = {name for name, there in found.items() if not there}
    if absent and os.environ.get("CI"):
        pytest.fail(f"no {' and no '.join(sorted(absent))} clients: {MISSING}")
    return absent


@pytest.fixture(autouse=True)
def _there(request: pytest.FixtureRequest, missing: set[str]) -> None:
    variant: Variant | None = getattr(request.node, "callspec", None) and request.node.callspec.params.get("variant")
    if missing and (variant is None or variant.name in missing or "mosquitto_rr" in request.node.name):
        pytest.skip(MISSING)


@pytest.fixture
async def world(broker: Broker) -> AsyncIterator[World]:
    async with world_of(broker) as made:
        yield made

"""The servers that the tables are run against: they are started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance import brokers
from tests.support import engines

pytest.register_assert_rewrite("tests.conformance.client", "tests.conformance.stage", "tests.conformance.scenarios")


@pytest.fixture(scope="session")
def mosquitto_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if brokers.MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: the table ran against our own servers only")
    with brokers.mosquitto(tmp_path_factory.mktemp("mosquitto")) as port:
        yield port


@pytest.fixture(scope="session")
def gateway_ports(
    postgres_server: engines.TestPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, ...]]:
    with brokers.gateways(postgres_server, tmp_path_factory.mktemp("gateways"), 2) as ports:
        yield ports


@pytest.fixture(scope="session")
def gateway_port(gateway_ports: tuple[int, ...]) -> int:
    return gateway_ports[0]

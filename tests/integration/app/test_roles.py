"""A role as a process: what it says and how it ends where it cannot run; and `headwater migrate`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.support import engines

from headwater.app import migration
from headwater.app.engine_checks import EngineUnreachable, wait_for_engines
from headwater.app.engines.ports import free_port
from headwater.app.program import EXIT_CONFIG
from headwater.app.settings import read


def headwater(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    environment |= {f"HEADWATER_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "headwater", *arguments],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_setting_that_is_no_number():
    done = headwater("run", "gateway", GATEWAY_MQTT_PORT="many")
    assert done.returncode == EXIT_CONFIG
    assert "HEADWATER_GATEWAY_MQTT_PORT" in done.stderr
    assert "settings.invalid" in done.stderr


def test_a_setting_that_is_missing():
    done = headwater("run", "worker")
    assert done.returncode == EXIT_CONFIG
    assert "set HEADWATER_DATABASE_URL" in done.stderr


def test_a_schema_that_is_missing(postgres_server):
    name = engines.in_a_loop_of_its_own(postgres_server.create("template0"))
    try:
        done = headwater("run", "api", DATABASE_URL=postgres_server.urls(name).app, NATS_URL="nats://127.0.0.1:1")
    finally:
        engines.in_a_loop_of_its_own(postgres_server.drop(name))
    assert done.returncode == EXIT_CONFIG
    assert "database.not_migrated" in done.stderr
    assert "headwater migrate" in done.stderr


async def test_an_engine_that_stays_away(database_urls, monkeypatch):
    settings = read({"HEADWATER_DATABASE_URL": database_urls.app, "HEADWATER_NATS_URL": f"nats://127.0.0.1:{free_port()}"})
    with pytest.raises(EngineUnreachable, match="NATS"):
        await wait_for_engines(settings, asyncio.Event(), wait_s=0.5)


async def test_migrate_makes_schema_passwords_and_streams(postgres_server, nats_url):
    name = engines.in_a_loop_of_its_own(postgres_server.create("template0"))
    urls, address = postgres_server.urls(name), urlsplit(nats_url)
    settings = {
        "DATABASE_OWNER_URL": urls.owner,
        "DATABASE_URL": urls.app,
        "DATABASE_WRITER_URL": urls.writer,
        "NATS_URL": f"nats://127.0.0.1:{address.port}",
        "NATS_USER": address.username,
        "NATS_PASSWORD": address.password,
    }
    try:
        first, second = headwater("migrate", **settings), headwater("migrate", **settings)
        assert (first.returncode, second.returncode) == (0, 0), first.stderr
        assert "0001_roles" in first.stdout
        assert "up to date" in second.stdout
        assert "headwater_app, headwater_writer" in second.stdout
        await (await asyncpg.connect(urls.app)).close()
    finally:
        engines.in_a_loop_of_its_own(postgres_server.drop(name))


def test_passwords_come_from_the_urls_of_our_roles():
    settings = read(
        {
            "HEADWATER_DATABASE_URL": "postgresql://headwater_app:p%40ss@db/headwater",
            "HEADWATER_DATABASE_WRITER_URL": "postgresql://somebody:else@db/headwater",
            "HEADWATER_DATABASE_OPERATOR_URL": "postgresql://headwater_operator@db/headwater",
        }
    )
    assert migration.role_passwords(settings.database) == {"headwater_app": "p@ss"}

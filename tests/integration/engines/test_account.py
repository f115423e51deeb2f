"""Directories of the engines where we are root: whose they are, and that nothing of a home is passed over."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.engines import scratch_home

from headwater.app.engines.account import Account, DirectoryUnreachable, engine_directory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

NOBODY = pwd.getpwnam("nobody")
ACCOUNT = Account(NOBODY.pw_name, NOBODY.pw_uid, NOBODY.pw_gid)


@pytest.fixture
def home() -> Iterator[Path]:
    with scratch_home() as path:
        yield path


def test_restored_data_becomes_the_accounts(home: Path) -> None:
    outside = home / "outside"
    outside.write_text("root's")
    data = home / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18")
    (data / "pg_wal").symlink_to(outside)

    assert engine_directory(home, "postgres", ACCOUNT) == home / "postgres"
    given = (home / "postgres", data, data / "PG_VERSION", data / "pg_wal")
    assert {path.lstat().st_uid for path in given} == {ACCOUNT.uid}
    assert outside.stat().st_uid == 0


def test_data_that_cannot_be_reached_is_not_passed_over(home: Path) -> None:
    closed = home / "closed"
    (closed / "home" / "postgres").mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(DirectoryUnreachable, match="cannot reach"):
        engine_directory(closed / "home", "postgres", ACCOUNT)


def test_a_fresh_home_that_cannot_be_reached_gets_a_link(home: Path) -> None:
    closed = home / "closed"
    (closed / "home").mkdir(parents=True)
    closed.chmod(0o700)
    target = engine_directory(closed / "home", "postgres", ACCOUNT)
    try:
        assert (closed / "home" / "postgres").resolve() == target
        assert target.stat().st_uid == ACCOUNT.uid
    finally:
        target.rmdir()
        target.parent.rmdir()

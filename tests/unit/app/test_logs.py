"""Secrets do not reach a log."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
import structlog

from headwater.app import logs
from headwater.tenancy import secrets


@contextmanager
def logging_to(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("INFO", "json", process="api")
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_secrets_are_masked(monkeypatch):
    token = secrets.mint(secrets.API, uuid4()).text
    output = io.StringIO()
    with logging_to(output, monkeypatch):
        log = structlog.get_logger("test")
        log.info("request", password="hunter2", path=f"/x?token={token}", url="postgresql://app:hunter2@db/headwater")
        try:
            raise ValueError(f"bad token {token}")
        except ValueError:
            log.exception("failed")
        logging.getLogger("library").warning("saw %s", token)
    said = [json.loads(line) for line in output.getvalue().splitlines()]
    assert len(said) == 3
    assert "hunter2" not in output.getvalue()
    assert token not in output.getvalue()
    assert said[0]["url"] == "postgresql://app:***@db/headwater"
    assert said[1]["exception"].endswith("_***")
    assert {line["process"] for line in said} == {"api"}


def test_a_level_below_is_silent(monkeypatch):
    output = io.StringIO()
    with logging_to(output, monkeypatch):
        structlog.get_logger("test").debug("quiet")
    assert not output.getvalue()

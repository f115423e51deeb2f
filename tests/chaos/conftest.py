"""Where every account can walk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import scratch_home


@pytest.fixture
def directory() -> Iterator[Path]:
    with scratch_home() as path:
        yield path

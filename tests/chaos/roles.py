"""Roles as processes of their own, which know nothing but their `HEADWATER_*` settings."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from headwater.app.process import die_with_parent
from tests.chaos.waiting import until

READY_S = 90.0
STOP_S = 60.0


@dataclass
class Role:
    """environment  all of it"""

    name: str
    role: str
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    _starts: int = 0

    async def start(self) -> None:
        """Returns when it serves."""
        self._spawn()
        await until(self._serves, READY_S, lambda: f"{self.name}: {self.log.read_text()[-2000:]}")

    def _spawn(self) -> None:
        self._starts += 1
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headwater", "run", self.role], env=self.environment, cwd="/",
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509  # it calls prctl and nothing else
            )  # fmt: skip

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended: {self.log.read_text()[-2000:]}"
        return self.log.read_text().count(f'"{self.role}_ready"') >= self._starts

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_S)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(STOP_S)

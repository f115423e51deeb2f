"""The guides, done word for word: every ```sh block is pasted into one shell, and the block below it is what has to appear.

What differs from what a person does: `make up` runs already, on other ports, and `make test` has done what needs `sudo`. In
what has to appear, ids and times stand for any, and `...` for anything.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.engines import scratch_home
from tests.support.installation import Installation, installation

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
PORTS = {"8080": "http", "1883": "mqtt", "8883": "mqtts", "8083": "ws", "8084": "wss", "8081": "ingest"}
NEEDS = {"mosquitto": ["mosquitto_pub"], "python": [], "javascript": ["node", "npm"], "c": ["gcc"]}
PASTED_S = 100
SEEN_S = 20
"""What is asked for may be a moment behind what was stored; a person asks again."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w.-]+\.\w+)`:\s*$")
_ANY = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), r"[0-9a-f-]{36}"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), r"\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d+)?Z"),
    (re.compile(r"\.\.\."), r".*"),
)


@dataclass(frozen=True)
class Block:
    """file: the name that the text before it gives to it, for a program"""

    language: str
    text: str
    file: str = ""


def blocks_of(guide: str) -> list[Block]:
    found, end = [], 0
    for match in _BLOCK.finditer(guide):
        named = _FILE.search(guide[end : match.start()])
        found.append(Block(match[1], match[2], named[1] if named else ""))
        end = match.end()
    return found


def pattern_of(expected: str) -> re.Pattern[str]:
    """What `expected` stands for, as a whole."""
    places: list[str] = []

    def keep(by: str) -> str:
        places.append(by)
        return f"\0{len(places) - 1}\0"

    for what, by in _ANY:
        expected = what.sub(lambda _match, by=by: keep(by.replace("\\\\", "\\")), expected)
    return re.compile(re.sub("\0(\\d+)\0", lambda m: places[int(m[1])], re.escape(expected)), re.DOTALL)


class Shell:
    """One shell, from the first block to the last, as on a person's screen."""

    def __init__(self, directory: Path, up: Installation) -> None:
        self._up = up
        self._directory = directory
        (directory / ".venv").symlink_to(sys.prefix)
        (directory / "var").mkdir()
        (directory / "var" / "home").symlink_to(up.home)
        self._state = directory / ".state"
        self._state.write_text("")

    def here(self, text: str) -> str:
        """On the ports of this test."""
        for port, name in PORTS.items():
            text = re.sub(rf"\b{port}\b", str(self._up.ports[name]), text)
        return text

    def save(self, name: str, text: str) -> None:
        (self._directory / name).write_text(self.here(text))

    def paste(self, text: str) -> str:
        """What appears. Variables stay for the next block."""
        script = f". {self._state}\n{self.here(text)}\nstatus=$?\nexport -p > {self._state}\n"
        variables = f"declare -p ADMIN >> {self._state} 2>/dev/null"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
        ran = subprocess.run(
            ["bash", "-c", f"{script}{variables}\nexit $status"], cwd=self._directory,
            env=environment | {"NO_COLOR": "1", "COLUMNS": "200"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=PASTED_S,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout
        return ran.stdout


@pytest.fixture(scope="module")
def up() -> Iterator[Installation]:
    with scratch_home() as directory:
        ready_file = directory / "home" / "run" / "ready.json"  # where `make up` writes it
        with installation(directory, "--ready-json", str(ready_file)) as running:
            running.ready_file = ready_file
            running.up()
            yield running


@pytest.mark.parametrize("name", NEEDS)
def test_a_guide_word_for_word(up: Installation, tmp_path: Path, name: str) -> None:
    absent = [program for program in NEEDS[name] if shutil.which(program) is None]
    if absent and not os.environ.get("CI"):
        pytest.skip(f"not on this machine: {', '.join(absent)}; `make test` installs them")
    blocks = blocks_of((GUIDES / f"connect-{name}.md").read_text())
    shell = Shell(tmp_path, up)
    assert blocks[0] == Block("sh", "make up\n")
    pasted = 0
    for block, below in zip(blocks[1:], [*blocks[2:], Block("none", "")], strict=True):
        if block.file:
            shell.save(block.file, block.text)
        elif block.language == "sh" and not block.text.startswith("sudo "):
            pasted += 1
            check(shell, block.text, below.text if below.language == "" else "")
    assert pasted >= 3


def test_no_two_of_them_make_the_same_device() -> None:
    """Who has done one can go on with the next in the same home."""
    pages = [GUIDES.parents[1] / "README.md", *sorted(GUIDES.glob("*.md"))]
    made = re.compile(r"headwater devices create ([\w-]+)|\\n([\w-]+),|\"external_id\": \"([\w-]+)\", \"name\"")
    found = [(name, page.name) for page in pages for match in made.findall(page.read_text()) for name in match if name]
    names = [name for name, _ in found]
    assert len(names) >= 8, found
    assert sorted(names) == sorted(set(names)), found


def check(shell: Shell, text: str, expected: str) -> None:
    wanted = pattern_of(expected)
    deadline = time.monotonic() + SEEN_S
    appeared = shell.paste(text)
    while not wanted.fullmatch(appeared) and is_a_question(text) and time.monotonic() < deadline:
        appeared = shell.paste(text)
    assert wanted.fullmatch(appeared), f"{text}\nshould print\n{expected}\nand printed\n{appeared}"


def is_a_question(text: str) -> bool:
    """Asking again changes nothing."""
    return "/latest" in text


def test_what_has_to_appear() -> None:
    told = pattern_of("id 01a214b5-af91-7a1c-9604-ca2247192daf at 2026-11-25T21:56:21.422056Z: ... (1)\n")
    assert told.fullmatch("id 01a214b5-af91-7a1c-9604-ffffffffffff at 2027-01-01T00:00:00Z: all\nof it (1)\n")
    assert not told.fullmatch("id 01a214b5-af91-7a1c-9604-ffffffffffff at 2027-01-01T00:00:00Z: all (2)\n")
    assert not told.fullmatch("id nobody at 2027-01-01T00:00:00Z:  (1)\n")

"""Writes docs/adr/README.md from the heads of the decisions beside it, or checks that it is up to date.

python scripts/adr_index.py [--check]

A decision is `NNNN-title.md`: `# NNNN: Title`, then the table of date, status, tags and what it updates.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/adr"
TARGET = FOLDER / "README.md"
HEAD = """# Decisions

One for whatever two people could choose differently and a third would ask about: context, options with their price,
decision, consequences. `updates` names the earlier decisions that one changes. Made by `scripts/adr_index.py`.

| number | decision | date | status | tags | updates |
|---|---|---|---|---|---|
"""
_FILE = re.compile(r"(\d{4})-[a-z0-9-]+\.md")
_FORM = re.compile(
    r"# (?P<number>\d{4}): (?P<title>.+)\n\n\| date \| status \| tags \| updates \|\n\|(?:---\|){4}\n(?P<row>\|.*\|)\n"
)


class Malformed(Exception):
    """A decision that the index cannot read."""


class Decision(NamedTuple):
    file: str
    number: str
    title: str
    cells: tuple[str, ...]

    def row(self) -> str:
        return f"| {self.number} | [{self.title}]({self.file}) | {' | '.join(self.cells)} |\n"


def decisions() -> Iterator[Decision]:
    """By number. Raises Malformed."""
    seen: dict[str, str] = {}
    for path in sorted(FOLDER.glob("[0-9]*.md")):
        named, form = _FILE.fullmatch(path.name), _FORM.match(path.read_text())
        if named is None or form is None or form["number"] != named[1]:
            raise Malformed(f"{path.relative_to(ROOT)}: not `# {path.name[:4]}: Title` and the table of a decision")
        if named[1] in seen:
            raise Malformed(f"{path.relative_to(ROOT)} and {seen[named[1]]} have one number")
        seen[named[1]] = path.name
        yield Decision(path.name, named[1], form["title"], tuple(cell.strip() for cell in form["row"].strip("|").split("|")))


def main(check: bool) -> int:
    try:
        wanted = HEAD + "".join(decision.row() for decision in decisions())
    except Malformed as error:
        return _complain(str(error))
    if not check:
        TARGET.write_text(wanted)
        return 0
    if TARGET.exists() and TARGET.read_text() == wanted:
        return 0
    return _complain(f"{TARGET.relative_to(ROOT)} is out of date: run python {Path(__file__).relative_to(ROOT)}")


def _complain(text: str) -> int:
    sys.stderr.write(text + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))

"""Writes docs/reference/settings.md from `headwater/app/settings.py`, or checks that it is up to date.

python scripts/settings_reference.py [--check]
"""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from headwater.app import settings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/headwater/app/settings.py"
TARGET = ROOT / "docs/reference/settings.md"
HEAD = """# Settings

Environment variables, read once when a process starts. `headwater up` sets those that its children need by itself;
`headwater run`, `headwater migrate` and `headwater doctor` take them from you. A value that cannot be is refused at start;
a variable that is nearly one of these is named in the log, and by `headwater doctor`. Made from `headwater/app/settings.py`
by `scripts/settings_reference.py`.

| variable | default | meaning |
|---|---|---|
"""


def main(check: bool) -> int:
    wanted = HEAD + "".join(rows())
    if not check:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(wanted)
        return 0
    if TARGET.exists() and TARGET.read_text() == wanted:
        return 0
    print(f"{TARGET.relative_to(ROOT)} is out of date: run python {Path(__file__).relative_to(ROOT)}", file=sys.stderr)  # noqa: T201  # the answer
    return 1


def rows() -> Iterator[str]:
    for node in ast.parse(SOURCE.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
            yield from _rows_of(node, _prefix(node))


def _prefix(node: ast.ClassDef) -> str:
    """`HEADWATER_NATS_` of a class whose docstring starts with `HEADWATER_NATS_*`."""
    docstring = ast.get_docstring(node) or ""
    return docstring.split("*")[0] if docstring.startswith("HEADWATER_") else "HEADWATER_"


def _rows_of(node: ast.ClassDef, prefix: str) -> Iterator[str]:
    defaults = {field.name: _default(field) for field in dataclasses.fields(getattr(settings, node.name))}
    for position, field in enumerate(node.body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if field.value is None or ast.unparse(field.annotation).endswith("Settings"):
            continue
        follows = node.body[position + 1] if position + 1 < len(node.body) else None
        meaning = " ".join(str(follows.value.value).split()) if _is_text(follows) else ""
        yield f"| `{prefix}{field.target.id.upper()}` | {defaults[field.target.id]} | {meaning} |\n"


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is dataclasses.MISSING:
        return "host name and pid"
    return "" if field.default == "" else f"`{field.default}`"


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))

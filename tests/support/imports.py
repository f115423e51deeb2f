"""Who imports whom in src/headwater, read from the source: nothing is run, and imports inside functions count too."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "headwater"
SOURCE = Path(__file__).parents[2] / "src"


@dataclass(frozen=True, slots=True)
class Import:
    """importer, target  modules: `headwater.store.writer`, `asyncio`
    name              what is taken from the target; "" = the module itself
    place             `src/headwater/store/writer.py:12`
    """

    importer: str
    target: str
    name: str
    place: str


@cache
def modules() -> dict[str, Path]:
    return {_name(path): path for path in sorted((SOURCE / PACKAGE).rglob("*.py"))}


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(one for module, path in modules().items() for one in imports_of(module, path.read_text(), path))


def imports_of(module: str, source: str, path: Path) -> Iterator[Import]:
    """`from headwater.stream import subjects` is an import of headwater.stream.subjects."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    shown = path.relative_to(SOURCE.parent) if path.is_relative_to(SOURCE.parent) else path
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                taken = [(alias.name, "") for alias in node.names]
            case ast.ImportFrom():
                base = package[: len(package) + 1 - node.level] if node.level else []
                origin = ".".join([*base, *filter(None, [node.module])])
                taken = [_resolved(origin, alias.name) for alias in node.names]
            case _:
                continue
        for target, name in taken:
            yield Import(module, target, name, f"{shown}:{node.lineno}")


def reachable(roots: Iterable[str], *, without: tuple[str, ...] = ()) -> set[str]:
    """The modules of ours that importing the roots brings in, except those below `without`."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module in found or module not in modules() or module.startswith(without):
            continue
        found.add(module)
        waiting += [one.target for one in all_imports() if one.importer == module]
    return found


def _resolved(origin: str, name: str) -> tuple[str, str]:
    module = f"{origin}.{name}"
    return (module, "") if module in modules() else (origin, name)


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

"""The tree is the data flow: imports run against it, from the later stage to what comes before it, and never back.

A signpost, not a wall: a row may change, with a reason as good as the one that stands there (docs/ARCHITECTURE.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.imports import PACKAGE, SOURCE, Import, all_imports, imports_of


class Row(NamedTuple):
    """may  what this folder may import: a folder whole, or only modules of it; itself and the leaves always
    why     what is lost when it imports anything else
    """

    may: tuple[str, ...]
    why: str


LEAVES = ("errors", "clock", "ids", "turns", "")
"""Everybody else may import them; "" is the package itself, which holds the version."""
ALONE = (*LEAVES, "protocols")
"""Not even the leaves: one of them reads the clock, and errors of ours are not errors of the protocol."""

ROWS: dict[str, Row] = {
    **dict.fromkeys(LEAVES, Row((), "a leaf that imports us is a circle: everybody imports the leaves")),
    "protocols": Row((), "bytes in, events out: the same rules run in a gateway, a simulated device, a test and a fuzzer"),
    "database": Row((), "it carries a tenant and knows nothing of what any table means"),
    "tenancy": Row(("database",), "whose rows these are is decided before anybody knows what a device is"),
    "device": Row(
        ("database", "tenancy"),
        "the registry is asked by every stage: it may know neither where messages go nor where they are stored",
    ),
    "ingest": Row(
        ("device", "stream.envelope"),
        "a payload becomes records the same way for MQTT, for HTTP and for a replay; the one thing of the stream that it "
        "knows is the record. The stream itself is a port (ingest/ports.py), so it runs without an engine",
    ),
    "stream": Row(
        ("database", "device.principal", "ingest.ports", "ingest.errors"),
        "it carries what ingest made and fulfils ingest's port; it does not read payloads. It knows whose letter it "
        "replays, and in whose session a position moves, but no registry and no table of telemetry",
    ),
    "gateway": Row(
        ("protocols", "device", "tenancy", "ingest", "stream", "database.away"),
        "nothing behind the stream can slow down or lose what a device sent: the gateway knows neither the store nor the "
        "watchers nor a database session, only words for its absence; who wants to hear of records is given to it by app",
    ),
    "store": Row(
        ("database", "tenancy", "device", "stream"),
        "consumers meet on the stream and never import each other; who sent a record and how no longer matters here",
    ),
    "live": Row(
        ("tenancy", "stream"),
        "consumers meet on the stream and never import each other; which devices a watcher means is a port (live/ports.py)",
    ),
    "api": Row(
        (
            "console", "database", "tenancy", "device", "stream", "store", "live",
            "ingest.profile_compiled", "gateway.redecode",
        ),
        "the API opens no socket to a device and reads no payload of its own accord: a dead letter is read again by what "
        "the gateway calls for it (gateway/redecode.py), with the profiles of ingest",
    ),
    "console": Row(("api.errors", "api.services"), "it is a noun of the API whose representation is a page; it has no data"),
    "app": Row(
        ("api", "database", "device", "gateway", "ingest", "live", "protocols", "store", "stream", "tenancy", "testing"),
        "it builds everything; the command line starts it, not the other way round",
    ),
    "cli": Row(
        ("app", "device.import_lines", "testing"),
        "a command talks to the API as anybody does, or starts a role; it knows no table and no stream",
    ),
    "__main__": Row(("cli",), "`python -m headwater` is the command line"),
    "testing": Row(
        (
            "protocols", "database", "tenancy", "device", "ingest", "stream", "store",
            "app.home_settings", "app.settings", "app.connections", "app.engines.ports", "app.process",
        ),
        "simulated devices are foreign to the installation: they come in through its doors. The benchmark starts whole "
        "installations, as a command does, and asks their homes where the engines are, to check what is in them",
    ),
}  # fmt: skip

BY_TARGET = {
    "app": "nobody imports app, which is the only place that builds things: settings and engines are arguments elsewhere",
    "testing": "what is shipped for tests must not be needed in earnest",
    "cli": "a program has one way in",
}
"""Where the target says more than the importer's row."""

OUTSIDE: dict[str, tuple[tuple[str, ...], str]] = {
    "litestar": (("api", "console"), "HTTP is one edge of several: services know their facts, not a framework"),
    "uvicorn": (("gateway.http.server", "app"), "a listener is opened where its role is put together"),
    "nats": (
        ("stream", "gateway", "store.writer_frontier", "live", "api", "app"),
        "decoding and the registry work without a stream",
    ),
    "asyncpg": (
        ("database", "tenancy", "device", "stream.consumer", "gateway", "store", "api", "app"),
        "the gateway only tells PostgreSQL's absence from a refusal; ingest and live never ask it",
    ),
    "socket": (("gateway", "app", "testing"), "only what has a listener or a port of its own deals with sockets"),
    "typer": (("cli",), "prints and exits are for the command line"),
    "rich": (("cli",), "prints and exits are for the command line"),
}  # fmt: skip
"""Libraries that mean a transport or an engine, who may know them, and why nobody else."""

PROTOCOLS_MAY = frozenset({"__future__", "collections", "dataclasses", "enum", "functools", "msgspec", "struct", "typing"})
"""No asyncio, socket, ssl, time, random, os: what it cannot import it cannot do. Add what only computes."""


def folder_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def below(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


def complaint(one: Import) -> str | None:
    """Why this arrow points the wrong way, or None."""
    wrong = _inside(one) if below(one.target, PACKAGE) else _outside(one)
    return wrong and f"{one.place}: {one.importer} imports {one.target}: {wrong}"


def _inside(one: Import) -> str | None:
    importer, target = folder_of(one.importer), folder_of(one.target)
    if importer == target or (target in LEAVES and importer not in ALONE):
        return None
    row = ROWS.get(importer)
    if row is None:
        return f"src/headwater/{importer} has no row in ROWS: say what it may know"
    if any(below(one.target, f"{PACKAGE}.{allowed}") for allowed in row.may):
        return None
    return BY_TARGET.get(target, row.why)


def _outside(one: Import) -> str | None:
    library = one.target.split(".")[0]
    if folder_of(one.importer) == "protocols" and library not in PROTOCOLS_MAY:
        return f"protocols know neither socket nor clock; {library} is not in PROTOCOLS_MAY"
    who, why = OUTSIDE.get(library, ((PACKAGE,), ""))
    if library not in OUTSIDE or any(below(one.importer, f"{PACKAGE}.{allowed}") for allowed in who):
        return None
    return why


def test_arrows_run_one_way() -> None:
    assert len(all_imports()) > 500
    wrong = [said for one in all_imports() if (said := complaint(one))]
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_folder_has_a_row() -> None:
    found = {folder_of(one.importer) for one in all_imports()} | {""}
    assert found == set(ROWS), "ROWS and the folders of src/headwater differ"


def test_a_row_allows_only_what_is_there() -> None:
    """A folder that was renamed must not leave its permission behind."""
    named = [path for row in ROWS.values() for path in row.may] + [path for who, _ in OUTSIDE.values() for path in who]
    for path in named:
        place = SOURCE / PACKAGE / Path(*path.split("."))
        assert place.is_dir() or place.with_suffix(".py").is_file(), path


@pytest.mark.parametrize(
    ("module", "source", "word"),
    [
        ("headwater.store.writer", "from headwater.live import hub", "never import each other"),
        ("headwater.live.hub", "def f():\n    import headwater.store.query", "never import each other"),
        ("headwater.gateway.mqtt.router", "from headwater.store.query import Query", "can slow down or lose"),
        ("headwater.device.devices", "from headwater.stream.publisher import Publisher", "asked by every stage"),
        ("headwater.ingest.reader", "from headwater.stream.publisher import Publisher", "without an engine"),
        ("headwater.stream.reader", "from headwater.app.settings import Settings", "only place that builds"),
        ("headwater.store.query", "from ..app import settings", "only place that builds"),
        ("headwater.protocols.mqtt.session", "import time", "neither socket nor clock"),
        ("headwater.protocols.mqtt.session", "from headwater.clock import Clock", "bytes in, events out"),
        ("headwater.errors", "from headwater.ids import uuid7", "a circle"),
        ("headwater.tenancy.people", "from litestar import get", "not a framework"),
        ("headwater.unheard", "from headwater.store import query", "has no row"),
        ("headwater.api.telemetry", "from headwater.store.query import Query", None),
    ],
)
def test_a_wrong_arrow_is_told_why(module: str, source: str, word: str | None) -> None:
    said = [complaint(one) for one in imports_of(module, source, SOURCE / Path(*module.split(".")).with_suffix(".py"))]
    if word is None:
        assert said == [None]
    else:
        assert said[0] is not None
        assert word in said[0]
